"""Errors as the user sees them: a sentence for what the user can fix, a log file for a crash."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

from metalearn_cli.core.errors import (
    ConfigError,
    DataError,
    InUseError,
    LostRankError,
    NonFiniteError,
    Stopped,
    UserError,
)

DONE, CRASH, REFUSED, DIVERGED, IN_USE, UNMET, SIGNALLED = 0, 1, 2, 3, 4, 5, 128
"""Exit codes: done, a crash, the user's input, a training that diverged, a run that another process works on, a claim
that the results of an experiment do not meet, a signal.

The number of the signal is added to the last one, as in shells: 130 for Ctrl-C, 143 for SIGTERM.
"""

KINDS = {CRASH: "crashed", REFUSED: "refused", DIVERGED: "diverged", IN_USE: "in use"}
"""The outcome of a command in a word, the worst first."""

_OWN_CODES = {NonFiniteError: DIVERGED, InUseError: IN_USE, LostRankError: CRASH}

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
_FINDING = (errno.EACCES, errno.EPERM, errno.ENOENT)
"""Errors of a disk that the user can fix."""


class Fault(NamedTuple):
    """A problem of the settings with its origin.

    Attributes:
        key: the setting, with its value if the message does not contain it.
        message: what is wrong and what is allowed.
        origin: where the value came from, or "".
        hint: what was probably meant, or "".
    """

    key: str
    message: str
    origin: str = ""
    hint: str = ""


class Failure(NamedTuple):
    """How a command failed.

    Attributes:
        code: its exit code.
        message: why, in one line.
        problems: each thing that the user has to change.
        of_disk: whether a file could not be read or written; the same input may do later.
    """

    code: int
    message: str
    problems: tuple[Fault, ...] = ()
    of_disk: bool = False

    @property
    def kind(self) -> str:
        """Return in a word how it failed: a job of a search that was refused is not tried again."""
        return "failed" if self.of_disk else KINDS.get(self.code, "interrupted")

    def plain(self) -> dict[str, Any]:
        """Return the failure as plain values for --json."""
        problems = [problem._asdict() for problem in self.problems]
        return {"exit_code": self.code, "kind": self.kind, "message": self.message, "problems": problems}


class SettingsError(UserError):
    """The settings of a command are wrong.

    Args:
        stage: the command.
        faults: everything that is wrong with them.
        data: the data set that `mlx data` reads, or "".
    """

    def __init__(self, stage: str, faults: Sequence[Fault], data: str = "") -> None:
        self.stage = stage
        self.data = data if any(fault.key.startswith("data.") for fault in faults) else ""
        self.faults = tuple(dict.fromkeys(faults))
        super().__init__("; ".join(f"{f.key}: {f.message}" if f.key else f.message for f in self.faults))


def explain(error: BaseException) -> Failure:
    """Report an error to the user, on stderr, and return it as a failure."""
    from metalearn_cli.cli import telling

    if isinstance(error, KeyboardInterrupt):
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        telling.error(str(stopped), label="")
        return Failure(SIGNALLED + stopped.number, str(stopped))
    if isinstance(error, ConfigError):
        error = SettingsError("", [Fault(p.key, p.message, hint=p.hint) for p in error.problems])
    if isinstance(error, SettingsError):
        telling.faults(error.stage, error.faults, error.data)
        return Failure(REFUSED, str(error), error.faults)
    text = str(error)
    if isinstance(error, OSError) and error.errno in (*_WRITING, *_FINDING):
        verb = "write to" if error.errno in _WRITING else "read or write"
        text = f"cannot {verb} {error.filename or 'the disk'}: {os.strerror(error.errno).lower()}"
        telling.error(text)
        return Failure(REFUSED, text, (Fault("", text),), of_disk=True)
    if not isinstance(error, UserError):
        from metalearn_cli.cli.crashes import component_of, log_crash

        text = f"{type(error).__name__}: {error}"
        log, last = log_crash(error)
        if component := component_of(error):
            text = f"{component} raised {text}"
            telling.error(f"{text}; full traceback: {log}")
        else:
            lines = ["mlx crashed; this is a bug, not your input", *last, f"full traceback: {log}"]
            telling.error("\n".join(lines))
        return Failure(CRASH, text)
    telling.error(text)
    code = next((code for kind, code in _OWN_CODES.items() if isinstance(error, kind)), REFUSED)
    findings = error.findings if isinstance(error, DataError) else ()
    return Failure(code, text, tuple(Fault(f.where, f.told) for f in findings) or (Fault("", text),))

"""Errors that the user can fix, as opposed to crashes.

A `UserError` is reported as a sentence, without a traceback. The exit code is 2, for a `NonFiniteError` 3 and for an
`InUseError` 4, so that a script can tell what to do next.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

LISTED = 5  # items of a finding that are named in its sentence

NOTE = 25
"""The level of log messages that the user should see, although they are no warnings."""


class Problem(NamedTuple):
    """One thing that is wrong with the settings.

    Attributes:
        key: the setting as the user types it, dotted ("algorithm.inner_lr"); "" if no single setting is the cause.
        message: what is wrong and what is allowed.
        hint: the name ("inner_steps") or the value ("[inductive]") that was probably meant, or "".
    """

    key: str
    message: str
    hint: str = ""


class UserError(Exception):
    """The user's input cannot be used; the text is one sentence that says what to change."""


class ConfigError(UserError):
    """One or more settings are wrong; `problems` lists all of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.key}: {p.message}" if p.key else p.message for p in self.problems))


@contextmanager
def gathered(errors: list[UserError]) -> Iterator[None]:
    """Within a block, keep an error for later, so that other errors are found, too."""
    try:
        yield
    except UserError as error:
        errors.append(error)


def raise_all(errors: Sequence[UserError]) -> None:
    """Raise the gathered errors: one as it is, several as one.

    Raises:
        UserError: if there is any.
    """
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = [e.problems if isinstance(e, ConfigError) else (Problem("", str(e)),) for e in errors]
        raise ConfigError(dict.fromkeys(problem for problems in told for problem in problems))


class NonFiniteError(UserError):
    """A loss or a gradient is not finite; raised before it changes the weights."""


class InUseError(UserError):
    """Another process works on this run."""


class LostRankError(UserError):
    """A process of a training with several ranks has ended, so that the others cannot go on."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop.

    Args:
        number: the number of the signal.
        advice: how to resume, or "".
    """

    def __init__(self, number: int, advice: str = "") -> None:
        self.number = number
        name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{name}; {advice}" if advice else name)


class Finding(NamedTuple):
    """A problem of a data set.

    Attributes:
        blocks: whether it must be fixed before training can start.
        where: the file, split or class.
        what: what is wrong there; `where` and `what` make a sentence.
        items: the names of all that it is about, if they are not in the sentence.
    """

    blocks: bool
    where: str
    what: str
    items: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What is wrong there, with the first of the items."""
        more = f" and {len(self.items) - LISTED} more" if len(self.items) > LISTED else ""
        return f"{self.what}: {'; '.join(self.items[:LISTED])}{more}" if self.items else self.what


class DataError(UserError):
    """A data set cannot be used; `findings` lists all problems, the text the first few.

    Args:
        findings: what was found.
        cure: what to do about it, or "".
        rest: the data set of what can be used, so that a check finds its problems, too; None if nothing can be.
    """

    def __init__(self, findings: Iterable[Finding], cure: str = "", rest: Any = None) -> None:
        self.findings = tuple(findings)
        self.cure = cure
        self.rest = rest
        told = [f"{f.where} {f.told}" for f in self.findings[:3]]
        more = len(self.findings) - len(told)
        told += [f"and {more} more, which `mlx data check` lists"] * bool(more)
        super().__init__("; ".join([*told, *filter(None, [cure])]))

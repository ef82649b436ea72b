"""A run's own log, mlx.log: what the user was told, what was measured, warnings of any library, and what ended the run.

Everything goes through Python's logging, so that a component's own `logging` and `warnings` arrive there, too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.types import Reporter
from metalearn_cli.records.runs import Run, as_json

log = logging.getLogger("metalearn_cli")


@contextmanager
def logging_runs() -> Iterator[None]:
    """For the time of a command, send what is logged and warned of to the logs of the runs that it works on."""
    root, level = logging.getLogger(), log.level
    _files.early.clear()
    root.addHandler(_files)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _log_warning
            yield
    finally:
        log.setLevel(level)
        root.removeHandler(_files)


@contextmanager
def working_on(run: Run) -> Iterator[None]:
    """Within a block that does the work of a run, write its log, and record what ends it; then unlock the folder."""
    path = run.folder / "mlx.log"
    try:
        with _files.writing(path):
            try:
                yield
            except BaseException as error:
                run.fail(error)
                if not hasattr(error, "mlx_log"):  # a stage's log is a part of its chain's
                    known = isinstance(error, KeyboardInterrupt | UserError)
                    log.error("%s: %s", run.info["status"], error, exc_info=not known)
                    error.mlx_log = path  # type: ignore[attr-defined]  # for whoever tells the user
                raise
    finally:
        run.close()


class Logged:
    """A reporter that also logs what it is told.

    Args:
        reporter: told everything in turn.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        """A stage's loop begins at step `start` of `steps`."""
        log.info("%s in %s, from step %d to %d", stage, folder, start, steps)
        self._reporter.start(stage, folder, start, steps)

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._reporter.advance(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values measured after `step` steps."""
        self._reporter.metrics(step, values)

    def note(self, text: str) -> None:
        """One line that the user should see."""
        log.info("%s", text)
        self._reporter.note(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The stage is over; `summary` is its run.json."""
        for result in summary.get("table") or summary.get("results") or [summary["metric"]]:
            log.info("result: %s", as_json(result))
        log.info("%s %s after %.1f s", summary["stage"], summary["status"], summary["seconds"])
        self._reporter.finish(summary)


class _Files(logging.Handler):
    """Writes to the logs of all runs that are being worked on; what comes before the first of them is kept for it."""

    def __init__(self) -> None:
        super().__init__()
        self.early: list[logging.LogRecord] = []
        self._open: list[_File] = []

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within a block, write to one more file."""
        file = _File(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for record in self.early:
            file.handle(record)
        self.early.clear()
        self._open.append(file)
        try:
            yield
        finally:
            self._open.remove(file)
            file.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it; of libraries warnings alone."""
        if record.levelno < logging.WARNING and record.name != log.name:
            return
        for file in self._open:
            file.handle(record)
        if not self._open:
            self.early.append(record)


class _File(logging.FileHandler):
    """A log that a full disk cuts short: what ends the run then is a result that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Give up what cannot be written."""
        with suppress(OSError):
            super().close()


_files = _Files()


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning of Python's, in one line (`warnings.showwarning`)."""
    log.warning("%s (%s, %s line %d)", " ".join(str(message).split()), category.__name__, filename, lineno)

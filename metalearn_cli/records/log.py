"""A run's log, mlx.log: messages to the user, metrics, warnings of all libraries, and the error that ended the run.

Everything goes through Python's logging, so that `logging` and `warnings` in a component reach it, too.
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
    """Within a block, write log records and warnings to the logs of the runs that are worked on."""
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
    """Within a block that does a run's work, write its log and record an error that ends it; then unlock its folder."""
    path = run.folder / "mlx.log"
    try:
        with _files.writing(path):
            try:
                yield
            except BaseException as error:
                run.fail(error)
                if not hasattr(error, "mlx_log"):  # a chain's log contains the logs of its stages
                    known = isinstance(error, KeyboardInterrupt | UserError)
                    log.error("%s: %s", run.info["status"], error, exc_info=not known)
                    error.mlx_log = path  # type: ignore[attr-defined]  # for the message to the user
                raise
    finally:
        run.close()


class Logged:
    """A reporter that also logs everything.

    Args:
        reporter: gets everything next.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        """Log and report the start of a stage, at step `start` of `steps`."""
        if stage == "evaluate":
            log.info("%s in %s, %d episodes to score, those of all normalisations together", stage, folder, steps)
        else:
            log.info("%s in %s, from step %d to %d", stage, folder, start, steps)
        self._reporter.start(stage, folder, start, steps)

    def advance(self, step: int) -> None:
        """Report that `step` steps are done."""
        self._reporter.advance(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Report values measured after `step` steps."""
        self._reporter.metrics(step, values)

    def note(self, text: str) -> None:
        """Log and report a line for the user."""
        log.info("%s", text)
        self._reporter.note(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Log and report the end of a stage; `summary` is its run.json."""
        for result in summary.get("table") or summary.get("results") or [summary["metric"]]:
            log.info("result: %s", as_json(result))
        log.info("%s %s after %.1f s", summary["stage"], summary["status"], summary["seconds"])
        self._reporter.finish(summary)


class _Files(logging.Handler):
    """Writes to the logs of all runs that are worked on; records before the first of them are kept for its log."""

    def __init__(self) -> None:
        super().__init__()
        self.early: list[logging.LogRecord] = []
        self._open: list[_File] = []

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within a block, also write to this file."""
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
        """Write a record, or keep it; of libraries only warnings and errors."""
        if record.levelno < logging.WARNING and record.name != log.name:
            return
        for file in self._open:
            file.handle(record)
        if not self._open:
            self.early.append(record)


class _File(logging.FileHandler):
    """A log that ignores a full disk: the run then ends with the error of its next result file."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error."""

    def close(self) -> None:
        """Close the file, even if its last lines cannot be written."""
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
    """Log a Python warning in one line (`warnings.showwarning`)."""
    log.warning("%s (%s, %s line %d)", " ".join(str(message).split()), category.__name__, filename, lineno)

"""All output to a terminal: tables on stdout, progress and errors on stderr. Only this module uses rich and tqdm.

User text is never read as markup. Without a terminal, progress is plain lines and nothing is wrapped.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tqdm import tqdm  # type: ignore[import-untyped]

from metalearn_cli.cli.errors import Fault
from metalearn_cli.cli.phrases import brief, duration, measured, number, sizes
from metalearn_cli.cli.words import STAGES
from metalearn_cli.core.errors import NOTE
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies.sweep import Job

_UNWRAPPED = 400  # columns without a terminal
_CONTROL = {code: "?" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNWRAPPED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _safe(text: str, stderr: bool = False) -> str:
    """Return a text without terminal codes, in the stream's encoding: names and values may be untrusted."""
    encoding = (sys.stderr if stderr else sys.stdout).encoding or "utf-8"
    return text.translate(_CONTROL).encode(encoding, "backslashreplace").decode(encoding)


def width() -> int:
    """Return the number of columns of stdout."""
    return _console().width


def _draw(console: Console, renderable: Any) -> None:
    """Print without spaces at the ends of lines."""
    with console.capture() as capture:
        console.print(renderable)
    console.file.write("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def say(text: str) -> None:
    """Print a line of the result to stdout."""
    _console().print(_safe(text), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table to stdout.

    Args:
        title: its heading, or "".
        columns: the columns' names; one that starts with "!" is never wrapped.
        rows: its cells.
        right: the right-aligned columns.
    """
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=any(n.lstrip("!") for n in columns))
    if title:
        _console().print(Text(_safe(title), "bold"), soft_wrap=True)
    for name in columns:
        shown = name.lstrip("!")
        drawn.add_column(
            Text(shown), justify="right" if shown in right else "left", no_wrap=name.startswith("!"), overflow="fold"
        )
    for row in rows:
        drawn.add_row(*(Text(_safe(cell)) for cell in row))
    console = _console()
    whole = [
        max(map(cell_len, (name, *cells))) for name, *cells in zip(columns, *rows, strict=True) if name.startswith("!")
    ]
    # no number is cut: on a narrower terminal, which breaks the lines, other columns have one character
    console.width = max(console.width, sum(whole) + 4 * len(columns))
    _draw(console, drawn)
    console.print()


def error(text: str, label: str = "error: ") -> None:
    """Print an error to stderr."""
    _console(stderr=True).print(Text.assemble((label, "bold red"), _safe(text, stderr=True)), soft_wrap=True)


def faults(stage: str, found: Sequence[Fault], data: str = "") -> None:
    """Print the problems of a command's settings to stderr; `data` is the data set that `mlx data` reads, or ""."""
    console = _console(stderr=True)
    number = f"{len(found)} problem{'s' * (len(found) > 1)} in the settings"
    console.print(Text.assemble(("error: ", "bold red"), number, f" of `mlx {stage}`" if stage else ""))
    grid = Table.grid(padding=(0, 2, 0, 2), pad_edge=True)
    for fault in found:
        key, message, origin, hint = (_safe(part, stderr=True) for part in fault)
        origin = f"   (from {origin})" if origin else ""
        hint = f"   did you mean: {hint}" if hint else ""
        text = Text.assemble(message, (origin, "dim"), (hint, "bold"))
        grid.add_row(*[Text(key, overflow="fold")] * any(f.key for f in found), text)
    _draw(console, grid)
    if stage:
        listing = f"{stage} --cfg job" if stage in STAGES else f"ls data {data}".rstrip()
        console.print(f"see all settings: mlx {listing}")


@contextmanager
def reporting() -> Iterator[Progress]:
    """Within a block, yield a reporter, which also shows warnings, those of libraries included."""
    progress = Progress()
    handler = _Warnings(progress)
    log = logging.getLogger("metalearn_cli")
    level = log.level
    log.setLevel(NOTE)
    logging.getLogger().addHandler(handler)
    try:
        yield progress
    finally:
        logging.getLogger().removeHandler(handler)
        log.setLevel(level)
        progress.close()


class Progress:
    """A `core.types.Reporter` on stderr: one bar on a terminal, a line per report elsewhere.

    Attributes:
        folder: the folder of the run that started last, or "".
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self.folder = ""
        self._stage, self._steps, self._began = "", 0, time.monotonic()
        self._latest: dict[str, str] = {}

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        """Start the progress of a stage at step `start` of `steps`."""
        self.close()
        self.folder = folder
        self._stage, self._steps, self._began, self._latest = stage, steps, time.monotonic(), {}
        self.note(f"{stage} -> {folder}")
        if sys.stderr.isatty():
            layout = "{desc} step {n_fmt}/{total_fmt}{postfix}, eta {remaining} |{bar}|"
            self._bar = tqdm(desc=stage, initial=start, total=steps, bar_format=layout, dynamic_ncols=True, leave=False)

    def advance(self, step: int) -> None:
        """Show that `step` steps are done."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show values measured after `step` steps."""
        found = [(n, v) for n, v in values.items() if n != "train/lr" and not n.endswith("_interval")]
        shown = {name.removeprefix("train/").replace("/", " "): number(name, value) for name, value in found}
        if self._bar is not None:
            self._latest |= shown
            text = ", ".join(f"{name} {value}" for name, value in self._latest.items())
            self._bar.set_postfix_str(text.replace("accuracy", "acc"))
        else:
            text = ", ".join(f"{name} {value}" for name, value in shown.items())
            self.note(f"{self._stage} step {step}/{self._steps}, {text} ({duration(time.monotonic() - self._began)})")

    def note(self, text: str) -> None:
        """Print a line for the user: a choice made, a hand-off, a skipped stage."""
        tqdm.write(_safe(text, stderr=True), file=sys.stderr)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Show that the stage is done; `summary` is its run.json."""
        self.close()
        by = f"{learner}, " if (learner := summary["metric"].get("learner")) else ""
        metric = summary["metric"]
        over = f"{sizes(metric)['episodes'] or 'the'} episodes"
        over += f" and {sizes(metric)['trainings']} trainings" * (metric.get("interval_trainings") is not None)
        over = f" (95 % over {over})" * (metric.get("interval") is not None)
        self.note(f"{summary['stage']} done: {by}{measured(summary)}{over} in {duration(summary.get('seconds', 0))}")

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Jobs:
    """A `studies.sweep.Watcher` on stderr: a line when a job begins or ends; on a terminal a table of those that run.

    Args:
        jobs: the jobs of the sweep that are known before it begins.
        live: whether to draw the table.
        latest: returns the last line of a job's progress.
        number: returns how many there are in all; None for those that are known.
    """

    def __init__(
        self, jobs: Sequence[Job], live: bool, latest: Callable[[Job], str], number: Callable[[], int] | None = None
    ) -> None:
        self._numbers = {job.id: place for place, job in enumerate(jobs, start=1)}
        self._number = number or (lambda: len(jobs))
        self._latest, self._drawn = latest, 0.0
        self._counts: Counter[str] = Counter()
        self._began: dict[str, tuple[float, str]] = {}
        self._live = None
        if live and sys.stderr.isatty():
            self._live = Live(console=_console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()

    def began(self, job: Job, place: str) -> None:
        """Say that a job began, in a place."""
        self._began[job.id] = time.monotonic(), place
        self.note(f"{self._name(job)} begins{f' on {place}' if place else ''}")

    def found(self, job: Job) -> None:
        """Say that a job runs already."""
        self._began[job.id] = time.monotonic(), "waited for"
        self.note(f"{self._name(job)} runs already; waiting for it")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Say what came of a job, and how many are left."""
        self._counts[outcome.status] += 1
        began, place = self._began.get(job.id, (None, "earlier"))
        took = "earlier" if began is None else f"after {duration(time.monotonic() - began)}"
        told = measured(outcome.run) if outcome.run else outcome.error
        result = f": {told}" if place else ""  # a job in this process has told it
        left = self._number() - self._counts.total()
        self.note(f"{self._name(job)} {outcome.status} {took}{result} ({left} to come)")

    def note(self, text: str) -> None:
        """Print a line for the user."""
        if self._live is not None:
            self._live.console.print(_safe(text, stderr=True), soft_wrap=True)
        else:
            tqdm.write(_safe(text, stderr=True), file=sys.stderr)

    def look(self, running: Sequence[Job]) -> None:
        """Draw the jobs that run, four times a second."""
        if self._live is None or time.monotonic() - self._drawn < 0.25:
            return
        self._drawn = time.monotonic()
        left = self._number() - self._counts.total() - len(running)
        told = [f"{number} {status}" for status, number in self._counts.items()]
        drawn = Table(box=None, pad_edge=False, title_justify="left", show_header=False)
        drawn.title = Text(", ".join([*told, f"{len(running)} running", f"{left} waiting"]), "bold")
        for job in running:
            began, place = self._began[job.id]
            cells = (self._name(job), place, duration(time.monotonic() - began), self._latest(job))
            drawn.add_row(*(Text(_safe(cell, stderr=True), no_wrap=True, overflow="ellipsis") for cell in cells))
        self._live.update(drawn, refresh=True)

    def close(self) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()

    def _name(self, job: Job) -> str:
        own = "".join(f" {key}={brief(value)}" for key, value in job.settings.items())
        number = self._numbers.setdefault(job.id, len(self._numbers) + 1)
        return f"job {number} of {self._number()}{own}"


class _Warnings(logging.Handler):
    """Shows warnings and notes; errors are reported where they are caught."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self._progress.note(f"warning: {record.getMessage()}")
        elif record.levelno == NOTE:
            self._progress.note(record.getMessage())

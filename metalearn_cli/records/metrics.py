"""The metrics of a run: metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.runs import as_json, flush, naming, write_text
from metalearn_cli.records.shapes import COUNT, MEASURED, misshapen

if TYPE_CHECKING:  # it imports torch
    from metalearn_cli.core.types import Reporter

log = logging.getLogger("metalearn_cli")

TIMES = ("seconds", "items_per_second", "tasks_per_second")
"""Entries of metrics.jsonl that differ between equal runs: seconds since the start (resumes included), and speed."""

_LINE = {"step": COUNT, "*": MEASURED}


class Recorder:
    """Writes metrics to the run folder and reports them.

    A line of metrics.jsonl has the values measured after a step. Two equal runs write equal lines, except for the
    entries in `TIMES`.

    Args:
        folder: the run's folder.
        reporter: gets all values, too.
        start: steps done before; values recorded after them are deleted, because they are measured again. None for a
            run without a checkpoint, of which all values are deleted.
    """

    def __init__(self, folder: Path, reporter: Reporter, start: int | None = None) -> None:
        self._path = folder / "metrics.jsonl"
        self._reporter = reporter
        first = 0 if start is None else start + 1  # the first step after which values are measured anew
        kept = [line for line in read_metrics(folder) if line["step"] < first] if first else []
        write_text(self._path, "".join(as_json(line) + "\n" for line in kept))
        self._fresh: list[Mapping[str, float]] = list(kept)

    def __call__(self, step: int, values: Mapping[str, float], times: Mapping[str, float] | None = None) -> None:
        """Record the values measured after `step` steps, and `times`, entries that `TIMES` names.

        Raises:
            OSError: if the line cannot be written; earlier lines stay complete.
        """
        times = times or {}
        size = self._path.stat().st_size
        try:
            with naming(self._path), self._path.open("a") as file:
                file.write(as_json({"step": step, **times, **values}) + "\n")
        except OSError:
            with suppress(OSError):
                os.truncate(self._path, size)
            raise
        self._fresh.append({"step": step, **times, **values})
        shown = (f"{name} {value:.6g}" for name, value in {**times, **values}.items())
        log.info("step %d: %s", step, ", ".join(shown))
        self._reporter.metrics(step, values)

    def fresh(self) -> list[Mapping[str, float]]:
        """Return the lines since the last call, at first with those that were kept from earlier starts."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def sync(self) -> None:
        """Flush the file to disk, so that metrics are never behind a checkpoint that is saved afterwards."""
        flush(self._path)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl, NaN for null, without an incomplete last line.

    Raises:
        UserError: if it cannot be read, or any other line is damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        texts = path.read_text().splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number < len(texts):
                raise UserError(f"{path} is damaged in line {number}: {error}") from error
            continue
        if wrong := misshapen(values, _LINE).strip():
            raise UserError(f"{path} is damaged in line {number}: {wrong}")
        lines.append({name: math.nan if value is None else value for name, value in values.items()})
    return lines

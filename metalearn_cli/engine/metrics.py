"""What a run measured: metrics.jsonl, TensorBoard events, and intervals of means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from torch import Tensor

from metalearn_cli.core.types import Reporter
from metalearn_cli.engine.runs import write_text


def interval(scores: Tensor) -> tuple[float, float]:
    """Return the mean of per-episode scores [E] and half the width of its 95 % interval (normal approximation)."""
    scores = scores.double()
    return scores.mean().item(), 1.96 * scores.std().item() / math.sqrt(len(scores))


class Recorder:
    """Writes metrics to the run folder and tells the reporter.

    Lines of metrics.jsonl hold nothing but what was measured, so that two equal runs write equal files.

    Args:
        folder: the run's folder.
        reporter: told everything too.
        start: steps that are done already; what was recorded after them is forgotten, to be measured again.
    """

    def __init__(self, folder: Path, reporter: Reporter, start: int = 0) -> None:
        self._path = folder / "metrics.jsonl"
        self._reporter = reporter
        kept = [line for line in read_metrics(folder) if line["step"] <= start] if start else []
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Record what was measured after `step` steps."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        self._reporter.metrics(step, values)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl; a last line that was cut short is left out."""
    path = folder / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines

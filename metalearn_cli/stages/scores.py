"""Scores of single episodes and of single classes: their files, and means with their intervals.

Legend: S trainings, E episodes, Q queries of an episode.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.splits import group_of
from metalearn_cli.engine.evaluation import Outcomes
from metalearn_cli.records import runs
from metalearn_cli.records.calibration import Calibration, calibration_of, temperature_of
from metalearn_cli.records.intervals import by_episodes, by_trainings, over_classes, over_episodes, over_trainings

FILE = "episodes.csv"
CLASSES = "classes.csv"
POOLED, WITHIN = "pooled", "within one group"
"""From which classes those of an episode are drawn: all, or those of one group; named where both are scored."""
PLACES = {POOLED: "", WITHIN: "within"}
"""The folder of each's files in that of the run."""
_SHAPE = ("way", "shots")
TRAININGS = 3
"""Smallest number of trainings for an interval over them: two may agree by chance."""
OF_ONE = ("hardest", "calibration")
"""Entries of a result that hold for a single training."""
INTERVALS = ("interval", "interval_classes", "interval_trainings")
GROUPS = 10
"""With fewer groups of classes, an interval is over classes instead of groups: it would be too wide to be useful."""
HARDEST = 3
"""How many of the hardest classes a result names."""


class ClassScore(NamedTuple):
    """The score of a class over all its queries, or of a task of a regression.

    Attributes:
        name: the class.
        value: the share of its queries that were answered rightly; of a task, the mean squared error.
        interval: the half-width of the 95 % interval over the episodes with this class; None for a single one.
        episodes: in how many it is.
        queries: how many it has in them.
    """

    name: str
    value: float
    interval: float | None
    episodes: int
    queries: int


class Calibrated(NamedTuple):
    """The calibration of a learner before and after a temperature, which is None if none fits; then both are equal."""

    temperature: float | None
    before: Calibration
    after: Calibration

    def told(self, episodes: int) -> dict[str, Any]:
        """Return the entry of run.json; `episodes` are those that the temperature was fitted on."""
        parts = {"before": self.before, "after": self.after}
        measured = {name: {"ece": part.ece, "nll": part.nll} for name, part in parts.items()}
        return {"temperature": self.temperature, "episodes": episodes, **measured}


class Scores(NamedTuple):
    """The scores of an evaluation on each episode.

    Attributes:
        protocols: scores [E], float64, by protocol.
        classes: the names of each episode's classes, or of its one task; () if tasks are generated.
        shots: the labelled items of each of these classes, where they vary; else empty.
        by_class: the scores of each class, hardest first, by protocol; {} where they were read from a file.
        calibration: by protocol; {} where it was not asked for.
    """

    protocols: Mapping[str, Tensor]
    classes: Sequence[tuple[str, ...]]
    shots: Sequence[tuple[int, ...]] = ()
    by_class: Mapping[str, Sequence[ClassScore]] = {}
    calibration: Mapping[str, Calibrated] = {}

    def under(self, protocol: str) -> Tensor:
        """Return the scores [E] under a protocol, or the only ones where there are no batch statistics."""
        return self.protocols[protocol if protocol in self.protocols else "none"]

    def write(self, folder: Path) -> None:
        """Write episodes.csv: a line per episode, its classes, and their shots, separated by semicolons."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["episode", *self.protocols, *(_SHAPE if self.shots else ()), "classes"])
        columns: list[Sequence[Any]] = [values.tolist() for values in self.protocols.values()]
        if self.shots:
            columns += [[len(own) for own in self.shots], [";".join(map(str, own)) for own in self.shots]]
        names = [";".join(name.replace(";", ",") for name in episode) for episode in self.classes]
        writer.writerows([episode, *row] for episode, row in enumerate(zip(*columns, names, strict=True)))
        runs.write_text(folder / FILE, text.getvalue())

    def write_classes(self, folder: Path, metric: str) -> None:
        """Write classes.csv: a line per protocol and class, the hardest first; nothing if tasks are generated."""
        rows = [(protocol, score) for protocol, found in self.by_class.items() for score in found]
        if not rows:
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["normalisation", "class", "group", "episodes", "queries", metric, "half_width"])
        for protocol, (name, value, half, episodes, queries) in rows:
            writer.writerow([protocol, name, group_of(name), episodes, queries, value, "" if half is None else half])
        runs.write_text(folder / CLASSES, text.getvalue())

    @classmethod
    def read(cls, folder: Path, episodes: int) -> Scores:
        """Read episodes.csv.

        Args:
            folder: the run's folder.
            episodes: the number of episodes that it must have.

        Raises:
            UserError: if it is missing or damaged.
        """
        try:
            with (folder / FILE).open(newline="") as file:
                header, *rows = csv.reader(file)
            if len(rows) != episodes:
                raise ValueError(f"it has {len(rows)} episodes, not {episodes}")
            columns = {name: [row[column] for row in rows] for column, name in enumerate(header[1:-1], start=1)}
            shots = [tuple(map(int, own.split(";"))) for own in columns.get("shots", ())]
            values = {name: list(map(float, column)) for name, column in columns.items() if name not in _SHAPE}
            scores = {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}
            return cls(scores, [tuple(row[-1].split(";")) if row[-1] else () for row in rows], shots)
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise UserError(f"{folder / FILE} is missing or damaged ({error})") from error


def scores_of_classes(
    outcomes: Outcomes, classes: Sequence[tuple[str, ...]], higher_is_better: bool
) -> list[ClassScore]:
    """Return the score of each class in some episodes, the hardest first.

    Args:
        outcomes: of a learner in these episodes.
        classes: see `Scores`.
        higher_is_better: whether the score is an accuracy, not an error.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for names, values, queries in zip(classes, outcomes.by_class, outcomes.queries.tolist(), strict=True):
        for name, value in zip(names, values.tolist(), strict=bool(names)):
            found.setdefault(name, []).append((value, queries // len(names)))
    scores = []
    for name, pairs in found.items():
        own, asked = zip(*pairs, strict=True)
        half = over_episodes(torch.tensor(own)) if len(own) > 1 else None
        value = sum(score * count for score, count in pairs) / sum(asked)
        scores.append(ClassScore(name, value, half, len(own), sum(asked)))
    return sorted(scores, key=lambda score: score.value, reverse=not higher_is_better)


def calibrated(fitted: Outcomes, tested: Outcomes) -> Calibrated:
    """Fit a temperature on some episodes, and measure the calibration of others."""
    temperature = temperature_of(fitted.logits, fitted.targets)
    before = calibration_of(tested.logits, tested.targets)
    return Calibrated(temperature, before, calibration_of(tested.logits, tested.targets, temperature or 1.0))


def worst_decile(scores: Tensor, higher_is_better: bool) -> float:
    """Return the mean score of the worst tenth of the episodes, of scores [S, E]; for each training its own tenth."""
    worst = scores.double().topk(math.ceil(scores.shape[1] / 10), largest=not higher_is_better)
    return worst.values.mean().item()


def check_scores(info: Mapping[str, Any], episodes: int) -> None:
    """Check that the scores of a finished evaluation are the ones of its results.

    Args:
        info: its run.json, with its `folder`.
        episodes: how many there must be.

    Raises:
        UserError: if episodes.csv is missing, damaged, or has other scores.
    """
    results = info.get("results") or ()
    for drawn in dict.fromkeys(r.get("drawn", POOLED) for r in results) or (POOLED,):
        own = {r.get("normalisation"): r["value"] for r in results if r.get("drawn", POOLED) == drawn}
        _check_means(Path(info["folder"]) / PLACES[drawn], episodes, own)


def _check_means(folder: Path, episodes: int, recorded: dict[Any, Any]) -> None:
    """Check that the scores in a folder have the recorded means, by protocol.

    Raises:
        UserError: if they have not.
    """
    means = {name: values.mean().item() for name, values in Scores.read(folder, episodes).protocols.items()}
    # run.json has null for a mean that is not finite
    recorded = {name: math.nan if value is None else value for name, value in recorded.items()}
    if means.keys() != recorded.keys() or not np.allclose(
        [*means.values()], [recorded[name] for name in means], rtol=1e-6, atol=1e-6, equal_nan=True
    ):
        raise UserError(f"{folder / FILE} does not have the scores of run.json")


def mean_of(scores: Tensor, classes: Sequence[tuple[str, ...]], folds: int = 1) -> dict[str, Any]:
    """Return the mean of scores, or of differences of scores, with its intervals.

    Args:
        scores: [S, E], of several trainings on the same episodes.
        classes: see `Scores`.
        folds: of cross-validation over classes, whose episodes, equally many, follow each other; intervals then do not
            contain the differences between folds, because every fold is there.

    Returns:
        `value`; the half-widths of its 95 % intervals: `interval` over episodes, `interval_classes` over classes or
        groups of classes, or tasks (None without any, or with too few episodes), `interval_trainings` (None for
        fewer than 3); and `over`, the number of each, such as {"episodes": 1000, "classes": 112, "trainings": 1}.
    """
    trainings, episodes = scores.shape
    mean = scores.double().mean(0)
    parts = scores.double().chunk(folds, dim=1)
    within = torch.cat([part - part.mean() for part in parts], dim=1) if folds > 1 else scores
    unit, units = _units(classes)
    members = {name for episode in units for name in episode}
    return {
        "value": mean.mean().item(),
        "interval": over_episodes(within.double().mean(0)),
        "interval_classes": over_classes(mean, units, folds) if members else None,
        "interval_trainings": over_trainings(within) if trainings >= TRAININGS else None,
        "over": {"episodes": episodes, **({unit: len(members)} if members else {}), "trainings": trainings},
    }


def gain_of(gains: Tensor, classes: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Return the mean gain of one side of a comparison in pairs.

    Args:
        gains: [S, E], how much better the one side is than the other in each episode, for each training.
        classes: see `Scores`.

    Returns:
        `gain` with its intervals, see `mean_of`; `half_width`, the interval that decides, and whether it is over
        episodes and trainings, `crossed`, or over episodes only; `over`; and `p`, likewise.
    """
    mean, crossed = mean_of(gains, classes), len(gains) >= TRAININGS
    spread = by_trainings(gains) if crossed else by_episodes(gains.mean(0))
    return {
        "gain": mean["value"],
        **{f"gain_{name}": mean[name] for name in INTERVALS},
        "half_width": spread.half,
        "crossed": crossed,
        "over": mean["over"],
        "p": spread.chance(mean["value"]),
    }


def _units(classes: Sequence[tuple[str, ...]]) -> tuple[str, Sequence[tuple[str, ...]]]:
    """Return, for each episode, the names for an interval over classes: groups if there are enough, else classes.

    An episode of a regression has one name, that of its task.
    """
    groups = [tuple(group_of(name) for name in episode) for episode in classes]
    found = {group for episode in groups for group in episode}
    if len(found) >= GROUPS and "" not in found:
        return "groups", groups
    return "tasks" if classes and len(classes[0]) == 1 else "classes", classes

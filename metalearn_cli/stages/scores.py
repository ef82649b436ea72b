"""Scores of single episodes: their file, and the mean with its intervals.

Legend: S trainings, E episodes.
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
from metalearn_cli.records import runs
from metalearn_cli.records.intervals import over_classes, over_episodes, over_trainings

FILE = "episodes.csv"
_SHAPE = ("way", "shots")
TRAININGS = 3
"""Smallest number of trainings for an interval over them: two may agree by chance."""
INTERVALS = ("interval", "interval_classes", "interval_trainings")
GROUPS = 10
"""With fewer groups of classes, an interval is over classes instead of groups: it would be too wide to be useful."""


class Scores(NamedTuple):
    """The scores of an evaluation on each episode.

    Attributes:
        protocols: scores [E], float64, by protocol.
        classes: the names of each episode's classes, or of its one task; () if tasks are generated.
        shots: the labelled items of each of these classes, where they vary; else empty.
    """

    protocols: Mapping[str, Tensor]
    classes: Sequence[tuple[str, ...]]
    shots: Sequence[tuple[int, ...]] = ()

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


def check_scores(info: Mapping[str, Any], episodes: int) -> None:
    """Check that the scores of a finished evaluation are the ones of its results.

    Args:
        info: its run.json, with its `folder`.
        episodes: how many there must be.

    Raises:
        UserError: if episodes.csv is missing, damaged, or has other scores.
    """
    folder = Path(info["folder"])
    scores = Scores.read(folder, episodes).protocols
    means = {name: values.mean().item() for name, values in scores.items()}
    recorded = {r.get("normalisation"): r["value"] for r in info.get("results") or ()}
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


def _units(classes: Sequence[tuple[str, ...]]) -> tuple[str, Sequence[tuple[str, ...]]]:
    """Return, for each episode, the names for an interval over classes: groups if there are enough, else classes.

    An episode of a regression has one name, that of its task.
    """
    groups = [tuple(group_of(name) for name in episode) for episode in classes]
    found = {group for episode in groups for group in episode}
    if len(found) >= GROUPS and "" not in found:
        return "groups", groups
    return "tasks" if classes and len(classes[0]) == 1 else "classes", classes

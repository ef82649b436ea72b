"""What validation episodes say of a learner's answers: how sure they are, and which items are of no class at all.

Legend: W classes of an episode, U further classes, whose items are unknown to the learner.
"""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import each
from metalearn_cli.core.types import Dataset
from metalearn_cli.deploy.enrolled import answered, distances, embedded, enrol
from metalearn_cli.deploy.trained import Trained, learner_of
from metalearn_cli.records.calibration import temperature_of

QUERY = 10  # queries of each class


class Calibration(NamedTuple):
    """What validation episodes have shown.

    Attributes:
        temperature: what logits are divided by, so that probabilities are as often right as they say.
        threshold: the distance beyond which an item is taken for unknown; None without further classes to try it on.
        keep: the share of items of the W classes that are within it.
        let_through: the share of items of the U other classes that are within it, too.
        way: W.
        shot: examples of each class.
        episodes: how many.
    """

    temperature: float
    threshold: float | None
    keep: float
    let_through: float | None
    way: int
    shot: int
    episodes: int


def calibrated(trained: Trained, data: Dataset, way: int, shot: int, episodes: int, keep: float) -> Calibration:
    """Answer validation episodes of so many classes, with items of other classes among the queries.

    Args:
        trained: the learner.
        data: the data that it was trained on.
        way: W; fewer if there are no more validation classes.
        shot: examples of each class; fewer if validation classes have no more.
        episodes: how many.
        keep: the share of known items that are to stay known, in (0, 1).

    Raises:
        UserError: if the data has no validation classes for such episodes.
    """
    if "val" not in data.splits:
        raise UserError(f"{data.name} has no validation classes")
    classes, fewest = len(data.splits["val"].names), int(data.splits["val"].counts.min())
    way, shot = min(way, classes), min(shot, fewest - 1)
    every, query = min(2 * way, classes), min(QUERY, fewest - shot)
    sampler = data.episodes("val", way=every, shot=shot, query=query, seed=0)
    logits, targets, known, unknown = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    learner, backbone = learner_of(trained, way)
    for step in range(episodes):
        one = sampler.batch(step, 1).map(itemgetter(0))
        of_classes, among = one.support_y < way, one.query_y < way
        support_x = each(partial(_where, of_classes), one.support_x)
        enrolled = enrol(learner, backbone, support_x, one.support_y[of_classes], trained.statistics)
        z = embedded(learner, enrolled.encoder, one.query_x)
        logits.append(answered(enrolled, z[among]))
        targets.append(one.query_y[among])
        far = distances(enrolled, z)
        known.append(far[among])
        unknown.append(far[~among])
    others = torch.cat(unknown)
    threshold = float(torch.cat(known).quantile(keep)) if len(others) else None
    let_through = None if threshold is None else float((others <= threshold).float().mean())
    return Calibration(temperature_of(logits, targets) or 1.0, threshold, keep, let_through, way, shot, episodes)


def _where(mask: Tensor, part: Tensor) -> Tensor:
    return part[mask]


def told(found: Calibration) -> str:
    """Return a line on a calibration, for the user."""
    own = f"{counted(found.way, 'class')} with {counted(found.shot, 'example')} each"
    numbers = f"{counted(found.episodes, 'validation episode')} of {own}"
    line = f"temperature {found.temperature:.3g}, fitted on {numbers}"
    if found.threshold is None or found.let_through is None:
        return line
    kept = f"within a distance of {found.threshold:.3g} are {100 * found.keep:.0f} % of the items of these classes"
    return f"{line}; {kept}, and {100 * found.let_through:.0f} % of the items of other ones"


def of_record(record: Any) -> Calibration | None:
    """Return a calibration from its record in JSON; None if there is none."""
    return Calibration(**{key: record.get(key) for key in Calibration._fields}) if record else None

"""95 % intervals of mean scores: over episodes, over classes, or over trainings.

The mean score of a learner varies with the episodes of the same classes (`over_episodes`), with the classes
(`over_classes`), and with the seed of the training (`over_trainings`). Each interval covers only its own variation. All
are half-widths; with differences as scores, they are intervals of gains.

Legend: S trainings, E episodes, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.records.student import student, student_t


class Spread(NamedTuple):
    """How far a mean may be from the truth.

    Attributes:
        error: its standard error.
        freedom: degrees of freedom of Student's t, >= 1.
    """

    error: float
    freedom: float

    @property
    def half(self) -> float:
        """The half-width of the 95 % interval."""
        return student_t(self.freedom) * self.error

    def chance(self, mean: float) -> float:
        """Return p: how probable it is that a mean is at least so far from 0 if the truth is 0."""
        if self.error == 0:
            return float(mean == 0)
        t = abs(mean) / self.error
        if self.freedom > 1e4:
            return math.erfc(t / math.sqrt(2))
        angle, within = student(self.freedom)
        return float(1 - np.interp(math.atan(t / math.sqrt(self.freedom)), angle, within))


def holm(chances: Sequence[float]) -> list[float]:
    """Return p-values that are adjusted for their number.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    Examples:
        >>> holm([0.03, 0.01, 0.04])
        [0.06, 0.03, 0.06]
    """
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda index: chances[index])):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = highest
    return adjusted


def over_episodes(scores: Tensor) -> float:
    """Return the half-width, over episodes, of the mean of scores [E]; E >= 2."""
    return by_episodes(scores).half


def over_items(right: Sequence[float]) -> float:
    """Return the half-width, over items, of the share of items that are right.

    With two right and two wrong ones added, as Agresti & Coull 1998 have it, it holds for few items, and is not 0 where
    all are right.

    Args:
        right: 1 or 0 for each item, of which there is one or more.
    """
    share = (sum(right) + 2) / (len(right) + 4)
    return NormalDist().inv_cdf(0.975) * math.sqrt(share * (1 - share) / (len(right) + 4))


def by_episodes(scores: Tensor) -> Spread:
    """Return the spread, over episodes, of the mean of scores [E]; E >= 2."""
    return Spread(scores.double().std().item() / math.sqrt(len(scores)), len(scores) - 1)


def over_classes(scores: Tensor, classes: Sequence[Sequence[str]], folds: int = 1) -> float | None:
    """Return the half-width, over classes and episodes, of the mean of scores.

    Within a fold, it is a jackknife: for each class, how much the mean changes without the episodes that have this
    class. The part of this change that is due to fewer episodes, not to the class, is subtracted, and the variance over
    episodes is added once. Folds share no classes, so that their variances add. Student's t has one degree of freedom
    less than there are classes or episodes, whichever are fewer, for each fold.

    It is never narrower than the interval over episodes: if classes seem to differ less than chance makes them, their
    own part of the variance is 0, and that of the episodes remains.

    Args:
        scores: [E], E >= 2 for each fold.
        classes: names of the classes of each episode; or of their groups (alphabets, speakers), for an interval over
            groups.
        folds: of cross-validation over classes, whose episodes, equally many, follow each other.

    Returns:
        None if the episodes are not enough: if all episodes of a fold, or all but one, have the same class.

    Source: Efron & Stein 1981, "The jackknife estimate of variance".
    """
    size = len(scores) // folds
    parts = [slice(i * size, (i + 1) * size) for i in range(folds)]
    found = [_class_variance(scores[part], classes[part]) for part in parts]
    variances = [own for own in found if own is not None]
    if len(variances) < folds:
        return None
    freedom = sum(own for _, own in variances)
    return student_t(freedom) * math.sqrt(sum(variance for variance, _ in variances)) / folds


def _class_variance(scores: Tensor, classes: Sequence[Sequence[str]]) -> tuple[float, int] | None:
    """Return the jackknife variance of the mean of scores [E], and degrees of freedom; see `over_classes`."""
    names = sorted({name for episode in classes for name in episode})
    index = {name: k for k, name in enumerate(names)}
    absent = np.ones((len(scores), len(names)), dtype=bool)
    for row, episode in enumerate(classes):
        absent[row, [index[name] for name in episode]] = False
    left = absent.sum(0)
    if len(names) < 2 or left.min() < 2:
        return None
    score_E = scores.double().numpy()
    without_K = score_E @ absent / left
    weight_EK = absent / left - 1 / len(score_E)  # the part of each episode in the difference from the mean of all
    chance = ((score_E - score_E.mean())[:, None] * weight_EK) ** 2
    by_class = (len(names) - 1) / len(names) * (((without_K - without_K.mean()) ** 2).sum() - chance.sum())
    by_episode = score_E.var(ddof=1) / len(score_E)
    return max(by_class, 0.0) + by_episode, min(len(names), len(score_E)) - 1


def over_trainings(scores: Tensor) -> float:
    """Return the half-width, over trainings and episodes, of the mean of scores [S, E]; S, E >= 2."""
    return by_trainings(scores).half


def by_trainings(scores: Tensor) -> Spread:
    """Return the spread, over trainings and episodes, of the mean of scores [S, E]; S, E >= 2.

    Every training is scored on the same episodes, so the two are crossed: the variance is that of a two-way layout
    without repetition, with Satterthwaite's degrees of freedom. A part of it, that of trainings or of episodes, whose
    estimate is negative is 0, so that the spread is never smaller than that over the episodes alone.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    scores = scores.double()
    trainings, episodes = scores.shape
    by_training, by_episode = scores.mean(1, keepdim=True), scores.mean(0, keepdim=True)
    rest = scores - by_training - by_episode + scores.mean()
    freedom = torch.tensor([trainings - 1, episodes - 1, (trainings - 1) * (episodes - 1)], dtype=torch.float64)
    squares = torch.stack(
        [episodes * by_training.var(), trainings * by_episode.var(), rest.square().sum() / freedom[2]]
    )
    variance = (squares[2] + (squares[:2] - squares[2]).clamp(min=0).sum()).item()
    if variance == 0:
        return Spread(0.0, 1.0)
    degrees = variance**2 / (squares.square() / freedom).sum().item()
    return Spread(math.sqrt(variance / (trainings * episodes)), max(degrees, 1.0))

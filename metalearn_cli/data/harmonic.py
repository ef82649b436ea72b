"""Sums of two sine waves: regression tasks that differ more than those of `sinusoid`.

Legend: T tasks, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metalearn_cli.data.common.curves import Curves, between, normal

DOMAIN = (-4.0, 4.0)
FREQUENCY = (5.0, 7.0)
PHASE = (0.0, 2 * math.pi)


def harmonic() -> Curves:
    """Regression tasks y = a sin(w x + b) + c sin(2 w x + d), generated for every episode; there are no stored items.

    The amplitudes a and c are standard normal, the frequency w is uniform in [5, 7], the phases b and d in [0, 2 pi]. A
    task sees only a part of its curve: x is normal around the task's own mean, which is uniform in [-4, 4], with
    standard deviation 1. A task has no classes, so `way` is 1, `shot` is the number of labelled points and `query` that
    of points to predict. Splits differ in their random streams.

    Source: Lacoste et al. 2018, https://arxiv.org/abs/1806.07528, with the ranges of torchmeta's toy data.
    """
    return Curves("harmonic", "two waves", _points, 6, f"harmonic {DOMAIN} {FREQUENCY} {PHASE}")


def _points(task: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    middle, frequency, b, d, a, c = task[..., None].unbind(1)
    x = between(*DOMAIN, middle) + normal(point)
    angle = between(*FREQUENCY, frequency) * x
    first = normal(a) * torch.sin(angle + between(*PHASE, b))
    return x, first + normal(c) * torch.sin(2 * angle + between(*PHASE, d))

"""Sine curves: the regression tasks of MAML's paper.

Legend: T tasks, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metalearn_cli.data.common.curves import Curves, between

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
X = (-5.0, 5.0)


def sinusoid() -> Curves:
    """Regression tasks y = amplitude * sin(x - phase), generated for every episode; there are no stored items.

    Amplitude, phase and x are uniform in [0.1, 5], [0, pi] and [-5, 5]. A task has no classes, so `way` is 1, `shot`
    is the number of labelled points and `query` that of points to predict. Splits differ in their random streams.

    Source: Finn et al. 2017, section 5.1.
    """
    return Curves("sinusoid", "maml", _points, 2, f"{AMPLITUDE} {PHASE} {X}")


def _points(task: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    amplitude, phase = (between(*range_, task[:, k, None]) for k, range_ in enumerate((AMPLITUDE, PHASE)))
    x = between(*X, point)
    return x, amplitude * torch.sin(x - phase)

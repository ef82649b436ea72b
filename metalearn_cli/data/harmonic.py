"""Sums of two sine waves: regression tasks that differ more than those of `sinusoid`.

Legend: T tasks, P points.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.errors import Finding
from metalearn_cli.data.common.curves import FACTS, LIMITS, CurveSampler, between, normal
from metalearn_cli.data.common.splits import Split

DOMAIN = (-4.0, 4.0)
FREQUENCY = (5.0, 7.0)
PHASE = (0.0, 2 * math.pi)


class Harmonic:
    """Regression tasks y = a sin(w x + b) + c sin(2 w x + d), generated for every episode; there are no stored items.

    The amplitudes a and c are standard normal, the frequency w is uniform in [5, 7], the phases b and d in [0, 2 pi]. A
    task sees only a part of its curve: x is normal around the task's own mean, which is uniform in [-4, 4], with
    standard deviation 1. A task has no classes, so `way` is 1, `shot` is the number of labelled points and `query` that
    of points to predict. Splits differ in their random streams.

    Source: Lacoste et al. 2018, https://arxiv.org/abs/1806.07528, with the ranges of torchmeta's toy data.
    """

    name = "harmonic"
    protocol = "two waves"
    facts = FACTS
    limits = LIMITS

    def __init__(self) -> None:
        self.splits: Mapping[str, Split] = {}
        self.preprocessing: Mapping[str, Any] = {}
        self.findings: tuple[Finding, ...] = ()
        self.fingerprint = hashlib.sha256(f"harmonic {DOMAIN} {FREQUENCY} {PHASE}".encode()).hexdigest()
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Harmonic:
        """Return the same tasks on `device`."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> CurveSampler:
        """Return the stream of tasks with `shot` labelled points and `query` points to predict; see `CurveSampler`."""
        return CurveSampler(self.name, _points, 6, split, way, shot, query, seed, self._device)


def _points(task: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    middle, frequency, b, d, a, c = task[..., None].unbind(1)
    x = between(*DOMAIN, middle) + normal(point)
    angle = between(*FREQUENCY, frequency) * x
    first = normal(a) * torch.sin(angle + between(*PHASE, b))
    return x, first + normal(c) * torch.sin(2 * angle + between(*PHASE, d))

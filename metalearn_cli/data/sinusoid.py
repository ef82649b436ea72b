"""Sine curves: the regression tasks of MAML's paper.

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
from metalearn_cli.data.common.curves import FACTS, LIMITS, CurveSampler, between
from metalearn_cli.data.common.splits import Split

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
X = (-5.0, 5.0)


class Sinusoid:
    """Regression tasks y = amplitude * sin(x - phase), generated for every episode; there are no stored items.

    Amplitude, phase and x are uniform in [0.1, 5], [0, pi] and [-5, 5]. A task has no classes, so `way` is 1, `shot`
    is the number of labelled points and `query` that of points to predict. Splits differ in their random streams.

    Source: Finn et al. 2017, section 5.1.
    """

    name = "sinusoid"
    protocol = "maml"
    facts = FACTS
    limits = LIMITS

    def __init__(self) -> None:
        self.splits: Mapping[str, Split] = {}
        self.preprocessing: Mapping[str, Any] = {}
        self.findings: tuple[Finding, ...] = ()
        self.about: Mapping[str, Any] = {}
        self.fingerprint = hashlib.sha256(f"{AMPLITUDE} {PHASE} {X}".encode()).hexdigest()
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Sinusoid:
        """Return the same tasks on `device`."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> CurveSampler:
        """Return the stream of tasks with `shot` labelled points and `query` points to predict; see `CurveSampler`."""
        return CurveSampler(self.name, _points, 2, split, way, shot, query, seed, self._device)


def _points(task: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    amplitude, phase = (between(*range_, task[:, k, None]) for k, range_ in enumerate((AMPLITUDE, PHASE)))
    x = between(*X, point)
    return x, amplitude * torch.sin(x - phase)

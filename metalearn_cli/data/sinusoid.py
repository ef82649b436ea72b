"""Sine curves: the regression tasks of MAML's paper.

Legend: T tasks, S support items, Q query items.
"""

from __future__ import annotations

import copy
import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Finding, UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.types import Episode, Limits
from metalearn_cli.data.common.dataset import at_least_one, generator, one_way
from metalearn_cli.data.common.splits import SPLITS, Split

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
    facts = Facts("vector", shape=(1,), values="real", classes=0, outputs=1)

    def __init__(self) -> None:
        self.splits: Mapping[str, Split] = {}
        self.preprocessing: Mapping[str, Any] = {}
        self.findings: tuple[Finding, ...] = ()
        self.about: Mapping[str, Any] = {}
        self.fingerprint = hashlib.sha256(f"{AMPLITUDE} {PHASE} {X}".encode()).hexdigest()
        self.limits = Limits(way=1, items=sys.maxsize)
        self._device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Sinusoid:
        """Return the same tasks on `device`."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        return moved

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> SinusoidSampler:
        """Return the stream of tasks with `shot` labelled points and `query` points to predict.

        Raises:
            ConfigError: if way is not 1, or shot or query not positive.
            UserError: if there is no such split.
        """
        if split not in SPLITS:
            raise UserError(f"data {self.name} has no split {split!r}; it has {', '.join(SPLITS)}")
        if problems := at_least_one(shot, query) + one_way(self.name, way):
            raise ConfigError(problems)
        return SinusoidSampler(split, shot, query, seed, self._device)


@dataclass(eq=False)
class SinusoidSampler:
    """A stream of tasks, a function of (seed, split, step); see `Sinusoid.episodes`."""

    split: str
    shot: int
    query: int
    seed: int
    device: torch.device
    way: int = field(default=1, init=False)
    regression: bool = field(default=True, init=False)

    def batch(self, step: int, tasks: int) -> Episode:
        """Return the `tasks` episodes of meta-batch `step`; the first ones stay the same if `tasks` grows.

        Returns:
            support_x and support_y [T, S, 1] float32 with S = shot; query_x and query_y [T, Q, 1] with Q = query.
        """
        drawn = self._draw(step, tasks).to(self.device)
        amplitude, phase = (_within(range_, drawn[:, k, None]) for k, range_ in enumerate((AMPLITUDE, PHASE)))
        x = _within(X, drawn[:, 2:])
        y = amplitude * torch.sin(x - phase)
        x, y = x[..., None], y[..., None]
        return Episode(x[:, : self.shot], y[:, : self.shot], x[:, self.shot :], y[:, self.shot :])

    def classes(self, episodes: int) -> list[tuple[str, ...]]:
        """Return () for each of the first `episodes` tasks: they have no classes."""
        return [()] * episodes

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of what determines the first `episodes` one-task batches."""
        state = hashlib.sha256(f"{self.shot} {self.query}".encode())
        for step in range(episodes):
            state.update(self._draw(step, 1).numpy().tobytes())
        return state.hexdigest()

    def _draw(self, step: int, tasks: int) -> Tensor:
        source = generator(self.seed, "episodes", self.split, step)
        return torch.rand(tasks, 2 + self.shot + self.query, generator=source)


def _within(range_: tuple[float, float], uniform: Tensor) -> Tensor:
    return range_[0] + (range_[1] - range_[0]) * uniform

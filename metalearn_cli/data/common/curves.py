"""Regression tasks that are curves: a number for each number, drawn for every episode.

Legend: T tasks, U uniform numbers of a task, P points, S support points, Q query points.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Finding, Problem, UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.types import ALL, Episode, Limits
from metalearn_cli.data.common.dataset import at_least_one, generator, one_way
from metalearn_cli.data.common.splits import SPLITS, Split

FACTS = Facts("vector", shape=(1,), values="real", classes=0, outputs=1)
CPU = torch.device("cpu")
LIMITS = Limits(way=1, items=sys.maxsize)

Curve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes points of curves: from uniform numbers [T, U] of each task and [T, P] of its points to x and y [T, P]."""


def between(low: float, high: float, uniform: Tensor) -> Tensor:
    """Return numbers that are uniform from `low` to `high`, from numbers that are uniform from 0 to 1."""
    return low + (high - low) * uniform


def normal(uniform: Tensor) -> Tensor:
    """Return standard normal numbers, from numbers that are uniform from 0 to 1."""
    # not torch.randn: its first numbers depend on how many are drawn; 0 would become infinite
    return torch.special.ndtri(uniform.clamp(min=2**-25))


@dataclass(frozen=True, eq=False)
class Curves:
    """A data set of regression tasks that are generated for every episode; there are no stored items.

    A task has no classes, so `way` is 1, `shot` is the number of labelled points and `query` that of points to predict.
    Splits differ in their random streams.

    Attributes:
        name: of the data set.
        protocol: how tasks are drawn.
        curve: what makes the points.
        numbers: U of the curve.
        ranges: text of what the tasks depend on, whose hash is the fingerprint.
        device: where episodes are.
    """

    name: str
    protocol: str
    curve: Curve
    numbers: int
    ranges: str
    device: torch.device = CPU
    facts: ClassVar[Facts] = FACTS
    limits: ClassVar[Limits] = LIMITS
    splits: ClassVar[Mapping[str, Split]] = {}
    preprocessing: ClassVar[Mapping[str, Any]] = {}
    about: ClassVar[Mapping[str, Any]] = {}
    findings: ClassVar[tuple[Finding, ...]] = ()
    whole: ClassVar[str] = ""

    @property
    def fingerprint(self) -> str:
        """The hash of what the tasks depend on."""
        return hashlib.sha256(self.ranges.encode()).hexdigest()

    def to(self, device: torch.device | str) -> Curves:
        """Return the same tasks on `device`."""
        return replace(self, device=torch.device(device))

    def fold(self, k: int, of: int) -> Curves:
        """Refuse.

        Raises:
            ConfigError: as there are no classes or items to deal.
        """
        told = f"{self.name} draws new tasks for every episode, so that there is nothing to deal into folds"
        raise ConfigError([Problem("data.fold", told)])

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> CurveSampler:
        """Return the stream of tasks with `shot` labelled points and `query` points to predict; see `CurveSampler`."""
        return CurveSampler(self.name, self.curve, self.numbers, split, way, shot, query, seed, self.device)


@dataclass(eq=False)
class CurveSampler:
    """A stream of tasks, a function of (seed, split, step); a task has no classes, so `way` is 1.

    Attributes:
        name: of the data set.
        curve: what makes the points.
        numbers: U of the curve.
        split: its name; splits differ in their random streams.
        way: 1.
        shot: labelled points S of a task.
        query: points to predict Q of a task.
        seed: seed of the stream.
        device: where episodes are.

    Raises:
        ConfigError: if way is not 1, or shot or query not positive.
        UserError: if there is no such split.
    """

    name: str
    curve: Curve
    numbers: int
    split: str
    way: int
    shot: int
    query: int
    seed: int
    device: torch.device
    regression: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"data {self.name} has no split {self.split!r}; it has {', '.join(SPLITS)}")
        if problems := at_least_one(self.shot, self.query) + one_way(self.name, self.way):
            raise ConfigError(problems)

    def batch(self, step: int, tasks: int, share: slice = ALL) -> Episode:
        """Return a share of the `tasks` episodes of meta-batch `step`; the first ones stay the same if `tasks` grows.

        Returns:
            support_x and support_y [T, S, 1] float32 with S = shot; query_x and query_y [T, Q, 1] with Q = query.
        """
        drawn = self._draw(step, tasks)[share].to(self.device)
        x, y = (part[..., None] for part in self.curve(drawn[:, : self.numbers], drawn[:, self.numbers :]))
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
        return torch.rand(tasks, self.numbers + self.shot + self.query, generator=source)

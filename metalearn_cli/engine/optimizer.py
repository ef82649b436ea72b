"""Optimizers and their schedules: a test of their settings, and those that train.

torch loads its compiler, which takes a second, with the first optimizer, although nothing is compiled. So settings are
tested on an optimizer that does not load it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.build import LIMITS, Spec, bind, blamed_on, build
from metalearn_cli.core.check import mismatch, shown
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.importing import importing
from metalearn_cli.core.network import Params


def try_optimizer(optimizer: Spec, scheduler: Spec) -> None:
    """Test settings with one step of a small tensor: torch checks few of them before it computes.

    Raises:
        ConfigError: with the problems in the settings of optimizer or schedule.
    """
    if wrong := mismatch(optimizer.get("lr"), LIMITS["optimizer"]["lr"]):
        raise ConfigError([Problem("optimizer.lr", wrong)])
    toy = torch.zeros(2, 2, requires_grad=True)
    toy.grad = torch.ones_like(toy)
    constructor = _constructor(optimizer, [toy])
    with blamed_on(optimizer, "optimizer"):
        trial = _without_compiler(constructor.func)(**constructor.keywords)
    schedule = build(scheduler, "scheduler", optimizer=trial)
    with blamed_on(optimizer, "optimizer"), torch.no_grad():
        trial.step()
    with blamed_on(scheduler, "scheduler"):
        schedule.step()


def make_optimizer(
    optimizer: Spec, scheduler: Spec, params: Params, rates: Mapping[str, float]
) -> tuple[Optimizer, LRScheduler]:
    """Build optimizer and scheduler of the tensors that learn, each with its own rate; the others need no gradients.

    Args:
        optimizer: settings that passed `try_optimizer`.
        scheduler: likewise.
        params: all tensors.
        rates: learning-rate multiplier of each tensor that learns.
    """
    for name, tensor in params.items():
        tensor.requires_grad_(name in rates)
    groups = [
        {"params": [params[n] for n, r in rates.items() if r == rate], "lr": optimizer["lr"] * rate}
        for rate in sorted(set(rates.values()))
    ]
    with importing():  # the compiler
        made = _constructor(optimizer, groups)()
    return made, build(scheduler, "scheduler", optimizer=made)


def take_up(optimizer: Optimizer, scheduler: LRScheduler, memory: dict[int, Any], step: int) -> None:
    """Restore optimizer and scheduler after `step` steps; learning rates come from the settings, which may be new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch requires an optimizer step before each step of the scheduler
        for _ in range(step):
            scheduler.step()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})


def misfit(optimizer: Optimizer, memory: Any) -> str:
    """Return why a state does not fit this optimizer, or ""; torch's kernels do not check shapes."""
    groups = [
        {**group, "params": [torch.zeros_like(p, requires_grad=True) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    kind: Any = type(optimizer)
    twin: Optimizer = kind(groups)
    for p in (p for group in groups for p in group["params"]):
        p.grad = torch.zeros_like(p)
    twin.step()
    wanted = twin.state_dict()["state"]
    for index, entries in memory.items():
        if index not in wanted:
            return f"the optimizer's state has {shown(index)}, which is not the index of a tensor"
        if not isinstance(entries, dict):
            return f"the optimizer's state of tensor {index} must be an object, got {shown(entries)}"
        for name, value in wanted[index].items() if entries else ():  # empty before the first step
            if _form(entries.get(name)) != _form(value):
                return f"the optimizer's {name} of tensor {index} is missing or of another shape"
    return ""


def _form(value: Any) -> Any:
    return (value.shape, value.is_floating_point()) if isinstance(value, torch.Tensor) else type(value)


def _constructor(optimizer: Spec, params: Sequence[Any]) -> partial[Optimizer]:
    # one kernel for all tensors, if the optimizer has it and the config does not choose another
    return bind(optimizer, "optimizer", params=params, fused=None if optimizer.get("foreach") else True)


class _Plain(Optimizer):
    """Adds a group of tensors without torch's own method, which would load the compiler."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.param_groups.append({**self.defaults, **param_group})


def _without_compiler(kind: Any) -> Any:
    """Return an optimizer's class with the same constructor and step, which do not load the compiler."""
    return type(kind.__name__, (kind, _Plain), {"step": inspect.unwrap(kind.step)})

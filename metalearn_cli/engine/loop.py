"""The one training loop; stages differ in their batches and in their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from metalearn_cli.core.config import Every
from metalearn_cli.core.errors import Stopped
from metalearn_cli.core.metric import Metric
from metalearn_cli.core.network import Params
from metalearn_cli.core.random import derive_seed
from metalearn_cli.engine.runtime import one_core
from metalearn_cli.engine.signals import first_signal
from metalearn_cli.engine.stepper import Stepper

Batch = Any  # what a stage's `gradients` takes: a pair of tensors, a dict of them, an `Episode`


@dataclass(frozen=True)
class Job:
    """What a stage trains on what.

    Attributes:
        params: all tensors, freshly initialised, constants too; those of the backbone are named "backbone.*".
        rates: learning-rate multiplier of each tensor that learns.
        batches: the batch of a step, a function of the step alone.
        gradients: (params, batch, step) -> metrics [], "loss" among them; gives the tensors that learn their gradients.
        evaluate: validation metrics of the tensors, under the name of `metric` and others.
        metric: the one that selects the best checkpoint.
        model: what a checkpoint says of itself, enough to build the network again.
        data: name, protocol and fingerprint of the data.
        teacher: what runs record of a second checkpoint that is learnt from, see `Checkpoint.parent_entry`; or None.
        buffers: names of tensors that `gradients` writes, such as running statistics.
        follow: (params, share of training done) -> tensors that follow others after each step.
        merged: (params) -> the tensors as a checkpoint hands them on.
        begin: told the tensors that training starts from, those of `init_from` among them, also where a run resumes;
            None where nothing needs them.
        pictures: writes the stage's own pictures into a folder, given trained tensors.
        notes: what the user should see of how the stage computes.
        learns_from: what a step learns from, "items" or "tasks", and how many of them.
    """

    params: Params
    rates: dict[str, float]
    batches: Callable[[int], Batch]
    gradients: Callable[[Params, Batch, int], Mapping[str, Tensor]]
    evaluate: Callable[[Params], dict[str, float]]
    metric: Metric
    model: dict[str, Any]
    data: dict[str, Any]
    teacher: dict[str, Any] | None = None
    buffers: tuple[str, ...] = ()
    follow: Callable[[Params, float], Params] = lambda params, progress: {}
    merged: Callable[[Params], Params] = lambda params: params
    begin: Callable[[Params], None] | None = None
    pictures: Callable[[Params, Path], None] = lambda params, folder: None
    notes: tuple[str, ...] = ()
    learns_from: tuple[str, int] = ("items", 0)


@dataclass(frozen=True)
class Plan:
    """From where to where a loop goes, and when it does what is not training.

    Attributes:
        start: steps that are done already.
        steps: steps that shall be done at the end.
        every: how often to log, evaluate and save.
        seed: of everything random inside a step.
        stop_on: signals that stop the loop, besides SIGINT and SIGTERM.
    """

    start: int
    steps: int
    every: Every
    seed: int
    stop_on: Sequence[str] = ()


class RunLog(Protocol):
    """Where a loop reports to."""

    def advance(self, done: int) -> None:
        """`done` steps are done."""

    def measured(self, done: int, values: Mapping[str, float]) -> None:
        """Values were measured after `done` steps."""

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint, with the validation metrics if there are any."""

    def exhausted(self, done: int) -> bool:
        """Whether training shall end early, after `done` steps."""


class Ahead:
    """The batches of a training, each drawn while the one before is learnt from: it may have to come from a disk.

    Args:
        batches: the batch of a step, a function of the step alone.
        steps: where training ends; no later batch is drawn unasked.
    """

    def __init__(self, batches: Callable[[int], Batch], steps: int) -> None:
        self._batches, self._steps = batches, steps
        self._drawing = ThreadPoolExecutor(1, "mlx-data", one_core)
        self._drawn: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        batch = (self._drawn.pop(step, None) or self._drawing.submit(self._batches, step)).result()
        if step + 1 < self._steps:
            self._drawn[step + 1] = self._drawing.submit(self._batches, step + 1)
        return batch

    def close(self) -> None:
        """Draw no more."""
        self._drawing.shutdown(cancel_futures=True)


def fit(job: Job, stepper: Stepper, plan: Plan, log: RunLog) -> None:
    """Train.

    Step i is a function of (params, optimizer state, seed, i): a run that stops and resumes equals one that does not.

    Raises:
        NonFiniteError: if a loss or a gradient is not finite too often, see `Stepper`.
        Stopped: after a signal, once the current step is done and saved; after a second one, at once.
    """
    asked: list[int] = []
    with first_signal(plan.stop_on, asked.append):
        for step in range(plan.start, plan.steps):
            if log.exhausted(step):
                break
            torch.manual_seed(derive_seed(plan.seed, "step", step))
            gradients = partial(job.gradients, job.params, job.batches(step), step)
            stepper.take(gradients, f"at step {step + 1} of {plan.steps}")
            done = step + 1
            with torch.no_grad():  # after a step that was left out there is nothing new to follow
                followed = {} if stepper.memory.in_a_row else job.follow(job.params, done / plan.steps)
                for name, tensor in followed.items():
                    job.params[name].copy_(tensor)

            last = done == plan.steps
            log.advance(done)
            if last or done % plan.every.log == 0:
                log.measured(done, stepper.metrics())
            stop = bool(asked)  # read once: what is stopped is saved
            scores: dict[str, float] = {}
            if last or done % plan.every.evaluate == 0:
                scores = job.evaluate(job.params)
                log.measured(done, scores)
            if scores or stop or done % plan.every.save == 0:
                log.save(done, scores)
            if stop and not last:
                raise Stopped(asked[0])

"""The training loop of all stages, which differ in their batches and in their loss."""

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
from metalearn_cli.core.random import derive_seed, seed_torch
from metalearn_cli.engine.runtime import one_core
from metalearn_cli.engine.signals import first_signal
from metalearn_cli.engine.stepper import Stepper

Batch = Any  # the batch of a stage's `gradients`: a pair of tensors, a dict of them, an `Episode`


@dataclass(frozen=True)
class Job:
    """The training of a stage: tensors, batches, loss and validation.

    Attributes:
        params: all initial tensors, with constants; those of the backbone are named "backbone.*".
        rates: learning-rate multiplier of each tensor that learns.
        batches: the batch of a step, a function of only the step.
        gradients: (params, batch, step) -> metrics [], with "loss"; sets the gradients of the tensors that learn.
        evaluate: validation metrics of the tensors, `metric` and others.
        metric: the one that selects the best checkpoint.
        model: facts for a checkpoint's manifest, enough to rebuild the network.
        data: name, protocol and fingerprint of the data.
        teacher: what runs record of the teacher's checkpoint, see `Checkpoint.parent_entry`; or None.
        buffers: names of tensors that `gradients` writes, such as running statistics.
        follow: (params, fraction of training done) -> tensors that follow others after each step.
        merged: (params) -> the tensors that a checkpoint hands on.
        begin: called with the tensors at the start of training, with those of `init_from`, also when a run resumes;
            None if nothing needs them.
        pictures: writes the stage's own plots into a folder, given trained tensors.
        notes: lines for the user on how the stage computes.
        on_features: (params) -> the same job on features of the data, which are computed once from the tensors that
            training starts or resumes with; None if the backbone learns, or its features depend on more than an item.
        learns_from: what a step learns from, "items" or "tasks", and how many of them.
        keeps_start: whether random initial tensors make no sense, see `core.types.Method`.
        normalisation: the protocol of batch statistics under which `evaluate` scores; "none" where there are none.
        baseline: whether the initial tensors are scored and saved, too, and handed on if training gives nothing better.
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
    on_features: Callable[[Params], Job] | None = None
    learns_from: tuple[str, int] = ("items", 0)
    normalisation: str = "none"
    keeps_start: bool = False
    baseline: bool = False


@dataclass(frozen=True)
class Plan:
    """First and last step of a loop, and when it logs, evaluates and saves.

    Attributes:
        start: steps done before.
        steps: steps done at the end.
        every: how often to log, evaluate and save.
        seed: seed of everything random inside a step.
        stop_on: signals that stop the loop, besides SIGINT and SIGTERM.
        baseline: whether to evaluate and save before the first step.
    """

    start: int
    steps: int
    every: Every
    seed: int
    stop_on: Sequence[str] = ()
    baseline: bool = False


class RunLog(Protocol):
    """Where a loop reports to."""

    def advance(self, done: int) -> None:
        """`done` steps are done."""

    def measured(self, done: int, values: Mapping[str, float]) -> None:
        """Values were measured after `done` steps."""

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint, with the validation metrics if there are any."""

    def exhausted(self, done: int) -> bool:
        """Whether training ends early, after `done` steps."""


class Ahead:
    """The batches of a training, each drawn during the step before, because reading from a disk may take time.

    Args:
        batches: the batch of a step, a function of only the step.
        steps: the last step; later batches are not drawn in advance.
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
        """Stop drawing."""
        self._drawing.shutdown(cancel_futures=True)


def fit(job: Job, stepper: Stepper, plan: Plan, log: RunLog) -> None:
    """Train.

    Step i is a function of (params, optimizer state, seed, i): a run that stops and resumes equals one that does not.

    Raises:
        NonFiniteError: if losses or gradients are not finite too often, see `Stepper`.
        Stopped: after a signal, when the current step is done and saved; after a second one, at once.
    """
    ranks = stepper.runtime.ranks
    own = (ranks.rank,) * (ranks.rank > 0)  # other items need other random numbers
    asked: list[int] = []
    with first_signal(plan.stop_on, asked.append):
        if plan.baseline:
            scores = job.evaluate(job.params)
            log.measured(plan.start, scores)
            log.save(plan.start, scores)
        for step in range(plan.start, plan.steps):
            if log.exhausted(step):
                break
            seed_torch(derive_seed(plan.seed, "step", step, *own))
            gradients = partial(job.gradients, job.params, job.batches(step), step)
            told = stepper.take(gradients, f"at step {step + 1} of {plan.steps}", asked[0] if asked else 0)
            done = step + 1
            with torch.no_grad():  # after a skipped step there is nothing new to follow
                followed = {} if stepper.memory.in_a_row else job.follow(job.params, done / plan.steps)
                for name, tensor in followed.items():
                    job.params[name].copy_(tensor)

            last = done == plan.steps
            log.advance(done)
            if last or done % plan.every.log == 0:
                log.measured(done, stepper.metrics())
            if ranks.world == 1:  # several ranks must agree: they hear of a signal in the message of a step
                told = asked[0] if asked else 0
            stop = told  # read once, so that a loop that stops also saves
            scores = {}
            if last or done % plan.every.evaluate == 0:
                scores = job.evaluate(job.params)
                log.measured(done, scores)
            if scores or stop or done % plan.every.save == 0:
                log.save(done, scores)
            if stop and not last:
                raise Stopped(stop)

"""The one training loop; stages differ in their batches and in their loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.config import Every
from metalearn_cli.core.errors import NonFiniteError, Stopped
from metalearn_cli.core.random import derive_seed
from metalearn_cli.core.types import Params
from metalearn_cli.engine.runtime import Runtime, one_core
from metalearn_cli.engine.signals import first_signal

Gradients = Callable[[Params, Any], Mapping[str, Tensor]]
"""Adds the gradient of a batch's loss to the leaves, and returns metrics [] to log, "loss" among them."""

log = logging.getLogger("metalearn_cli")


@dataclass
class Memory:
    """What the loop keeps in mind from one step to the next, besides tensors; part of every checkpoint.

    Attributes:
        window: metrics of the steps since the last log line.
        skipped: steps left out, because a loss or a gradient was not finite.
        in_a_row: how many of them immediately before the next step.
    """

    window: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    in_a_row: int = 0


class Ahead:
    """The batches of a training, each drawn while the one before is learnt from: it may have to come from a disk.

    Args:
        batches: the batch of a step, a function of the step alone.
        steps: where training ends; no later batch is drawn unasked.
    """

    def __init__(self, batches: Callable[[int], Any], steps: int) -> None:
        self._batches, self._steps = batches, steps
        self._drawing = ThreadPoolExecutor(1, "mlx-data", one_core)
        self._drawn: dict[int, Future[Any]] = {}

    def __call__(self, step: int) -> Any:
        """Return the batch of a step."""
        batch = (self._drawn.pop(step, None) or self._drawing.submit(self._batches, step)).result()
        if step + 1 < self._steps:
            self._drawn[step + 1] = self._drawing.submit(self._batches, step + 1)
        return batch

    def close(self) -> None:
        """Draw no more."""
        self._drawing.shutdown(cancel_futures=True)


def fit(
    *,
    runtime: Runtime,
    params: Params,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Callable[[int], Any],
    gradients: Gradients,
    evaluate: Callable[[Params], dict[str, float]],
    every: Every,
    seed: int,
    start: int,
    steps: int,
    memory: Memory,
    skips: int,
    exhausted: Callable[[int], bool],
    save: Callable[[int, dict[str, float]], None],
    record: Callable[[int, Mapping[str, float]], None],
    advance: Callable[[int], None],
) -> None:
    """Train from step `start` to step `steps`.

    Step i is a function of (params, optimizer state, seed, i): a run that stops and goes on equals one that does not.

    Args:
        runtime: device and precision.
        params: all tensors; those that the optimizer holds learn.
        optimizer: as it comes from torch.
        scheduler: stepped once per optimizer step.
        batches: the batch of a step.
        gradients: gives the leaves their gradients.
        evaluate: validation metrics of the tensors.
        every: how often to log, evaluate and save.
        seed: of everything random inside a step.
        start: steps that are done already.
        steps: steps that shall be done at the end.
        memory: fresh at the start of a run; kept up to date.
        skips: steps in a row that may be left out because a loss or a gradient is not finite.
        exhausted: whether training shall end early, after so many steps.
        save: writes a checkpoint, given (step, validation metrics).
        record: takes the metrics of a step.
        advance: told after every step.

    Raises:
        NonFiniteError: if a loss or a gradient is not finite once more than `skips` allows; the weights are still those
            of the last good step.
        Stopped: after a signal, once the current step is done and saved; after a second one, at once.
    """
    stepper = runtime.setup(optimizer)
    asked: list[int] = []
    window = memory.window
    with first_signal(runtime.stop_on, asked.append):
        for step in range(start, steps):
            if exhausted(step):
                break
            torch.manual_seed(derive_seed(seed, "step", step))
            optimizer.zero_grad(set_to_none=True)
            try:
                with runtime.watched():
                    metrics = gradients(params, batches(step))
                # in one look, as each would wait for all that the device has to do
                *numbers, norm = torch.stack([*metrics.values(), runtime.gradient_norm(params)]).tolist()
                values = dict(zip(metrics, numbers, strict=True))
                if not math.isfinite(values["loss"]):
                    raise NonFiniteError(f"the loss became {values['loss']:g}")
                if not math.isfinite(norm):
                    raise NonFiniteError(runtime.overflow(params))
                stepper.step()
                memory.in_a_row = 0
                window.append(values)
            except NonFiniteError as error:
                _skip(memory, skips, f"{error} at step {step + 1} of {steps}")
            lr = optimizer.param_groups[-1]["lr"]
            scheduler.step()

            done = step + 1
            advance(done)
            if done % every.log == 0 or done == steps:
                means = {f"train/{name}": _mean(window, name) for name in (window[0] if window else ())}
                record(done, means | {"train/lr": lr} | ({"train/skipped": memory.skipped} if memory.skipped else {}))
                window.clear()
            stop = bool(asked)  # read once: what is stopped is saved
            scores: dict[str, float] = {}
            if done % every.evaluate == 0 or done == steps:
                scores = evaluate(params)
                record(done, scores)
            if scores or stop or done % every.save == 0:
                save(done, scores)
            if stop and done < steps:
                raise Stopped(asked[0])


def _skip(memory: Memory, skips: int, what: str) -> None:
    """Leave a step out, or end the run if that are too many."""
    memory.skipped += 1
    memory.in_a_row += 1
    if memory.in_a_row > skips:
        after = f", after {skips} steps left out in a row" if skips else ""
        cure = "A lower learning rate is the usual cure (optimizer.lr, or algorithm.inner_lr)"
        raise NonFiniteError(f"{what}{after}; nothing was updated. {cure}")
    log.warning("%s: the step is left out (%d in a row, %d in all)", what, memory.in_a_row, memory.skipped)


def _mean(window: list[dict[str, float]], name: str) -> float:
    return sum(values[name] for values in window) / len(window)

"""The one training loop; stages differ in their batches and in their loss."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.config import Every
from metalearn_cli.core.errors import NonFiniteError
from metalearn_cli.core.random import derive_seed
from metalearn_cli.core.types import Params
from metalearn_cli.engine.runtime import Runtime

Gradients = Callable[[Params, Any], Mapping[str, Tensor]]
"""Adds the gradient of a batch's loss to the leaves, and returns metrics [] to log, "loss" among them."""


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
    window: list[dict[str, float]],
    save: Callable[[int, list[dict[str, float]], dict[str, float]], None],
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
        window: metrics of the steps since the last log line; empty at the start of a run.
        save: writes a checkpoint, given (step, window, validation metrics).
        record: takes the metrics of a step.
        advance: told after every step.

    Raises:
        NonFiniteError: if a loss or a gradient is not finite; the weights are still those of the last good step.
        KeyboardInterrupt: after SIGINT, once the current step is done and saved.
    """
    stepper = runtime.setup(optimizer)
    with _interruptible() as interrupted:
        for step in range(start, steps):
            torch.manual_seed(derive_seed(seed, "step", step))
            optimizer.zero_grad(set_to_none=True)
            metrics = gradients(params, batches(step))
            values = {name: value.item() for name, value in metrics.items()}
            if not math.isfinite(values["loss"]):
                raise _diverged(f"the loss became {values['loss']:g}", step, steps)
            if runtime.overflowed(params):
                raise _diverged("a gradient is not finite", step, steps)
            stepper.step()
            lr = optimizer.param_groups[-1]["lr"]
            scheduler.step()

            done = step + 1
            window.append(values)
            advance(done)
            if done % every.log == 0 or done == steps:
                record(done, {f"train/{name}": _mean(window, name) for name in window[0]} | {"train/lr": lr})
                window.clear()
            stop = bool(interrupted)  # asked once: what is stopped is saved
            scores: dict[str, float] = {}
            if done % every.evaluate == 0 or done == steps:
                scores = evaluate(params)
                record(done, scores)
            if scores or stop or done % every.save == 0:
                save(done, window, scores)
            if stop and done < steps:
                raise KeyboardInterrupt


def _diverged(what: str, step: int, steps: int) -> NonFiniteError:
    cure = "A lower learning rate is the usual cure (optimizer.lr, or algorithm.inner_lr)"
    return NonFiniteError(f"{what} at step {step + 1} of {steps}; nothing was updated. {cure}")


def _mean(window: list[dict[str, float]], name: str) -> float:
    return sum(values[name] for values in window) / len(window)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect the first SIGINT in a list, so that a step can be finished and saved; a second one acts at once."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, remember)
    except ValueError:  # not in the main thread: whoever runs us handles signals
        yield received
        return
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)

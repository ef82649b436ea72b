"""One optimizer step, and the state from one step to the next."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.errors import NonFiniteError
from metalearn_cli.core.network import Params
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.shards import Shards

_SIGNALS = 65
"""One more than the largest number of a signal."""

log = logging.getLogger("metalearn_cli")


@dataclass
class Memory:
    """The state from one step to the next, besides tensors; part of every checkpoint.

    Attributes:
        window: metrics of the steps since the last log line.
        skipped: number of skipped steps, whose loss or gradient was not finite.
        in_a_row: number of skipped steps immediately before the next step.
    """

    window: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    in_a_row: int = 0


class Stepper:
    """Takes optimizer steps, each only if loss and gradient are finite.

    Args:
        runtime: device and precision.
        params: all tensors; those in the optimizer learn.
        optimizer: an optimizer of torch.
        scheduler: stepped once per optimizer step.
        skips: most steps in a row that are skipped because a loss or a gradient is not finite.
        buffers: names of tensors that computing a loss writes; they are restored when a step is skipped.
        number: how many tasks or items a step learns from, of which each rank has its share.

    Attributes:
        memory: the state of the steps so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        params: Params,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        skips: int = 0,
        buffers: Sequence[str] = (),
        number: int = 1,
    ) -> None:
        self.runtime = runtime
        self.params = params
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.memory = Memory()
        self._skips, self._buffers, self._number = skips, buffers, number
        self._stepping = runtime.setup(optimizer)
        self._shards: Shards | None = None

    def share(self) -> None:
        """Divide the optimizer's state among the ranks, which must be connected, if the settings say so."""
        if self.runtime.config.shard and self.runtime.ranks.world > 1:
            self._shards = Shards(self.runtime.ranks, self.optimizer)

    def state(self) -> dict[int, Any]:
        """Return the optimizer's state by the index of a tensor; all ranks call it, and rank 0 gets it."""
        state: dict[int, Any] = self._shards.state() if self._shards else self.optimizer.state_dict()["state"]
        return state

    def take(self, gradients: Callable[[], Mapping[str, Tensor]], where: str, signal: int = 0) -> int:
        """Take a step.

        All ranks take the same step, or none does: what is judged is the mean over ranks.

        Args:
            gradients: called without arguments; sets the gradients of the tensors that learn and returns metrics [],
                with "loss".
            where: the step in messages ("at step 3 of 100").
            signal: the number of the signal that this rank has got, 0 for none.

        Returns:
            The number of a signal that any rank has got.

        Raises:
            NonFiniteError: if more than `skips` losses or gradients in a row are not finite; the weights are those of
                the last good step.
        """
        self.optimizer.zero_grad(set_to_none=True)
        before = {name: self.params[name].clone() for name in self._buffers}
        told = 0
        try:
            with self.runtime.watched():
                metrics = gradients()
            if self.runtime.ranks.world > 1:
                metrics, told = self._over_ranks(metrics, signal)
            # in one read, because each read waits for the device
            *numbers, norm = torch.stack([*metrics.values(), self.runtime.gradient_norm(self.params)]).tolist()
            values = dict(zip(metrics, numbers, strict=True))
            if not math.isfinite(values["loss"]):
                raise NonFiniteError(f"the loss became {values['loss']:g}")
            if not math.isfinite(norm):
                raise NonFiniteError(self.runtime.overflow(self.params))
            if self._shards:
                self._shards.drop()
            self._stepping.step()
            if self._shards:
                self._shards.exchange()
            self.memory.in_a_row = 0
            self.memory.window.append(values)
        except NonFiniteError as error:
            for name, buffer in before.items():
                self.params[name].copy_(buffer)
            self._skip(f"{error} {where}")
        self._rate = self.optimizer.param_groups[-1]["lr"]
        if not self.memory.in_a_row:
            self.scheduler.step()
            return told
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants an optimizer step before the scheduler's first
            self.scheduler.step()
        return told

    def _over_ranks(self, metrics: Mapping[str, Tensor], signal: int) -> tuple[Mapping[str, Tensor], int]:
        """Replace gradients by their means over ranks; return those of metrics, and a signal, see `take`.

        All of it is one message, because each costs as much time as many numbers do.
        """
        ranks = self.runtime.ranks
        gradients = [p.grad for p in self.params.values() if p.grad is not None]
        signals = torch.zeros(_SIGNALS, device=self.runtime.device)
        signals[signal] = 1.0
        found = ranks.add([*gradients, *metrics.values(), signals], ranks.weight(self._number))
        for gradient, mean in zip(gradients, found, strict=False):
            gradient.copy_(mean)
        told = int(found.pop().nonzero().max())
        return dict(zip(metrics, found[len(gradients) :], strict=True)), told

    def metrics(self) -> dict[str, float]:
        """Return the means of the steps' metrics since the last call, with the last step's learning rate."""
        window, skipped = self.memory.window, self.memory.skipped
        means = {f"train/{name}": sum(v[name] for v in window) / len(window) for name in (window[0] if window else ())}
        window.clear()
        return means | {"train/lr": self._rate} | ({"train/skipped": skipped} if skipped else {})

    def _skip(self, what: str) -> None:
        """Skip a step, or stop the run if there are too many."""
        memory = self.memory
        memory.skipped += 1
        memory.in_a_row += 1
        if memory.in_a_row > self._skips:
            after = f", after {self._skips} skipped steps in a row" if self._skips else ""
            cure = "A lower learning rate usually helps (optimizer.lr; for MAML also algorithm.inner_lr)"
            if memory.skipped - 1 == self.scheduler.last_epoch:  # all steps so far
                cure = "No step was taken before: look at the data (mlx data check), the settings and runtime.precision"
            raise NonFiniteError(f"{what}{after}; nothing was updated. {cure}")
        log.warning("%s: the step is skipped (%d in a row, %d in all)", what, memory.in_a_row, memory.skipped)

"""An optimizer whose state is divided among ranks: each keeps that of its own tensors, and takes their steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from metalearn_cli.engine.ranks import Ranks


class Shards:
    """Divides the tensors of an optimizer among ranks, so that all have about as many elements.

    Torch's optimizers skip a tensor without a gradient, and make its state in its first step. So a rank drops the
    gradients of the others' tensors, takes its step, and then all send each other what they have computed. The numbers
    are those of an optimizer that is not divided.

    Args:
        ranks: this rank and how many there are.
        optimizer: the optimizer; what it has of the state of others' tensors is dropped.
    """

    def __init__(self, ranks: Ranks, optimizer: Optimizer) -> None:
        self._ranks, self._optimizer = ranks, optimizer
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        self._parts: list[list[Tensor]] = [[] for _ in range(ranks.world)]
        for p in sorted(tensors, key=Tensor.numel, reverse=True):
            min(self._parts, key=lambda part: sum(map(Tensor.numel, part))).append(p)
        self._others = [p for rank, part in enumerate(self._parts) if rank != ranks.rank for p in part]
        for p in self._others:
            optimizer.state.pop(p, None)

    def drop(self) -> None:
        """Drop the gradients of others' tensors, before a step."""
        for p in self._others:
            p.grad = None

    def exchange(self) -> None:
        """Take over what the others have computed in a step."""
        with torch.no_grad():
            for rank, part in enumerate(self._parts):
                for p, new in zip(part, self._ranks.sent(part, rank), strict=True):
                    p.copy_(new)

    def state(self) -> dict[int, Any]:
        """Return the state of all tensors, as the optimizer's own `state_dict` has it, on rank 0; all ranks call it."""
        own: dict[int, Any] = self._optimizer.state_dict()["state"]
        merged: dict[int, Any] = {}
        for part in self._ranks.collected(own):
            merged |= part
        return dict(sorted(merged.items()))

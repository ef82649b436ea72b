"""Reptile: Nichol, Achiam & Schulman 2018, https://arxiv.org/abs/1803.02999, Algorithm 1.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class Reptile:
    """Move the initial weights towards those that adaptation ends at.

    Args:
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode, >= 1; with one step this is joint training on all tasks.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True, surrogate=True)

    def __init__(self, inner_lr: Annotated[float, Above(0)] = 0.1, inner_steps: Annotated[int, Range(1)] = 5) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        return descend(loss, net.params, self.inner_lr, self.inner_steps, first_order=True)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the query loss, whose gradient by a tensor is made to be (tensor - adapted tensor), and the logits."""
        with torch.no_grad():
            state = self.adapt(net, own, episode.support_x, episode.support_y, way)
            logits = self.predict(net, own, state, episode.query_x)
            loss = task_loss(logits, episode.query_y)
        for name, p in net.params.items():
            loss = loss + ((p - p.detach()) * (p - state[name]).detach()).sum()
        return EpisodeOutput(loss, logits)

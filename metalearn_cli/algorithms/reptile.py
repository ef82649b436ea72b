"""Reptile: Nichol, Achiam & Schulman 2018, https://arxiv.org/abs/1803.02999, Algorithm 2.

Meta-training adapts the weights to a task by gradient descent, and then moves the initial weights a part of the way
towards the adapted ones. No query items are needed for this, and nothing is differentiated through the adaptation.

The paper's outer step of size epsilon is that of `optimizer=sgd` with lr epsilon, without momentum and weight decay.
Adaptation is by plain gradient descent, where the paper's experiments use Adam without momentum.

Legend: S support items, Q query items, W ways, O outputs of a regression, K items of a batch.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.items import Items, each
from metalearn_cli.core.learning import descend, task_loss, with_gradient
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class Reptile:
    """Move the initial weights towards those that adaptation ends at.

    Args:
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode in training, >= 1; with one this is joint training on all tasks.
        inner_batch: support items of a step in training, >= 1; all of them if there are no more. A batch has equally
            many of each class, as far as possible, and all items have their turn before one comes again.
        test_steps: adaptation steps per episode in validation and evaluation, >= 1; each on the whole support set.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True, surrogate=True)

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.1,
        inner_steps: Annotated[int, Range(1)] = 5,
        inner_batch: Annotated[int, Range(1)] = 10,
        test_steps: Annotated[int, Range(1)] = 20,
    ) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.inner_batch = inner_batch
        self.test_steps = test_steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""
        return self._step(net, net.params, x, y, self.test_steps)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the query loss, whose gradient by a tensor is made to be (tensor - adapted tensor), and the logits."""
        x, y = episode.support_x, episode.support_y
        if not y.is_floating_point():  # the support set in an order in which classes take turns
            y, order = y.sort(stable=True)
            x = each(lambda part: part[order], x)
        batches = -(-len(y) // self.inner_batch)
        with torch.no_grad():
            fast = net.params
            for step in range(self.inner_steps):
                part = slice(step % batches, None, batches)
                fast = self._step(net, fast, each(lambda p, part=part: p[part], x), y[part])
            logits = net.output(fast, episode.query_x)
        moved = {name: p - fast[name] for name, p in net.params.items()}
        return EpisodeOutput(with_gradient(task_loss(logits, episode.query_y), net.params, moved), logits)

    def _step(self, net: Network, start: Params, x: Items, y: Tensor, steps: int = 1) -> Params:
        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        return descend(loss, start, self.inner_lr, steps, first_order=True)

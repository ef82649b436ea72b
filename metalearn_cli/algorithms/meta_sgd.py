"""Meta-SGD: Li, Zhou, Chen & Li 2017, https://arxiv.org/abs/1707.09835, Algorithm 1.

Meta-training learns the initial weights and, for every single weight, the step size of its adaptation. A new task is
then learnt in one gradient step, whose direction and length are learnt too.

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
from metalearn_cli.core.types import State, Traits


class MetaSgd:
    """MAML with a learnt step size for every weight (equation 2).

    Args:
        low: smallest of the step sizes that training starts from, > 0; 0.005 in the paper, which trains for longer.
        high: largest of them, at least `low`; 0.1 in the paper.
        inner_steps: adaptation steps per episode, >= 1; the paper takes one.

    Raises:
        ValueError: if `high` is below `low`.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True)

    def __init__(
        self,
        low: Annotated[float, Above(0)] = 0.1,
        high: Annotated[float, Above(0)] = 0.5,
        inner_steps: Annotated[int, Range(1)] = 1,
    ) -> None:
        if high < low:
            raise ValueError(f"high must be at least low ({low}), got {high}")
        self.low = low
        self.high = high
        self.inner_steps = inner_steps

    def init(self, net: Network, way: int) -> Params:
        """Return a step size (alpha in the paper) for every weight, drawn uniformly between `low` and `high`."""
        return {name: self.low + (self.high - self.low) * torch.rand_like(p) for name, p in net.params.items()}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        return descend(loss, net.params, own, self.inner_steps)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

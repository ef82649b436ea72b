"""Meta-SGD: Li, Zhou, Chen & Li 2017, https://arxiv.org/abs/1707.09835, Algorithm 1.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class MetaSgd:
    """One adaptation step, whose size is learnt for every single weight (equation 2).

    Args:
        low: smallest of the step sizes that training starts from, > 0.
        high: largest of them, > 0.
        rate: learning rate of the step sizes relative to the weights' own, > 0.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True)

    def __init__(
        self,
        low: Annotated[float, Above(0)] = 0.005,
        high: Annotated[float, Above(0)] = 0.1,
        rate: Annotated[float, Above(0)] = 1.0,
    ) -> None:
        self.low = low
        self.high = high
        self.rate = rate

    def init(self, net: Network, way: int) -> Params:
        """Return a step size (alpha) for every weight, drawn uniformly between `low` and `high`."""
        return {name: self.low + (self.high - self.low) * torch.rand_like(p) for name, p in net.params.items()}

    def rates(self, own: Params) -> dict[str, float]:
        """Return the learning rates of the step sizes."""
        return dict.fromkeys(own, self.rate)

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after one step on items x [S, ...] with targets y [S] or [S, O]."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        slope = gradient(loss, net.params)
        return {name: p - own[name] * slope[name] for name, p in net.params.items()}

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

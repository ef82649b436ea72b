"""A learner with tensors of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State


class Scaled(ProtoNet):
    """Prototypes of features that are scaled one by one; how much, it learns.

    Args:
        rate: learning-rate multiplier of the scale; 0 leaves it as it is drawn.
    """

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def init(self, net: Network, way: int) -> Params:
        return {"scale": torch.rand(net.out_dim) + 0.5}

    def rates(self, own: Params) -> dict[str, float]:
        return {"scale": self.rate} if self.rate else {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        return super().adapt(net, own, x * own["scale"], y, way)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return super().predict(net, own, state, x * own["scale"])

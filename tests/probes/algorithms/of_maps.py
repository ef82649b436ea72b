"""A learner that compares maps."""

from __future__ import annotations

from torch import Tensor

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State


class OfMaps(ProtoNet):
    """Prototypes of maps [C, H, W]."""

    traits = ProtoNet.traits._replace(sees="maps")

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        assert x.shape[1:] == net.maps_shape
        return super().adapt(net, own, x.flatten(1), y, way)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return super().predict(net, own, state, x.flatten(1))

"""A learner whose answers depend on the other queries."""

from __future__ import annotations

from torch import Tensor

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State


class Together(ProtoNet):
    """Moves the queries' mean to that of the prototypes before it compares."""

    traits = ProtoNet.traits._replace(uses_queries=True)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return super().predict(net, own, state, x - x.mean(0) + state["prototypes"].mean(0))

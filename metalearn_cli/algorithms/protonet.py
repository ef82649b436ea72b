"""Prototypical networks: Snell, Swersky & Zemel 2017, https://arxiv.org/abs/1703.05175, equations 1 and 2.

The support items of a class are averaged to one point in feature space, its prototype, and a query belongs to the class
with the nearest prototype. Only the embedding is learnt, so that this rule needs no training on a new task.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from torch import Tensor

from metalearn_cli.core.learning import class_means, square_distances
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class ProtoNet:
    """Classify a query by its squared distance to each class's mean embedding."""

    traits = Traits(sees="features")

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors: only the embedding is learnt."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean features [W, D] of the classes, and the number of items of each class [W]."""
        means_WD, count_W = class_means(x, y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: minus the squared distances."""
        return -square_distances(x, state["prototypes"])

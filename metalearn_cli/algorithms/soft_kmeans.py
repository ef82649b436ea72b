"""Soft k-means: Ren et al. 2018, https://arxiv.org/abs/1803.00676, section 3.1.1, equation 3.

Prototypes are the mean features of the classes, and unlabelled items then move them, each counted for a class as far as
it belongs to it. Here the unlabelled items are the queries themselves, so that answers depend on each other.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import class_means, square_distances
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class SoftKmeans:
    """Prototypical networks whose prototypes are refined by the queries, each counted as far as it belongs to a class.

    Args:
        steps: refinements, >= 1.
    """

    traits = Traits(sees="features", uses_queries=True)

    def __init__(self, steps: Annotated[int, Range(1)] = 1) -> None:
        self.steps = steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the classes' mean features [W, D], and how many items each is the mean of [W]."""
        means_WD, count_W = class_means(x, y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: minus the squared distances to refined prototypes."""
        means_WD, count_W = state["prototypes"], state["counts"]
        centre_WD = means_WD
        for _ in range(self.steps):
            soft_QW = (-square_distances(x, centre_WD)).softmax(-1)
            total_WD = count_W[:, None] * means_WD + soft_QW.T @ x
            centre_WD = total_WD / (count_W + soft_QW.sum(0))[:, None]
        return -square_distances(x, centre_WD)

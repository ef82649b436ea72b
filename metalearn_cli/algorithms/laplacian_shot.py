"""LaplacianShot: Ziko, Dolz, Granger & Ben Ayed 2020, https://arxiv.org/abs/2006.15486, Algorithm 1.

Each query is assigned to the nearest class mean, while a graph of nearest neighbours among the queries encourages
neighbours to have the same class. The assignment that minimises both at once is found by repeated updates, so that
answers depend on each other.

The features are scaled to length 1, as in `nearest_centroid`, but not centred by the mean of the training classes.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import class_means, one_hot, square_distances
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class LaplacianShot:
    """Nearest class mean on frozen features, with a Laplacian penalty between neighbouring queries.

    Args:
        smoothness: weight of the penalty (lambda in the paper), >= 0; 0 is nearest_centroid.
        neighbours: nearest queries that a query is connected to, >= 1.
        steps: updates of the assignment, >= 1.
    """

    traits = Traits(sees="features", learns=False, uses_queries=True)

    def __init__(
        self,
        smoothness: Annotated[float, Range(0)] = 0.7,
        neighbours: Annotated[int, Range(1)] = 3,
        steps: Annotated[int, Range(1)] = 20,
    ) -> None:
        self.smoothness = smoothness
        self.neighbours = neighbours
        self.steps = steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean features [W, D] of the classes, and the number of items of each class [W]."""
        means_WD, count_W = class_means(normalize(x, dim=-1), y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: the logarithms, up to constants, of the assignment."""
        z_QD = normalize(x, dim=-1)
        near_QW = -square_distances(z_QD, state["prototypes"])
        graph_QQ = self._graph(z_QD)
        logits_QW = near_QW
        for _ in range(self.steps):  # equation 12
            logits_QW = near_QW + self.smoothness * graph_QQ @ logits_QW.softmax(-1)
        return logits_QW

    def _graph(self, z_QD: Tensor) -> Tensor:
        """Return for each query the nearest other ones as ones [Q, Q]: all others if there are fewer (section 2)."""
        distance_QQ = square_distances(z_QD, z_QD)
        itself_QQ = torch.eye(len(z_QD), dtype=torch.bool, device=z_QD.device)
        nearest = (-distance_QQ).masked_fill(itself_QQ, -torch.inf).topk(min(self.neighbours, len(z_QD) - 1)).indices
        return one_hot(nearest.flatten(), len(z_QD), z_QD).unflatten(0, nearest.shape).sum(1)

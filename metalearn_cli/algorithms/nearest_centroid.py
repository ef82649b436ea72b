"""Nearest centroid (SimpleShot, L2N): Wang, Chao, Weinberger & van der Maaten 2019, https://arxiv.org/abs/1911.04623.

Features are scaled to length 1, and a query belongs to the class with the nearest mean. Nothing is learnt, so its
accuracy measures the representation that meta-training starts from.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.learning import class_means, square_distances
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class NearestCentroid:
    """Classify a query by the nearest class mean of features scaled to length 1, without meta-training."""

    traits = Traits(sees="features", learns=False)

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean features [W, D] of the classes, and the number of items of each class [W]."""
        means_WD, count_W = class_means(normalize(x, dim=-1), y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: minus the squared distances."""
        return -square_distances(normalize(x, dim=-1), state["prototypes"])

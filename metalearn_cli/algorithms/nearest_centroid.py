"""SimpleShot: Wang, Chao, Weinberger & van der Maaten 2019, https://arxiv.org/abs/1911.04623, section 3.

A query has the class whose mean feature is nearest, in features of a backbone that was not trained for it. Centring
features by their mean over the training classes, and scaling them to length 1, makes that a strong baseline.

Legend: N training items, S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.learning import class_means, square_distances
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class NearestCentroid:
    """Classify a query by the nearest class mean of frozen features, without meta-training.

    Args:
        transform: of features: "un" for none, "l2n" to scale them to length 1, "cl2n" to subtract their mean over the
            data's training classes before that.
    """

    traits = Traits(sees="features", learns=False)

    def __init__(self, transform: Literal["un", "l2n", "cl2n"] = "l2n") -> None:
        self.transform = transform

    def init(self, net: Network, way: int) -> Params:
        """Return the mean feature [D], which `base` measures, for cl2n."""
        return {"mean": torch.zeros(net.out_dim)} if self.transform == "cl2n" else {}

    def base(self, z: Tensor) -> Params:
        """Return own tensors from features z [N, D] of training items."""
        return {"mean": z.mean(0)}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean features [W, D] of the classes, and the number of items of each class [W]."""
        means_WD, count_W = class_means(self._transformed(x, own), y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: minus the squared distances."""
        return -square_distances(self._transformed(x, own), state["prototypes"])

    def _transformed(self, x: Tensor, own: Params) -> Tensor:
        centred = x - own["mean"] if own else x
        return x if self.transform == "un" else normalize(centred, dim=-1)

"""Meta-Baseline: Chen, Liu, Xu, Darrell & Wang 2021, https://arxiv.org/abs/2003.04390.

A query belongs to the class whose mean feature has the largest cosine similarity with its own, times a learnt factor.
It is meant for a backbone that was pretrained to classify all training classes, which episodes then only refine.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above
from metalearn_cli.core.learning import class_means, cosines
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class MetaBaseline:
    """Classify a query by its cosine similarity to each class's mean feature.

    Args:
        scale: factor of the cosines that training starts from, > 0.
    """

    traits = Traits(sees="features")

    def __init__(self, scale: Annotated[float, Above(0)] = 10.0) -> None:
        self.scale = scale

    def init(self, net: Network, way: int) -> Params:
        """Return the factor of the cosines (tau)."""
        return {"scale": torch.tensor(self.scale)}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean features [W, D] of the classes, and the number of items of each class [W]."""
        means_WD, count_W = class_means(x, y, way)
        return {"prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]."""
        return own["scale"] * cosines(x, state["prototypes"])

"""LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1.

Fine-tuning changes a weight matrix by one of low rank, so the pretrained matrix is frozen, and only a product of two
thin matrices, which is added to it, learns. A convolution counts as a matrix with one row per output channel, and the
sum of both is what is evaluated and handed on.

Legend: R rank, O rows, I columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.network import Network, Params


class Lora:
    """Learn a product of two thin matrices on top of each frozen weight of the backbone, and a classifier.

    Args:
        rank: R, >= 1; at most the smaller side of each matrix is used.
        alpha: the products are multiplied by alpha / R, > 0.
    """

    keeps_start = True

    def __init__(self, rank: Annotated[int, Range(1)] = 4, alpha: Annotated[float, Above(0)] = 4.0) -> None:
        self.rank, self.alpha = rank, alpha

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the classifier's tensors."""
        return dict.fromkeys(net.head_names, 1.0)

    def init(self, net: Network, sizes: Mapping[str, int]) -> Params:
        """Return two factors [R, I] and [O, R] for each matrix of the backbone, whose product is zero at first."""
        factors = {}
        for name, weight_OI in _matrices(net).items():
            rank = min(self.rank, *weight_OI.shape)
            factors[f"{name}.a"] = torch.randn(rank, weight_OI.shape[1]) / rank**0.5
            factors[f"{name}.b"] = torch.zeros(len(weight_OI), rank)
        return factors

    def merged(self, net: Network, own: Params) -> Params:
        """Return the network's tensors, with the products added (equation 3)."""
        scale = self.alpha / self.rank
        changes = {n: scale * own[f"{n}.b"] @ own[f"{n}.a"] for n in _matrices(net)}
        return net.params | {n: net.params[n] + change.view_as(net.params[n]) for n, change in changes.items()}


def _matrices(net: Network) -> dict[str, Tensor]:
    """Return the weights of the backbone as matrices [O, I]."""
    return {n: net.params[n].flatten(1) for names in net.blocks for n in names if net.params[n].ndim > 1}

"""LoRA: Hu et al. 2022, https://arxiv.org/abs/2106.09685. A kernel counts as a matrix, one row per output channel.

Legend: R rank.
"""

from __future__ import annotations

from typing import Annotated

import torch

from metalearn_cli.core.check import Range
from metalearn_cli.core.network import Network, Params


class Lora:
    """Leave the backbone as it is, and learn a change of low rank for each of its matrices, beside a classifier.

    Args:
        rank: R, >= 1.
    """

    def __init__(self, rank: Annotated[int, Range(1)] = 4) -> None:
        self.rank = rank

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the classifier's tensors."""
        return dict.fromkeys(net.head_names, 1.0)

    def init(self, net: Network) -> Params:
        """Return two factors for each matrix of the backbone, whose product is zero at first (section 4.1)."""
        factors = {}
        for name in (name for names in net.blocks for name in names if net.params[name].ndim > 1):
            rows, columns = net.params[name].flatten(1).shape
            factors[f"{name}.a"] = torch.randn(self.rank, columns) / self.rank**0.5
            factors[f"{name}.b"] = torch.zeros(rows, self.rank)
        return factors

    def merged(self, net: Network, own: Params) -> Params:
        """Return the network's tensors, the products added (equation 3)."""
        changes = {n: (own[f"{n}.b"] @ own[f"{n}.a"]).view_as(p) for n, p in net.params.items() if f"{n}.a" in own}
        return {name: p + changes[name] if name in changes else p for name, p in net.params.items()}

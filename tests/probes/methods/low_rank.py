"""Factors of low rank that are worked into frozen weights, as LoRA does it."""

from __future__ import annotations

import torch

from metalearn_cli.core.network import Network, Params


class LowRank:
    """The head learns, and a factor pair for each matrix of the backbone.

    Args:
        rank: of the factors.
    """

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def rates(self, net: Network) -> dict[str, float]:
        return dict.fromkeys(net.head_names, 1.0)

    def init(self, net: Network) -> Params:
        own = {}
        for name, p in net.params.items():
            if name.startswith("backbone.") and p.ndim == 2:
                own[f"{name}.down"] = torch.randn(self.rank, p.shape[1])
                own[f"{name}.up"] = torch.zeros(p.shape[0], self.rank)
        return own

    def merged(self, net: Network, own: Params) -> Params:
        factored = {name.removesuffix(".up") for name in own if name.endswith(".up")}
        return {n: p + own[f"{n}.up"] @ own[f"{n}.down"] if n in factored else p for n, p in net.params.items()}

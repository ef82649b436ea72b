"""A backbone as others write them: batch normalisation with running statistics."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Running(nn.Module):
    """Linear layers, each with batch normalisation and ReLU.

    Args:
        shape: of one item.
        hidden: width.
        layers: how many.
        stubborn: normalise by the batch at hand whatever the mode, and count it.
    """

    batch_statistics = False

    def __init__(self, shape: tuple[int, ...], hidden: int = 6, layers: int = 2, stubborn: bool = False) -> None:
        super().__init__()
        self.out_dim = hidden
        sizes = [math.prod(shape), *[hidden] * (layers - 1)]
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(i, hidden), nn.BatchNorm1d(hidden)) for i in sizes))
        self.stubborn = stubborn

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = (layer.train() if self.stubborn else layer)(x).relu()
        return x

"""The network between the backbone's features and the loss of models that compare views.

Legend: B items, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn_cli.core.network import moments, total

EPSILON = 1e-5


class Standardised(nn.Module):
    """Batch normalisation by the statistics of the current batch alone: it runs in training, where nothing else is.

    It keeps items apart: with layer normalisation instead, BYOL's projections came to be all alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors x [B, D] with mean `bias` and standard deviation `weight` over the batch."""
        mean, variance = moments(x) if total() else torch.var_mean(x, 0, correction=0)[::-1]
        return (x - mean) * (variance + EPSILON).rsqrt() * self.weight + self.bias


def make_projector(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Return a network with one hidden layer from [B, inputs] to [B, outputs]."""
    first = nn.Linear(inputs, hidden, bias=False)  # a bias would cancel in the normalisation
    return nn.Sequential(first, Standardised(hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False))

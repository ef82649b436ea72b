"""A fully connected network, for items of any shape.

Source: Finn et al. 2017, https://arxiv.org/abs/1703.03400, section 5.1 (two layers of 40 units for the sinusoid).

Legend: B items, D features, ... the shape of one item.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from metalearn_cli.core.check import Range


class Mlp(nn.Module):
    """Linear layers with ReLU, on flattened items.

    Args:
        shape: of one item.
        hidden: width D of every layer, >= 1.
        layers: number of layers, >= 1.

    Attributes:
        out_dim: D.
        blocks: the linear layers.
        batch_statistics: False: an item's output does not depend on other items.
    """

    batch_statistics = False

    def __init__(
        self, shape: tuple[int, ...], hidden: Annotated[int, Range(1)] = 40, layers: Annotated[int, Range(1)] = 2
    ) -> None:
        super().__init__()
        widths = [math.prod(shape), *[hidden] * layers]
        self.blocks = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.out_dim = hidden

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of items x [B, ...]."""
        x = torch.flatten(x, 1)
        for block in self.blocks:
            x = relu(block(x))
        return x

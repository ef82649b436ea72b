"""Rotation: Gidaris, Singh & Komodakis 2018, https://arxiv.org/abs/1803.07728, equations 2 and 3.

Images are turned by 0, 90, 180 or 270 degrees, and a linear layer on the features says by how much.
To know which way is up, the features must know what the image shows.

Legend: B items, N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TURNS = 4


class Rotation(nn.Module):
    """Say by how many quarter turns an image was rotated.

    A step uses a quarter of the batch in all four rotations, as in the paper's section 3.1: the backbone sees as many
    images as with other models, and a step takes about as long.

    Args:
        backbone: maps [B, C, H, W] to [B, D]; its `out_dim` is D.
        shape: (C, H, W) of one image, H = W.

    Raises:
        ValueError: if items are not square images.
    """

    def __init__(self, backbone: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"rotation turns square images, but {_named(shape)}; use model=simclr")
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.out_dim), TURNS)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy [] for a quarter of the images x [B, C, H, W], and the accuracy; y is not used."""
        x = x[: -(-len(x) // TURNS)]
        turned = torch.cat([x.rot90(turn, (2, 3)) for turn in range(TURNS)])
        turns = torch.arange(TURNS, device=x.device).repeat_interleave(len(x))
        logits = self.head(self.backbone(turned))
        accuracy = (logits.argmax(1) == turns).float().mean()
        return cross_entropy(logits, turns), {"turn_accuracy": accuracy}


def _named(shape: object) -> str:
    """Return what items are instead, for the message."""
    if isinstance(shape, Mapping):
        return f"the items have several parts ({', '.join(shape)})"
    return f"the items have the shape {shape}"

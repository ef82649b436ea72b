"""A small vision transformer without a class token.

Sources: Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; Beyer et al. 2022, https://arxiv.org/abs/2205.01580
(the mean over the patches instead of a class token).

Legend: B items, C channels, H height, W width, P side of a patch, L patches, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.attention import Block
from metalearn_cli.backbones.common.items import check_image
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.check import Range


class Patches(nn.Module):
    """A vector for each patch, plus one for its place."""

    def __init__(self, shape: tuple[int, ...], patch: int, hidden: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(shape[0] * patch**2, hidden)
        self.places = nn.Parameter(torch.randn(shape[1] // patch * (shape[2] // patch), hidden) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, L, D] of images x [B, C, H, W]."""
        x = x.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # [B, C, H / P, P, W / P, P]
        z: Tensor = self.proj(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return z + self.places


class Vit(nn.Module):
    """Patches, transformer blocks, and the mean over the patches.

    Args:
        shape: (C, H, W) of one image.
        patch: P, which divides H and W, >= 1.
        hidden: D, a multiple of `heads`, >= 1.
        layers: number of blocks, >= 1.
        heads: heads of the attention, >= 1.
        weights: file of weights to start from; None for random ones. See `common.weights`.

    Attributes:
        out_dim: D.
        maps_shape: (D, H / P, W / P).
        batch_statistics: False: an item's output does not depend on other items.

    Raises:
        ValueError: if shape is not that of an image, the patches do not fit it, or the heads do not divide the width.
    """

    batch_statistics = False

    def __init__(
        self,
        shape: tuple[int, ...],
        patch: Annotated[int, Range(1)] = 4,
        hidden: Annotated[int, Range(1)] = 64,
        layers: Annotated[int, Range(1)] = 4,
        heads: Annotated[int, Range(1)] = 4,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_image(shape, "vit")
        height, width = shape[1:]
        if height % patch or width % patch:
            fitting = [str(p) for p in range(2, min(height, width) + 1) if height % p == 0 and width % p == 0]
            told = f"; choose one of {', '.join(fitting)}" if fitting else ""
            raise ValueError(f"patch {patch} does not divide images of {height} x {width} pixels{told}")
        self.patches = Patches(shape, patch, hidden)
        self.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.out_dim = hidden
        self.maps_shape = (hidden, height // patch, width // patch)
        load_weights(self, weights)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The patches' vectors, the transformer blocks, and the last normalisation."""
        return [self.patches, *self.layers, self.norm]

    def maps(self, x: Tensor) -> Tensor:
        """Return the vectors of the patches as maps [B, D, H / P, W / P] of images x [B, C, H, W]."""
        z_BLD = self.patches(x)
        for layer in self.layers:
            z_BLD = layer(z_BLD)
        return torch.unflatten(self.norm(z_BLD).mT, 2, self.maps_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]: the mean over the patches."""
        return torch.mean(self.maps(x), (2, 3))

"""Networks from a vector to an item: the autoencoder's decoder and the GAN's generator.

Legend: B items, Z dimensions of the vector, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

Decoder = Literal["auto", "conv", "dense"]
"""conv is for images; auto is conv for images, and dense for everything else."""


def check_one_part(shape: object, name: str) -> None:
    """Check that items are tensors.

    Args:
        shape: of one item.
        name: of the model, for the message.

    Raises:
        ValueError: if they have several parts.
    """
    if isinstance(shape, Mapping):
        parts = ", ".join(shape)
        raise ValueError(f"{name} makes items of one part, and these have several ({parts}); use model=classifier")


def make_decoder(
    inputs: int, shape: tuple[int, ...], hidden: int, decoder: Decoder = "auto", fine: bool = False
) -> nn.Module:
    """Return a network from [B, Z] to unbounded items [B, ...].

    Args:
        inputs: Z.
        shape: of one item.
        hidden: channels of the first map (conv) or width of the two layers (dense), >= 1.
        decoder: which kind.
        fine: of conv, see `ConvDecoder`.

    Raises:
        ValueError: if there is no such decoder for this shape.
    """
    if decoder == "conv" and len(shape) != 3:
        raise ValueError(f"decoder conv draws images [C, H, W], but items have the shape {tuple(shape)}; use dense")
    if decoder == "conv" or (decoder == "auto" and len(shape) == 3):
        return ConvDecoder(inputs, shape, hidden, fine)
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, math.prod(shape)),
        nn.Unflatten(1, shape),
    )


class ConvDecoder(nn.Module):
    """A linear layer gives a map of less than 8 x 8; before each 3x3 convolution the map is doubled, up to H x W.

    Args:
        inputs: Z.
        shape: (C, H, W) of an image.
        hidden: channels of the first map, >= 1; each later map has half as many, down to 16.
        fine: whether one more convolution comes before the first doubling, and one more after the last. Without them
            an image is a linear function of a map of half the size: enough for an autoencoder, which draws the mean of
            possible images, but the samples of a GAN are dots instead of lines.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden: int, fine: bool = False) -> None:
        super().__init__()
        size = shape[1:]
        sizes = [size]
        while max(size) >= 8:
            size = tuple(-(-side // 2) for side in size)  # rounded up, so that odd sizes are exact too
            sizes.insert(0, size)
        self.start, self.sizes = size, sizes[1:] or sizes
        widths = [max(hidden >> level, min(hidden, 16)) for level in range(len(self.sizes) + fine)]
        if fine:
            self.sizes, widths = [size, *self.sizes, shape[1:]], [hidden, *widths]
        self.first = nn.Linear(inputs, hidden * math.prod(size))
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(width, 8), width) for width in widths)
        pairs = zip(widths, [*widths[1:], shape[0]], strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)

    def forward(self, z: Tensor) -> Tensor:
        """Return images [B, C, H, W], unbounded, from vectors z [B, Z]."""
        x: Tensor = self.first(z).unflatten(1, (-1, *self.start))
        x = x.contiguous(memory_format=torch.channels_last)  # now, while it is small, not in the convolutions
        for norm, conv, size in zip(self.norms, self.convs, self.sizes, strict=True):
            x = conv(interpolate(relu(norm(x)), size=size))
        return x

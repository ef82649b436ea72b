"""Conv4: the four-block convolutional network of few-shot learning.

Sources: Vinyals et al. 2016, https://arxiv.org/abs/1606.04080, section 4.1 (max-pooling); Finn et al. 2017,
https://arxiv.org/abs/1703.03400, section 5.2 (strided convolution for Omniglot).

Legend: B items, C channels, H height, W width, D features.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from metalearn_cli.backbones.common.items import check_image
from metalearn_cli.backbones.common.norms import BatchNormReluPool, Norm, make_norm
from metalearn_cli.core.check import Range

BLOCKS = 4
Pool = Literal["max", "stride"]
FEW = 3  # channels of images up to which the statistics of a convolution's outputs are cheap to compute


class Block(nn.Module):
    """3x3 convolution, normalisation, ReLU, and pooling or stride to half the size."""

    def __init__(self, channels: int, hidden: int, pool: Pool, norm: Norm) -> None:
        super().__init__()
        # a bias would cancel in the batch normalisation that follows; its gradient would be rounding noise
        self.conv = nn.Conv2d(channels, hidden, 3, stride=2 if pool == "stride" else 1, padding=1, bias=norm != "batch")
        self.norm = make_norm(norm, hidden, pool == "max")
        self.ends_in_norm = norm == "batch"  # the layer includes ReLU and pooling
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, hidden, H // 2, W // 2], rounded up with a stride."""
        if isinstance(self.norm, BatchNormReluPool) and self.conv.in_channels <= FEW:
            return self.norm.of_convolution(self.conv, x)
        x = self.norm(self.conv(x))
        if self.ends_in_norm:
            return x
        # the same as pooling after ReLU, on a quarter of the pixels
        return relu(max_pool2d(x, 2) if self.pool == "max" else x)


class Conv4(nn.Module):
    """Four blocks of convolution, normalisation, ReLU and pooling; the last feature map, flattened, is the output.

    Args:
        shape: (C, H, W) of one image, H and W >= 16 for max-pooling.
        hidden: channels of every block, >= 1.
        pool: "max" (2x2 max-pooling) or "stride" (convolutions of stride 2 instead).
        norm: "batch" (statistics of the current batch), "group" or "none".

    Attributes:
        out_dim: D.
        maps_shape: (hidden, h, w) of the last feature maps.
        blocks: the four blocks.
        batch_statistics: whether an item's output depends on the other items of its batch.

    Raises:
        ValueError: if shape is not that of an image, or too small.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: Annotated[int, Range(1)] = 64,
        pool: Pool = "max",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        check_image(shape, "conv4")
        smallest = 2**BLOCKS if pool == "max" else 1
        if min(shape[1:]) < smallest:
            raise ValueError(f"shape {tuple(shape)} is too small: four poolings need {smallest} or more pixels a side")
        channels = [shape[0], *[hidden] * (BLOCKS - 1)]
        self.blocks = nn.ModuleList(Block(c, hidden, pool, norm) for c in channels)
        self.batch_statistics = norm == "batch"
        height, width = shape[1:]
        for _ in range(BLOCKS):
            height, width = (height // 2, width // 2) if pool == "max" else (-(-height // 2), -(-width // 2))
        self.maps_shape = (hidden, height, width)
        self.out_dim = math.prod(self.maps_shape)

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature maps [B, hidden, h, w] of images x [B, C, H, W]."""
        x = _channels_last(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]: the last maps, flattened."""
        return torch.flatten(self.maps(x), 1)


def _channels_last(x: Tensor) -> Tensor:
    """Convert images [B, C, H, W] to channels-last, also those of one channel, which torch's own method skips.

    Convolutions keep the layout of their input, and pooling in the other layout takes 20 times as long on a CPU.
    """
    x_BHWC = x.movedim(1, 3)
    return x_BHWC.flatten(1).unflatten(1, x_BHWC.shape[1:]).movedim(3, 1)

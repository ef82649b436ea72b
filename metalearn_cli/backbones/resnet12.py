"""ResNet-12, the residual network of few-shot learning.

Sources: Oreshkin et al. 2018, https://arxiv.org/abs/1805.10123; Lee et al. 2019, https://arxiv.org/abs/1904.03758,
section 4.1 (these widths); Ghiasi et al. 2018, https://arxiv.org/abs/1810.12890, Algorithm 1 (DropBlock).

Legend: B items, C channels, H height, W width, h and w height and width of the last maps, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d, pad

from metalearn_cli.backbones.common.items import check_image
from metalearn_cli.backbones.common.norms import AnyNorm, make_plain_norm
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.check import Below, Range

WIDTHS = (1, 2.5, 5, 10)  # channels of the blocks as multiples of the first one's: 64, 160, 320, 640
SLOPE = 0.1  # of the leaky ReLU
SIDE = 5  # of the squares that DropBlock sets to zero


class Block(nn.Module):
    """Three 3x3 convolutions with a connection past them, leaky ReLU, and pooling to half the size."""

    def __init__(self, channels: int, hidden: int, norm: AnyNorm, dropblock: float) -> None:
        super().__init__()
        bias = norm == "none"
        self.convs = nn.ModuleList(nn.Conv2d(c, hidden, 3, padding=1, bias=bias) for c in (channels, hidden, hidden))
        self.norms = nn.ModuleList(make_plain_norm(norm, hidden) for _ in self.convs)
        self.past = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.past_norm = make_plain_norm(norm, hidden)
        self.dropblock = dropblock
        for conv in (*self.convs, self.past):
            nn.init.kaiming_normal_(conv.weight, a=SLOPE, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, hidden, H // 2, W // 2] of x [B, C, H, W]."""
        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y if index == 0 else leaky_relu(y, SLOPE)))
        y = max_pool2d(leaky_relu(y + self.past_norm(self.past(x)), SLOPE), 2)
        return _without_squares(y, self.dropblock) if self.training and self.dropblock else y


class Resnet12(nn.Module):
    """Four residual blocks; the mean of the last maps over places is returned.

    Args:
        shape: (C, H, W) of one image, H and W >= 16.
        hidden: channels of the first block, >= 1; the others have 2.5, 5 and 10 times as many.
        norm: "batch" (statistics of the current batch), "running", "group" or "none".
        dropblock: share of the last two blocks' outputs that DropBlock sets to zero in pretraining and transfer, in
            [0, 1); episodes run without it.
        weights: file of weights to start from; None for random ones. See `common.weights`.

    Attributes:
        out_dim: D.
        maps_shape: (D, h, w).
        blocks: the four blocks.
        batch_statistics: whether an item's output depends on the other items of its batch.

    Raises:
        ValueError: if shape is not that of an image, or too small.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: Annotated[int, Range(1)] = 64,
        norm: AnyNorm = "batch",
        dropblock: Annotated[float, Range(0), Below(1)] = 0.0,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_image(shape, "resnet12")
        if min(shape[1:]) < 2 ** len(WIDTHS):
            raise ValueError(f"shape {tuple(shape)} is too small: four poolings need 16 or more pixels a side")
        widths = [round(factor * hidden) for factor in WIDTHS]
        pairs = zip([shape[0], *widths], widths, strict=False)
        self.blocks = nn.ModuleList(Block(i, o, norm, dropblock * (n >= 2)) for n, (i, o) in enumerate(pairs))
        self.out_dim = widths[-1]
        self.maps_shape = (self.out_dim, shape[1] // 16, shape[2] // 16)
        self.batch_statistics = norm == "batch"
        load_weights(self, weights)

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature maps [B, D, h, w] of images x [B, C, H, W]."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]: the mean of the last maps over places."""
        return torch.mean(self.maps(x), (2, 3))


def _without_squares(x: Tensor, share: float) -> Tensor:
    """Return maps x [B, C, H, W] with a share of each set to zero in squares at random, and the rest scaled up."""
    height, width = x.shape[2:]
    side = min(SIDE, height, width)
    free = (height - side + 1, width - side + 1)  # where a square's corner may lie
    corners = torch.rand(*x.shape[:2], *free, device=x.device) < share * height * width / (side**2 * free[0] * free[1])
    squares = max_pool2d(pad(corners.to(x.dtype), [side - 1] * 4), side, 1)
    kept = 1 - squares
    return x * kept * (kept.numel() / kept.sum().clamp(min=1))

"""Residual networks, laid out and named as in torchvision: He et al. 2016, https://arxiv.org/abs/1512.03385.

Legend: B items, C channels, H height, W width, h and w height and width of the last maps, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from metalearn_cli.backbones.common.items import check_image
from metalearn_cli.backbones.common.norms import AnyNorm, make_plain_norm

CLASSIFIER = ("fc.",)
OF_TORCHVISION = "torchvision's weights need backbone.stem=large backbone.norm=running and images of 3 channels"

Stem = Literal["small", "large"]
"""large: a 7x7 convolution and pooling that leave a quarter of each side, as for ImageNet; small: a 3x3 convolution."""


class Basic(nn.Module):
    """Two 3x3 convolutions with a connection past them (figure 5, left)."""

    wider = 1  # channels of the output as a multiple of `hidden`

    def __init__(self, channels: int, hidden: int, stride: int, norm: AnyNorm) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, hidden, 3, stride, norm), make_plain_norm(norm, hidden)
        self.conv2, self.bn2 = _conv(hidden, hidden, 3, 1, norm), make_plain_norm(norm, hidden)
        self.downsample = _past(channels, hidden, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, hidden, H / stride, W / stride] of x [B, C, H, W]."""
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a connection past them (figure 5, right); the 3x3 one has the stride."""

    wider = 4

    def __init__(self, channels: int, hidden: int, stride: int, norm: AnyNorm) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, hidden, 1, 1, norm), make_plain_norm(norm, hidden)
        self.conv2, self.bn2 = _conv(hidden, hidden, 3, stride, norm), make_plain_norm(norm, hidden)
        self.conv3, self.bn3 = _conv(hidden, 4 * hidden, 1, 1, norm), make_plain_norm(norm, 4 * hidden)
        self.downsample = _past(channels, 4 * hidden, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 4 * hidden, H / stride, W / stride] of x [B, C, H, W]."""
        y = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
        return relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Resnet(nn.Module):
    """A first convolution and four layers of residual blocks; the mean of the last maps over places is returned.

    Args:
        kind: of the residual blocks.
        depths: number of blocks of each layer.
        shape: (C, H, W) of one image.
        hidden: channels of the first layer's blocks, >= 1; each later layer has twice as many.
        stem: the first convolution, see `Stem`.
        norm: "batch" (statistics of the current batch), "running", "group" or "none".

    Attributes:
        out_dim: D.
        maps_shape: (D, h, w).
        batch_statistics: whether an item's output depends on the other items of its batch.

    Raises:
        ValueError: if shape is not that of an image.
    """

    def __init__(
        self,
        kind: type[Basic | Bottleneck],
        depths: Sequence[int],
        shape: tuple[int, ...],
        hidden: int,
        stem: Stem,
        norm: AnyNorm,
    ) -> None:
        super().__init__()
        check_image(shape, f"resnet{'18' if kind is Basic else '50'}")
        self.large = stem == "large"
        self.conv1 = _conv(shape[0], hidden, 7 if self.large else 3, 2 if self.large else 1, norm)
        self.bn1 = make_plain_norm(norm, hidden)
        channels = hidden
        for index, depth in enumerate(depths):
            blocks = []
            for first in [True, *[False] * (depth - 1)]:
                blocks.append(kind(channels, hidden << index, 2 if first and index else 1, norm))
                channels = kind.wider * (hidden << index)
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        smaller = 32 if self.large else 8
        self.out_dim = channels
        self.maps_shape = (channels, -(-shape[1] // smaller), -(-shape[2] // smaller))
        self.batch_statistics = norm == "batch"

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The first convolution with its normalisation, and the residual blocks."""
        return [nn.ModuleList([self.conv1, self.bn1]), *(block for layer in self._layers for block in layer)]

    @property
    def _layers(self) -> list[nn.Sequential]:
        return [module for module in self.children() if isinstance(module, nn.Sequential)]

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature maps [B, D, h, w] of images x [B, C, H, W]."""
        x = relu(self.bn1(self.conv1(x)))
        x = max_pool2d(x, 3, 2, padding=1) if self.large else x
        for layer in self._layers:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]: the mean of the last maps over places."""
        return torch.mean(self.maps(x), (2, 3))


def _conv(channels: int, hidden: int, size: int, stride: int, norm: AnyNorm) -> nn.Conv2d:
    return nn.Conv2d(channels, hidden, size, stride, padding=size // 2, bias=norm == "none")


def _past(channels: int, hidden: int, stride: int, norm: AnyNorm) -> nn.Module:
    """Return the connection past a block: a 1x1 convolution where channels or size change."""
    if stride == 1 and channels == hidden:
        return nn.Identity()
    return nn.Sequential(_conv(channels, hidden, 1, stride, norm), make_plain_norm(norm, hidden))

"""A small residual network: He, Zhang, Ren & Sun 2016, https://arxiv.org/abs/1512.03385, under torchvision's names.

Legend: B items, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import relu

from metalearn_cli.core.check import Range


class Block(nn.Module):
    """Two 3x3 convolutions with a connection past them (figure 2)."""

    def __init__(self, channels: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != hidden:
            self.downsample = nn.Sequential(nn.Conv2d(channels, hidden, 1, stride, bias=False), nn.BatchNorm2d(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, hidden, H / stride, W / stride] of x [B, C, H, W]."""
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.downsample(x))


class Resnet(nn.Module):
    """A convolution and three residual blocks, normalised by running statistics; the mean of the last maps is returned.

    Args:
        shape: (C, H, W) of one image.
        hidden: channels of the first block, >= 1; each of the others has twice as many as the one before.

    Raises:
        ValueError: if shape is no image.
    """

    batch_statistics = False

    def __init__(self, shape: tuple[int, ...], hidden: Annotated[int, Range(1)] = 16) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"shape {tuple(shape)} is not an image [C, H, W]; use backbone=mlp")
        self.conv1 = nn.Conv2d(shape[0], hidden, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.layer1 = nn.Sequential(Block(hidden, hidden, 1))
        self.layer2 = nn.Sequential(Block(hidden, 2 * hidden, 2))
        self.layer3 = nn.Sequential(Block(2 * hidden, 4 * hidden, 2))
        self.out_dim = 4 * hidden
        self.maps_shape = (4 * hidden, -(-shape[1] // 4), -(-shape[2] // 4))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The first convolution with its normalisation, and the three layers."""
        return [nn.ModuleList([self.conv1, self.bn1]), self.layer1, self.layer2, self.layer3]

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature maps [B, 4 * hidden, H / 4, W / 4] of images x [B, C, H, W]."""
        x = relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]: the mean of the last maps over places."""
        return self.maps(x).mean((2, 3))

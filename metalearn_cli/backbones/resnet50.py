"""ResNet-50: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1, with the tensor names of torchvision."""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.backbones.common.norms import AnyNorm
from metalearn_cli.backbones.common.resnet import Bottleneck, Resnet, Stem
from metalearn_cli.core.check import Range


def resnet50(
    shape: tuple[int, ...], hidden: Annotated[int, Range(1)] = 64, stem: Stem = "small", norm: AnyNorm = "batch"
) -> Resnet:
    """Return a ResNet-50.

    Args:
        shape: (C, H, W) of one image.
        hidden: channels of the first layer's blocks, >= 1.
        stem: "small" (3x3 convolution, for images of up to about 100 pixels a side) or "large" (for ImageNet's).
        norm: "batch" (statistics of the current batch), "running", "group" or "none".

    Raises:
        ValueError: if shape is not that of an image.
    """
    return Resnet(Bottleneck, (3, 4, 6, 3), shape, hidden, stem, norm)

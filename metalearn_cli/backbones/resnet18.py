"""ResNet-18: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1, with the tensor names of torchvision."""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.backbones.common.norms import AnyNorm
from metalearn_cli.backbones.common.resnet import CLASSIFIER, OF_TORCHVISION, Basic, Resnet, Stem
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.check import Range


def resnet18(
    shape: tuple[int, ...],
    hidden: Annotated[int, Range(1)] = 64,
    stem: Stem = "small",
    norm: AnyNorm = "batch",
    weights: Weights = None,
) -> Resnet:
    """Return a ResNet-18.

    Args:
        shape: (C, H, W) of one image.
        hidden: channels of the first layer's blocks, >= 1.
        stem: "small" (3x3 convolution, for images of up to about 100 pixels a side) or "large" (for ImageNet's).
        norm: "batch" (statistics of the current batch), "running", "group" or "none".
        weights: file of weights to start from, such as torchvision's; None for random ones. See `common.weights`.

    Raises:
        ValueError: if shape is not that of an image, or the weights do not fit.
    """
    network = Resnet(Basic, (2, 2, 2, 2), shape, hidden, stem, norm)
    load_weights(network, weights, without=CLASSIFIER, hint=OF_TORCHVISION)
    return network

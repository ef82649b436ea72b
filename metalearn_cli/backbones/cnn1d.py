"""A convolutional network for series: the baseline of Wang et al. 2017, https://arxiv.org/abs/1611.06455, section II-B.

Legend: B items, C channels, L length, D features.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from metalearn_cli.backbones.common.norms import AnyNorm, make_plain_norm
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.check import Range


class Block(nn.Module):
    """Convolution, normalisation and ReLU."""

    def __init__(self, channels: int, hidden: int, kernel: int, stride: int, norm: AnyNorm) -> None:
        super().__init__()
        # a bias would cancel in the normalisation that follows
        self.conv = nn.Conv1d(channels, hidden, kernel, stride, padding=kernel // 2, bias=norm == "none")
        self.norm = make_plain_norm(norm, hidden, dimensions=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, hidden, L / stride] of x [B, C, L]."""
        return relu(self.norm(self.conv(x)))


class Cnn1d(nn.Module):
    """Blocks of convolution, normalisation and ReLU; the mean over the length is returned.

    Args:
        shape: (C, L) or (L,) of one series.
        hidden: channels D of every block, >= 1.
        layers: number of blocks, >= 1.
        kernel: width of the convolutions, >= 1.
        stride: steps from one place of a convolution to the next, >= 1: 1 for short series, more for raw audio.
        norm: "batch" (statistics of the current batch), "running", "group" or "none".
        weights: file of weights to start from; None for random ones. See `common.weights`.

    Attributes:
        out_dim: D.
        blocks: the blocks.
        batch_statistics: whether an item's output depends on the other items of its batch.

    Raises:
        ValueError: if shape is not that of a series.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: Annotated[int, Range(1)] = 64,
        layers: Annotated[int, Range(1)] = 4,
        kernel: Annotated[int, Range(1)] = 7,
        stride: Annotated[int, Range(1)] = 2,
        norm: AnyNorm = "batch",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        if len(shape) not in (1, 2):
            raise ValueError(
                f"shape {tuple(shape)} is not a series [C, L] or [L], which cnn1d needs; use backbone=conv4"
            )
        widths = [shape[0] if len(shape) == 2 else 1, *[hidden] * layers]
        self.blocks = nn.ModuleList(Block(i, o, kernel, stride, norm) for i, o in pairwise(widths))
        self.out_dim = hidden
        self.batch_statistics = norm == "batch"
        load_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of series x [B, C, L] or [B, L]."""
        x = x if x.ndim == 3 else x[:, None]
        for block in self.blocks:
            x = block(x)
        return torch.mean(x, 2)

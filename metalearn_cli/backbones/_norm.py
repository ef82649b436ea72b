"""Normalisation without hidden state.

Legend: B items, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = ("batch", "group", "none")


class BatchNorm(nn.Module):
    """Batch normalisation by the statistics of the batch at hand, always; there are no running ones.

    Args:
        channels: C, >= 1.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, Algorithm 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = 1e-5

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """Return x [B, C, H, W] with each channel at mean `bias` and standard deviation `weight`.

        Args:
            x: [B, C, H, W].
            reference: how many of the first items give the statistics that all are normalised by; None means all.
        """
        # written out: torch's own kernel loses three digits of the statistics on channels-last images on a CPU
        centred = x - x[:reference].mean(dim=(0, 2, 3), keepdim=True)
        variance = centred[:reference].square().mean(dim=(0, 2, 3))
        return centred * (self.weight * (variance + self.eps).rsqrt())[:, None, None] + self.bias[:, None, None]


def make_norm(norm: str, channels: int) -> nn.Module:
    """Return the layer that a backbone's `norm` setting names.

    Raises:
        ValueError: if there is no such one.
    """
    if norm == "batch":
        return BatchNorm(channels)
    if norm == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")

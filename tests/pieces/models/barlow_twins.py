"""Barlow Twins: Zbontar et al. 2021, https://arxiv.org/abs/2103.03230.

Legend: B items, E dimensions of the embedding, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn

from metalearn_cli.core.check import Above, Range


class BarlowTwins(nn.Module):
    """Make the correlations of two noisy views' embeddings the identity: alike views, dimensions that do not repeat.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        hidden: dimensions E of the embedding, >= 2.
        noise: standard deviation of the noise that makes views, > 0.
    """

    def __init__(
        self, backbone: nn.Module, hidden: Annotated[int, Range(2)] = 32, noise: Annotated[float, Above(0)] = 0.1
    ) -> None:
        super().__init__()
        self.backbone = backbone
        width = cast(int, backbone.out_dim)
        self.expander = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden, bias=False))
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...] (equation 1, lambda = 0.005); labels y are not used."""
        views = torch.cat([x, x]) + self.noise * torch.randn(2 * len(x), *x.shape[1:], dtype=x.dtype, device=x.device)
        one, two = ((z - z.mean(0)) / (z.std(0) + 1e-4) for z in self.expander(self.backbone(views)).chunk(2))
        lacking = one.T @ two / len(x) - torch.eye(one.shape[1], dtype=x.dtype, device=x.device)
        invariance = lacking.diagonal().square().sum()
        return 0.995 * invariance + 0.005 * lacking.square().sum(), {"invariance": invariance.detach()}

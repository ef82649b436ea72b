"""VICReg: Bardes, Ponce & LeCun 2022, https://arxiv.org/abs/2105.04906.

Legend: B items, E dimensions of the embedding, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, relu

from metalearn_cli.core.check import Above, Range


class Vicreg(nn.Module):
    """Bring two noisy views of an item together, while every dimension keeps its variance and says something new.

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
        """Return the loss [] of items x [B, ...] (equation 6, with the paper's weights); labels y are not used."""
        views = torch.cat([x, x]) + self.noise * torch.randn(2 * len(x), *x.shape[1:], dtype=x.dtype, device=x.device)
        pair = self.expander(self.backbone(views)).chunk(2)
        invariance = mse_loss(*pair)
        variance, covariance = (sum(terms) for terms in zip(*map(_spread, pair), strict=True))
        loss = 25 * invariance + 12.5 * variance + covariance
        return loss, {"invariance": invariance.detach(), "variance": variance.detach()}


def _spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much variance embeddings [B, E] lack (equation 1), and how much they covary (equation 4)."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    variance = covariance.diagonal()
    lacking = relu(1 - (variance + 1e-4).sqrt()).mean()
    return lacking, (covariance.square().sum() - variance.square().sum()) / z.shape[1]

"""Variational autoencoder: Kingma & Welling 2014, https://arxiv.org/abs/1312.6114, equation 10 and appendix B.

The features of an item give a normal distribution of codes, and a decoder rebuilds the item from a code drawn from it.
The loss, minus a lower bound of the items' likelihood, also keeps each distribution near the standard normal one.

Legend: B items, N images, C channels, H height, W width, Z dimensions of the code, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn

from metalearn_cli.core.check import Range
from metalearn_cli.models.common.decoders import check_one_part
from metalearn_cli.models.common.rebuilding import error, losses, make_rebuilder


class Vae(nn.Module):
    """Rebuild an item from a random code whose mean and variance are linear in the backbone's features.

    The loss is the bound per value of an item (per token of a text), so that learning rates suit items of any size.
    The squared error of "real" values is the likelihood of a normal distribution with variance 1/2.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        shape: of one item.
        value_range: "unit", "real" or "ids", see `models.common.rebuilding`.
        vocabulary: the number of ids.
        latent: Z, >= 1.
        hidden: channels of the first map (images) or width of the decoder, >= 1.
        beta: weight of the divergence from the standard normal distribution, >= 0; 1 is the bound.

    Raises:
        ValueError: if items have several parts.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        vocabulary: int = 0,
        latent: Annotated[int, Range(1)] = 64,
        hidden: Annotated[int, Range(1)] = 64,
        beta: Annotated[float, Range(0)] = 1.0,
    ) -> None:
        super().__init__()
        check_one_part(shape, "vae")
        self.backbone = backbone
        self.moments = nn.Linear(cast(int, backbone.out_dim), 2 * latent)
        self.decoder = make_rebuilder(latent, shape, value_range, vocabulary, hidden)
        self.latent, self.beta, self.values = latent, beta, value_range
        self.images = len(shape) == 3

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the bound [] of items x [B, ...] per value, and its parts; labels y are not used."""
        mean_BZ, log_variance_BZ = self.moments(self.backbone(x)).chunk(2, -1)
        rebuilt = self.decoder(mean_BZ + (log_variance_BZ / 2).exp() * torch.randn_like(mean_BZ))
        divergence_B = (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(1) / 2
        size_B = (x > 0).sum(1).clamp(min=1) if self.values == "ids" else x[0].numel()
        divergence = (divergence_B / size_B).mean()
        loss = losses(rebuilt, x, self.values).mean() + self.beta * divergence
        return loss, {"divergence": divergence.detach(), **error(rebuilt, x, self.values)}

    def measures(self, x: Tensor) -> dict[str, Tensor]:
        """Return the error [] of items x [B, ...] that are rebuilt from the means of their codes."""
        return error(self._rebuilt(x), x, self.values)

    def pictures(self, x: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return images x [N, C, H, W] and their reconstructions, and as many from random codes, in [0, 1]."""
        if not (self.images and self.values == "unit"):
            return {}
        samples = self.decoder(torch.randn(len(x), self.latent, device=x.device, dtype=x.dtype)).sigmoid()
        return {"reconstructions": {"image": x, "rebuilt": self._rebuilt(x).sigmoid()}, "samples": samples}

    def _rebuilt(self, x: Tensor) -> Tensor:
        rebuilt: Tensor = self.decoder(self.moments(self.backbone(x))[:, : self.latent])
        return rebuilt

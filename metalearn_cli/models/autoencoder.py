"""Autoencoder: Hinton & Salakhutdinov 2006; with noise, jitter or token dropout a denoising one, Vincent et al. 2008.

Sources: https://doi.org/10.1126/science.1127647, https://doi.org/10.1145/1390156.1390294.

Legend: B items, L tokens, V vocabulary, N images, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn

from metalearn_cli.core.check import Below, Range
from metalearn_cli.core.views import affine, noisy, thinned
from metalearn_cli.models.common.decoders import Decoder, check_one_part
from metalearn_cli.models.common.rebuilding import error, losses, make_rebuilder


class Autoencoder(nn.Module):
    """Reconstruct an item from the backbone's features of it, or of a corrupted copy.

    Of a text, the bag of its tokens is reconstructed: how often each occurs, in any order.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        shape: of one item.
        value_range: "unit" (values in [0, 1]: cross-entropy per value), "real" (squared error) or "ids" (cross-entropy
            with the frequencies of an item's tokens; id 0 is padding and is left out).
        vocabulary: V, the number of ids.
        decoder: "conv" (images), "dense" (any item) or "auto" (conv for images).
        hidden: channels of the first map (conv) or width (dense) of the decoder, >= 1.
        noise: standard deviation of the noise added to the backbone's input, >= 0.
        jitter: images only: standard deviation of the entries of a random affine map (the identity plus such noise;
            shifts in half image sides are half as large) that distorts the backbone's input, >= 0. The target is the
            undistorted image, so the features learn what is drawn rather than its position.
        token_dropout: text only: share of the tokens that the backbone does not see, in [0, 1).

    Raises:
        ValueError: if decoder does not fit the shape, or items have several parts.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        vocabulary: int = 0,
        decoder: Decoder = "auto",
        hidden: Annotated[int, Range(1)] = 64,
        noise: Annotated[float, Range(0)] = 0.0,
        jitter: Annotated[float, Range(0)] = 0.2,
        token_dropout: Annotated[float, Range(0), Below(1)] = 0.3,
    ) -> None:
        super().__init__()
        check_one_part(shape, "autoencoder")
        self.backbone = backbone
        width = cast(int, backbone.out_dim)
        self.decoder = make_rebuilder(width, shape, value_range, vocabulary, hidden, decoder)
        self.values = value_range
        self.images = len(shape) == 3
        self.noise = noise
        self.jitter = jitter
        self.token_dropout = token_dropout

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the reconstruction loss [] of items x [B, ...], and its measure; labels y are not used.

        The measure is the mean squared error, or for text the perplexity.
        """
        rebuilt = self.decoder(self.backbone(self._corrupted(x)))
        return losses(rebuilt, x, self.values).mean(), error(rebuilt, x, self.values)

    def measures(self, x: Tensor) -> dict[str, Tensor]:
        """Return the error [] of reconstructions of items x [B, ...], which are not corrupted."""
        return error(self.decoder(self.backbone(x)), x, self.values)

    def pictures(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return images x [N, C, H, W] and their reconstructions, in [0, 1]."""
        if not (self.images and self.values == "unit"):
            return {}
        return {"reconstructions": {"original": x, "rebuilt": self.decoder(self.backbone(x)).sigmoid()}}

    def _corrupted(self, x: Tensor) -> Tensor:
        if self.values == "ids":
            return thinned(x, self.token_dropout)
        x = affine(x, self.jitter) if self.images and self.jitter else x
        return noisy(x, self.noise) if self.noise else x

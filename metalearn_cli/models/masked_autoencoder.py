"""Masked autoencoder: He et al. 2022, https://arxiv.org/abs/2111.06377, section 3, for any backbone.

Parts of an item are hidden at random: patches of an image, stretches of a series, entries of a vector or tokens of a
text.
The backbone sees the rest, and a decoder rebuilds from its features what is hidden.

Legend: B items, N images, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn

from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.models.common.decoders import check_one_part
from metalearn_cli.models.common.rebuilding import error, losses, make_rebuilder


class MaskedAutoencoder(nn.Module):
    """Rebuild the hidden parts of an item from the backbone's features of the others.

    He et al. need a vision transformer: its encoder skips hidden patches, which saves time, and its decoder gets a
    feature of each visible patch and a learnt token at each hidden one. Here any backbone runs on the whole item, in
    which hidden values are 0 (padding, in a text), and the decoder gets one vector, so that all that it rebuilds must
    be in the features. As there, only what is hidden counts in the loss. Of a text, the bag of the hidden tokens is
    rebuilt.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        shape: of one item.
        value_range: "unit", "real" or "ids", see `models.common.rebuilding`.
        vocabulary: the number of ids.
        hidden: channels of the first map (images) or width of the decoder, >= 1.
        share: share of the parts that are hidden, > 0 and < 1.
        patch: side of an image's patches in pixels, and length of a series' stretches, >= 1.

    Raises:
        ValueError: if items have several parts.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        vocabulary: int = 0,
        hidden: Annotated[int, Range(1)] = 64,
        share: Annotated[float, Above(0), Below(1)] = 0.5,
        patch: Annotated[int, Range(1)] = 4,
    ) -> None:
        super().__init__()
        check_one_part(shape, "masked_autoencoder")
        self.backbone = backbone
        self.decoder = make_rebuilder(cast(int, backbone.out_dim), shape, value_range, vocabulary, hidden)
        self.share, self.patch, self.values = share, patch, value_range
        self.images = len(shape) == 3

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of the hidden parts of items x [B, ...], and the error of all; labels y are not used."""
        hidden = self._drawn(x)
        rebuilt = self.decoder(self.backbone(x * ~hidden))
        return losses(rebuilt, x, self.values, hidden).mean(), error(rebuilt, x, self.values)

    def measures(self, x: Tensor) -> dict[str, Tensor]:
        """Return the error [] of items x [B, ...] that are rebuilt with nothing hidden."""
        return error(self.decoder(self.backbone(x)), x, self.values)

    def pictures(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return images x [N, C, H, W], what the backbone sees of them, and their reconstructions, in [0, 1]."""
        if not (self.images and self.values == "unit"):
            return {}
        seen = x * ~self._drawn(x)
        return {"reconstructions": {"image": x, "seen": seen, "rebuilt": self.decoder(self.backbone(seen)).sigmoid()}}

    def _drawn(self, x: Tensor) -> Tensor:
        """Draw what is hidden of items x [B, ...]: true or false, in a shape that expands to that of x."""
        if x.ndim == 2:
            return torch.rand(x.shape, device=x.device) < self.share
        sides = x.shape[2:]
        drawn = torch.rand(len(x), 1, *(-(-side // self.patch) for side in sides), device=x.device) < self.share
        for dimension, side in enumerate(sides, 2):
            drawn = drawn.repeat_interleave(self.patch, dimension).narrow(dimension, 0, side)
        return drawn

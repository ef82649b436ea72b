"""Denoising autoencoder: rebuild an item from the backbone's features of a corrupted copy.

Sources: Hinton & Salakhutdinov 2006, Science 313; Vincent et al. 2008 (denoising), ICML.

Legend: B items, N images, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, binary_cross_entropy_with_logits, grid_sample, mse_loss

from metalearn_cli.models._decoder import ConvDecoder, DenseDecoder


class Autoencoder(nn.Module):
    """The loss fits the data: cross-entropy per pixel for values in [0, 1], squared error for real ones.

    Args:
        backbone: the encoder; maps items [B, ...] to features and says their number as `out_dim`.
        shape: of one item.
        value_range: "unit" for values in [0, 1], "real" for standardised ones.
        decoder: "conv" (images only), "dense", or "auto" (conv for images).
        hidden: channels (conv) or width (dense) of the decoder, >= 1.
        noise: standard deviation of the noise added to the input, >= 0.
        warp: standard deviation of the entries of the random affine map that distorts an input image, >= 0; what is
            rebuilt is the undistorted image, so features learn to see through such changes.

    Raises:
        ValueError: if a value is out of range, or conv is asked for items that are no images.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape: tuple[int, ...],
        value_range: str,
        decoder: Literal["auto", "conv", "dense"] = "auto",
        hidden: int = 64,
        noise: float = 0.0,
        warp: float = 0.2,
    ) -> None:
        super().__init__()
        is_image = len(shape) == 3
        if decoder == "conv" and not is_image:
            raise ValueError(f"decoder conv needs images, but items have shape {list(shape)}; use dense or auto")
        for name, value, low in (("hidden", hidden, 1), ("noise", noise, 0), ("warp", warp, 0)):
            if value < low:
                raise ValueError(f"{name} must be >= {low}, got {value}")
        self.backbone = backbone
        kind = ConvDecoder if decoder == "conv" or (decoder == "auto" and is_image) else DenseDecoder
        self.decoder = kind(cast(int, backbone.out_dim), tuple(shape), hidden)
        self.unit = value_range == "unit"
        self.noise = noise
        self.warp = warp if is_image else 0.0

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] and metrics of items x [B, ...]; their classes y are not looked at."""
        output = self.decoder(self.backbone(self._corrupted(x)))
        loss = binary_cross_entropy_with_logits(output, x) if self.unit else mse_loss(output, x)
        rebuilt = output.detach().sigmoid() if self.unit else output.detach()
        return loss, {"mse": mse_loss(rebuilt, x)}

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return images [2 N, C, H, W] in rows of 8: originals, and under each its reconstruction."""
        if x.ndim != 4 or not self.unit:
            return {}
        rebuilt = self.decoder(self.backbone(x)).sigmoid()
        rows = [part for pair in zip(x.split(8), rebuilt.split(8), strict=True) for part in pair]
        return {"reconstructions": torch.cat(rows)}

    def _corrupted(self, x: Tensor) -> Tensor:
        if self.warp:
            maps = torch.eye(2, 3, device=x.device, dtype=x.dtype) + self.warp * torch.randn(
                len(x), 2, 3, device=x.device, dtype=x.dtype
            )
            x = grid_sample(x, affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)
        return x + self.noise * torch.randn_like(x) if self.noise else x

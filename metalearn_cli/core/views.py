"""Views of items: random changes that a representation should not depend on.

They draw from torch's generator, which the loop seeds at each step, or from a given one.

Legend: N items, L tokens, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample


def affine(x: Tensor, spread: float, generator: Generator | None = None) -> Tensor:
    """Return images x [N, C, H, W], each under a random affine map; pixels from outside the image are 0.

    Args:
        x: images.
        spread: standard deviation of the entries of the map (the identity plus such noise), >= 0; that of shifts, in
            half image sides, is half as large.
        generator: where random numbers are drawn from; None for torch's own.
    """
    scale = x.new_tensor([1.0, 1.0, 0.5])
    noise = torch.randn(len(x), 2, 3, generator=generator, device=x.device, dtype=x.dtype)
    maps = torch.eye(2, 3, device=x.device, dtype=x.dtype) + spread * scale * noise
    return grid_sample(x, affine_grid(maps, list(x.shape), align_corners=False), align_corners=False)


def thinned(x: Tensor, share: float, generator: Generator | None = None) -> Tensor:
    """Return texts of ids x [N, L] in which a share of the tokens, in [0, 1), is replaced by padding (0)."""
    return x * (torch.rand(x.shape, generator=generator, device=x.device) >= share)


def noisy(x: Tensor, deviation: float, generator: Generator | None = None) -> Tensor:
    """Return items x [N, ...] plus normal noise of a standard deviation >= 0."""
    return x + deviation * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

"""Views of items: random changes that a representation should not depend on.

They draw from torch's generator, which the loop seeds at each step, or from a given one.

Legend: N items, L tokens or length, F features, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from metalearn_cli.core.items import Items, each


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


def dimmed(x: Tensor, strength: float) -> Tensor:
    """Return images x [N, C, H, W] with each channel multiplied by a random factor in [1 - strength, 1]."""
    return x * (1 - strength * torch.rand(*x.shape[:2], 1, 1, device=x.device, dtype=x.dtype))


def shifted(x: Tensor, share: float) -> Tensor:
    """Return series x [N, C, L], each moved in a circle by up to a share of its length either way."""
    length = x.shape[2]
    far = ((2 * torch.rand(len(x), 1, 1, device=x.device) - 1) * share * length).round().long()
    return x.gather(2, (torch.arange(length, device=x.device) + far).remainder(length).expand_as(x))


def view(x: Items, strength: float) -> Items:
    """Return a random view of items of any kind; an item's parts have views of their own.

    Args:
        x: images [N, C, H, W], which get a random affine map and a factor of each channel; series [N, C, L], which are
            shifted and get noise; vectors [N, F], which get noise; or texts of ids [N, L], which lose tokens.
        strength: > 0 and < 1: spread of the affine map and of the factors, share of the length of a shift, standard
            deviation of the noise, share of the tokens.
    """
    return each(lambda part: _view(part, strength), x)


def _view(x: Tensor, strength: float) -> Tensor:
    if not x.is_floating_point():
        return thinned(x, strength)
    if x.ndim == 4:
        return dimmed(affine(x, strength), strength)
    return noisy(shifted(x, strength) if x.ndim == 3 else x, strength)

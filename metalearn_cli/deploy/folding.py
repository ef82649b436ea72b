"""Batch statistics fixed once and for all, so that an item's features depend on no other item.

Legend: B items, C channels, ... the rest of an item's shape.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from metalearn_cli.backbones.common.norms import EPS, BatchNorm, BatchNormReluPool
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Items, each
from metalearn_cli.core.network import Params, moments


class FixedNorm(nn.Module):
    """Batch normalisation by stored statistics.

    Args:
        layer: the layer whose weight and bias it takes.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: BatchNorm | BatchNormReluPool) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("mean", torch.zeros_like(layer.bias))
        self.register_buffer("variance", torch.ones_like(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, ...] normalised."""
        return batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=EPS)


def statistics_of(backbone: nn.Module, reference: Items) -> Params:
    """Return the batch statistics of some items: mean and variance of each layer that normalises, by name.

    Args:
        backbone: a backbone with its tensors.
        reference: the items.

    Raises:
        UserError: if a layer of the backbone still depends on the batch, so that it cannot be folded.
    """
    fixed = _with_fixed_norms(backbone)
    hooks = [norm.register_forward_pre_hook(_measure) for norm in _norms(fixed).values()]
    with torch.no_grad():
        together = fixed(reference)
        for hook in hooks:
            hook.remove()
        alone = fixed(each(lambda part: part[:1], reference))
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3 * float(together.abs().max())):
        told = f"{type(backbone).__name__} has a layer that depends on the batch and that cannot be fixed"
        raise UserError(f"{told}; it must be one of metalearn_cli.backbones.common.norms")
    return {name: tensor for name, tensor in fixed.named_buffers() if name.rpartition(".")[0] in _norms(fixed)}


def folded(backbone: nn.Module, statistics: Params) -> nn.Module:
    """Return a backbone in eval mode that normalises by fixed statistics; the given one does not change.

    Args:
        backbone: a backbone with its tensors.
        statistics: what `statistics_of` has returned; {} for a backbone without batch statistics.
    """
    fixed = _with_fixed_norms(backbone) if statistics else copy.deepcopy(backbone)
    found = dict(fixed.named_buffers())
    for name, value in statistics.items():
        found[name].copy_(value)
    return fixed.eval().requires_grad_(False)


def _with_fixed_norms(backbone: nn.Module) -> nn.Module:
    """Return a copy of a backbone, in eval mode, with other layers in place of those that depend on the batch."""
    copied = copy.deepcopy(backbone).eval()
    for name, layer in list(copied.named_modules()):
        if not isinstance(layer, BatchNorm | BatchNormReluPool):
            continue
        instead: nn.Module = FixedNorm(layer)
        if isinstance(layer, BatchNormReluPool):
            instead = nn.Sequential(instead, nn.ReLU(), *[nn.MaxPool2d(2)] * layer.pool)
        owner, _, own = name.rpartition(".")
        setattr(copied.get_submodule(owner), own, instead)
    return copied


def _norms(fixed: nn.Module) -> dict[str, FixedNorm]:
    return {name: layer for name, layer in fixed.named_modules() if isinstance(layer, FixedNorm)}


def _measure(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Store the statistics of the inputs of a layer."""
    norm, (x,) = cast(FixedNorm, layer), inputs
    mean, variance = moments(x.double())
    norm.mean.copy_(mean.flatten())
    norm.variance.copy_(variance.flatten())

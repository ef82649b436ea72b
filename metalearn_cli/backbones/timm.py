"""An image encoder of the library timm, by name, with random weights or those of a file.

Nothing is fetched. The network stays in eval mode, without dropout, so that every way of batching tasks gives the same
numbers. Attention is written out, because the fused kernels have no second derivative on a CPU.

Legend: B items, D features, C channels, H height, W width, h and w height and width of the last maps.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.foreign import (
    blocks_of,
    differentiable,
    drop_unused,
    torchvision_fault,
    undifferentiable,
)
from metalearn_cli.backbones.common.items import check_image
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.importing import importing

OF_TIMM = "weights must be of this very model, with timm's names of tensors"


class Timm(nn.Module):
    """A network that timm's `create_model` builds, without its classifier; features are what the classifier would get.

    Images are scaled here by the mean and standard deviation that the network was trained with; a grey image becomes
    one of equal channels.

    Args:
        shape: (C, H, W) of one image.
        name: of the network in timm, such as vit_small_patch16_224; with a tag (resnet50.a1_in1k) if a file of weights
            was trained with another mean or size than the first of that name.
        weights: file of weights to start from, with timm's names of tensors; None for random ones. See
            `common.weights`. The classifier is left out.

    Attributes:
        out_dim: D.
        maps_shape: (C, h, w), None for a network without maps; then there is no `maps` either.
        batch_statistics: False: an item's output does not depend on other items.

    Raises:
        ValueError: if there is no such network, it does not take these images, or the weights do not fit.
        UserError: if timm or its torchvision cannot be imported.
    """

    batch_statistics = False
    scale: Tensor
    shift: Tensor

    def __init__(self, shape: tuple[int, ...], name: str | None = None, weights: Weights = None) -> None:
        super().__init__()
        check_image(shape, "timm")
        self.encoder = _created(name)
        told = self.encoder.pretrained_cfg
        without = [told["classifier"]] if isinstance(told["classifier"], str) else told["classifier"] or ()
        load_weights(self.encoder, weights, without=[f"{layer}." for layer in without], hint=OF_TIMM)
        differentiable(self.encoder)
        mean, std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)
        self._last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"  # whether channels are the last dimension
        self._try(shape, f"name {name}", told)

    @property
    def blocks(self) -> list[nn.ParameterList]:
        """Return the parameters from input to output, block by block."""
        return blocks_of(self)

    def train(self, mode: bool = True) -> Timm:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of images x [B, C, H, W]."""
        z: Tensor = self.encoder(x * self.scale + self.shift)
        return z.flatten(1)

    @property
    def maps(self) -> Callable[[Tensor], Tensor]:
        """Return the function from images x [B, C, H, W] to the last feature maps [B, C, h, w].

        Raises:
            AttributeError: if the network has tokens instead.
        """
        if self.maps_shape is None:
            raise AttributeError("this network has no maps")
        return self._maps

    def _maps(self, x: Tensor) -> Tensor:
        h: Tensor = self.encoder.forward_features(x * self.scale + self.shift)
        return h.movedim(-1, 1) if self._last else h

    def _try(self, shape: tuple[int, ...], named: str, told: dict[str, Any]) -> None:
        """Encode two images: sets `out_dim` and `maps_shape`, and which parameters learn.

        Raises:
            ValueError: if the network cannot take such images, or has no right gradients.
        """
        x = torch.linspace(0, 1, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape)
        try:
            with torch.enable_grad(), undifferentiable() as found:
                z = self(x)
            drop_unused(self.encoder, z)
            with torch.no_grad():
                h = self._maps(x)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            channels, high, wide = told["input_size"]
            reason = str(error).strip().partition("\n")[0]
            message = f"{named} is a network that cannot take images of shape {list(shape)} ({reason}); it takes images"
            size = f"{channels} x {high} x {wide}: type data.size={high} ({told['interpolation']})"
            raise ValueError(f"{message} of {size}") from error
        if any(getattr(part, "attention_bias_cache", None) for part in self.encoder.modules()):
            raise ValueError(f"{named} is a network that keeps tensors of one call for the next; choose another")
        if found:
            called = ", ".join(sorted(found))
            raise ValueError(f"{named} is a network without right second derivatives (of {called}); choose another")
        self.out_dim = z.shape[1]
        self.maps_shape = tuple(h.shape[1:]) if h.ndim == 4 else None


def _created(name: str | None) -> Any:
    """Return a network of random weights.

    Raises:
        ValueError: if there is none of that name.
    """
    if name is None:
        raise ValueError("name is missing: type backbone.name=NAME of a network of timm, such as vit_small_patch16_224")
    library = _timm()
    if not library.is_model(name):  # also a name that begins with hf-hub: or local-dir:, which would be looked for
        near = get_close_matches(name.partition(".")[0], library.list_models(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"name {name} is no network of timm {library.__version__}{hint}")
    try:
        encoder = library.create_model(name, pretrained=False, num_classes=0)
    except Exception as error:  # of a wrong tag, or of a network that needs another package
        raise ValueError(f"name {name} cannot be built by timm: {str(error).strip().partition(chr(10))[0]}") from error
    for part in encoder.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return encoder.eval()


def _timm() -> Any:
    """Return the package.

    Raises:
        UserError: if it, or the torchvision that it needs, cannot be imported.
    """
    reason = torchvision_fault()
    try:
        with importing():
            import timm
    except ImportError as error:
        _, _, build = torch.__version__.partition("+")
        index = f" --index-url=INDEX, the one that torch's {build} build came from" if build else ""
        message = f"backbone=timm needs timm and torchvision ({reason or error})"
        command = f"pip install --no-deps timm; pip install --no-deps --force-reinstall torchvision{index}"
        raise UserError(f"{message}; type: {command}") from error
    return timm

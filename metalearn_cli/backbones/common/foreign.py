"""What the networks of other libraries need to become backbones."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.overrides import TorchFunctionMode

_log = logging.getLogger("metalearn_cli")


@cache
def torchvision_fault() -> str:
    """Return why the installed torchvision cannot be imported, "" if it can be or is not installed.

    A torchvision of another build than torch's is broken: "operator torchvision::nms does not exist". Libraries look
    for it and import it also where nothing of it is needed. So a broken one is hidden from them in this process.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return ""
    except Exception as error:  # whatever its libraries raise
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's way to say that there is none
        reason = f"the installed torchvision does not fit torch {torch.__version__} and cannot be imported ({error})"
        _log.info("%s; it is left out", reason)
        return reason
    return ""


def blocks_of(module: nn.Module) -> list[nn.ParameterList]:
    """Return a network's parameters, block by block from input to output.

    Each entry of its largest list of modules, such as a transformer's layers, is a block. What is registered before
    the list is the first block, what is registered after it the last one.

    The blocks have no mode: a network of another library stays in eval mode, see `docs/extending.md`.
    """
    owner = {id(p): number for number, layer in enumerate(_layers(module)) for p in layer.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    place = -1.0  # before the list
    for p in module.parameters():
        place = owner.get(id(p), place if place < 0 else float("inf"))
        groups.setdefault(place, []).append(p)
    return [nn.ParameterList(groups[key]) for key in sorted(groups)]


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return the entries of the module list or sequence with the most parameters, [] if there is none."""
    lists = [
        list(part) for part in module.modules() if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 1
    ]
    return max(lists, key=lambda parts: sum(p.numel() for part in parts for p in part.parameters()), default=[])


def differentiable(module: nn.Module) -> None:
    """Replace, in place, what keeps a network from right gradients in a batch of tasks.

    A parametrised tensor, such as a normalised weight, is replaced by its value, because torch cannot batch the former.
    An embedding's padding is given up: torch drops its gradient, but not everywhere in a batch of tasks.
    A mean over all places is computed as such: torch's pooling is slow in a batch of tasks, and warns.
    A hard sigmoid is written out: torch's has no second derivative.
    """
    for part in list(module.modules()):
        if isinstance(part, nn.Embedding):
            part.padding_idx = None
        if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1)):
            part.__class__ = _Mean
        if isinstance(part, nn.Hardsigmoid):
            part.__class__ = _Hardsigmoid
        if is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]  # a ModuleDict
                remove_parametrizations(part, name)


class _Mean(nn.AdaptiveAvgPool2d):
    """The mean over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, 1, 1] of x [B, C, H, W]."""
        return x.mean((2, 3), keepdim=True)


class _Hardsigmoid(nn.Hardsigmoid):
    """A sigmoid made of straight lines."""

    def forward(self, x: Tensor) -> Tensor:
        """Return it of each entry of x."""
        return functional.relu6(x + 3) / 6


def drop_unused(module: nn.Module, z: Tensor) -> set[str]:
    """Turn the parameters that features z do not depend on (a pooler, a mask token) into buffers, which do not learn.

    Returns:
        the names of the parameters that are left.
    """
    named = dict(module.named_parameters())
    found = torch.autograd.grad(z.float().square().sum(), list(named.values()), allow_unused=True)
    unused = {id(p) for p, gradient in zip(named.values(), found, strict=True) if gradient is None}
    for part in list(module.modules()):
        for name, p in list(part.named_parameters(recurse=False)):
            if id(p) in unused:
                delattr(part, name)
                part.register_buffer(name, p.detach())
    return {name for name, p in named.items() if id(p) not in unused}


@contextmanager
def undifferentiable() -> Iterator[set[str]]:
    """Collect the names of functions that a block calls and whose second derivative torch lacks, or has wrong.

    Normalisation by the statistics of the batch is wrong in a batch of tasks, and fused attention has no second
    derivative on a CPU (torch 2.13).
    """
    found: set[str] = set()
    with _Watch(found):
        yield found


class _Watch(TorchFunctionMode):
    """Adds to a set the names of such functions, as they are called."""

    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch."""
        if func is functional.scaled_dot_product_attention or (
            func in (functional.batch_norm, functional.instance_norm) and (kwargs or {}).get("training", True)
        ):
            self.found.add(func.__name__)
        return func(*args, **(kwargs or {}))

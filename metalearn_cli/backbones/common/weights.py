"""Weights from a file: safetensors, or torch's own format with nothing but tensors and plain values.

Torch's format is a pickle, which may run code; it is read by torch's `weights_only` reader, which refuses all code.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metalearn_cli.core.build import Spec, mapped
from metalearn_cli.core.check import OnDisk

Weights = Annotated[str | None, OnDisk()]
"""The setting of a backbone that names such a file."""

COUNTER = "num_batches_tracked"  # of batch normalisation, which does not need it
WRAPPERS = ("state_dict", "model")  # what training scripts put the tensors under
PARALLEL = "module."  # what DataParallel puts before each name
PLAIN = "save the tensors alone, with torch.save(model.state_dict(), FILE)"
SHOWN = 3

_log = logging.getLogger("metalearn_cli")


def load_weights(module: nn.Module, path: str | None, without: Sequence[str] = (), hint: str = "") -> None:
    """Replace all tensors of a network by those of a file, strictly.

    Args:
        module: the network.
        path: of the file; None changes nothing.
        without: beginnings of names in the file that are left out, such as those of a classifier.
        hint: what to say of files that do not fit.

    Raises:
        ValueError: if the file is missing or damaged, or has other tensors than the network, or numbers that are not
            finite.
    """
    if path is None:
        return
    read = {name: tensor for name, tensor in _tensors(path).items() if not name.endswith(COUNTER)}
    stored = {name: tensor for name, tensor in read.items() if not name.startswith(tuple(without))}
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith(COUNTER)}
    kinds = {name: (_kind(wanted.get(name)), _kind(stored.get(name))) for name in {**wanted, **stored}}
    differing = [f"{name} (here {here}, there {there})" for name, (here, there) in kinds.items() if here != there]
    if differing:
        more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        told = f"{'; '.join(differing[:SHOWN])}{more}" + (f"; {hint}" if hint else "")
        raise ValueError(f"weights {path} has the tensors of another network than this {_name(module)}: {told}")
    if wrong := [name for name, tensor in stored.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"weights {path} has numbers that are NaN or infinite, in {', '.join(wrong[:SHOWN])}")
    module.load_state_dict(stored, strict=False)
    left = [name for name in read if name not in stored]
    told = f"; left out: {', '.join(left)}" if left else ""
    _log.info("loaded %d/%d tensors of the backbone from %s%s", len(stored), len(wanted), path, told)


def without_weights(spec: Spec) -> dict[str, Any]:
    """Return a backbone's settings for a checkpoint, which has the weights itself."""
    return cast(dict[str, Any], mapped(spec, lambda own: own | ({"weights": None} if "weights" in own else {})))


def _tensors(path: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        ValueError: if it is missing, damaged, or has anything else.
    """
    if not Path(path).is_file():
        raise ValueError(f"weights {path} does not exist, or is no file")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on other files, which are refused below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message says how to load the file unsafely
        raise ValueError(f"weights {path} is refused: it holds more than tensors, or is damaged; {PLAIN}") from error
    except (SafetensorError, Exception) as error:  # torch's reader can raise almost any error on a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"weights {path} is damaged, or no file of weights ({reason})") from error
    for wrapper in WRAPPERS:
        found = found[wrapper] if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"weights {path} must hold tensors by name and nothing else, as a state_dict")
    wrapped = all(str(name).startswith(PARALLEL) for name in found)
    return {str(name).removeprefix(PARALLEL if wrapped else ""): tensor for name, tensor in found.items()}


def _kind(tensor: Tensor | None) -> str:
    """Return what two tensors must share for one to replace the other."""
    if tensor is None:
        return "absent"
    numbers = "" if tensor.is_floating_point() and tensor.layout == torch.strided else f"{tensor.dtype} "
    return f"{numbers}{list(tensor.shape)}"


def _name(module: nn.Module) -> str:
    return type(module).__name__.lower()

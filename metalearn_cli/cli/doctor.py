"""`mlx doctor`: installed versions, devices and their precisions, and the folders in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from metalearn_cli import __version__
from metalearn_cli.cli.composing import defaults
from metalearn_cli.core.config import Precision
from metalearn_cli.core.config import Runtime as RuntimeConfig
from metalearn_cli.core.network import pure
from metalearn_cli.core.places import config_dir, expanded
from metalearn_cli.data.common.cache import cache_dir
from metalearn_cli.engine.runtime import Runtime, available, unsupported, usual_threads

_PACKAGES = ("torch", "lightning-fabric", "hydra-core", "omegaconf", "safetensors", "numpy", "rich", "tqdm")


def examine(runs_dir: str) -> dict[str, dict[str, str]]:
    """Return facts under headings.

    Args:
        runs_dir: the folder of all runs.
    """
    versions = {"metalearn-cli": __version__, "python": f"{platform.python_version()} on {platform.platform()}"}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    devices = {}
    usual = defaults("pretrain").runtime
    for kind, count in available().items():
        works = [precision for precision in get_args(Precision) if _works(usual, kind, precision)]
        devices[kind] = f"{_name(kind, count)}; works in {', '.join(works)}"
    data = os.environ.get("MLX_DATA_DIR")
    places = {
        "configs": str(config_dir()),
        "runs": _place(Path(runs_dir)),
        "cache": _place(cache_dir()),
        "data mirror": _place(Path(expanded(data))) if data else "not set (MLX_DATA_DIR)",
    }
    return {"versions": versions, "devices": devices, "places": places}


def _name(kind: str, count: int) -> str:
    if kind == "gpu":
        return ", ".join(torch.cuda.get_device_name(index) for index in range(count))
    if kind != "cpu":
        return str(count)
    threads, reason = usual_threads()
    return f"{os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)} ({reason})"


def _place(path: Path) -> str:
    """Return a folder's path, whether it is writable, and its free space."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free"
    notes = [free] if path.is_dir() else ["does not exist yet", free]
    if not os.access(there, os.W_OK):
        notes.append("not writable")
    return f"{path.absolute()} ({', '.join(notes)})"


def _works(usual: RuntimeConfig, kind: str, precision: str) -> bool:
    """Whether one step of a small network gives finite gradients."""
    if unsupported(kind, precision):
        return False
    changes: Any = {"accelerator": kind, "precision": precision}
    runtime = Runtime(replace(usual, **changes))
    apply, params = pure(nn.Conv2d(1, 4, 3))
    params = runtime.place(params)
    (x_BCHW,) = runtime.cast((torch.ones(2, 1, 8, 8, device=runtime.device),))
    try:
        runtime.under_precision(apply)(params, x_BCHW).float().square().mean().backward()
    except (RuntimeError, TypeError):
        return False
    return all(bool(p.grad.isfinite().all()) for p in params.values() if p.grad is not None)

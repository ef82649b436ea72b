"""The slots of a sweep: how many jobs run at once, and the variables that give each its GPU or its share of cores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metalearn_cli.core.config import Sweep
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.machine import cores, free_memory, gpus

PROCESS = 400 << 20
"""Bytes of memory that a process needs for torch and a small data set; with less, not even the smallest job begins."""


class Slot(NamedTuple):
    """A place in which one job at a time runs.

    Attributes:
        name: what it has, in words.
        environment: the variables that give it to a process.
    """

    name: str
    environment: dict[str, str]


def slots_of(config: Sweep, runtimes: Sequence[Mapping[str, Any]], apart: bool = False) -> list[Slot]:
    """Return the slots of a sweep; none if its jobs can run in this process, one after the other.

    Jobs that differ in `runtime.tuned` cannot: the threads of a process keep how they treat denormal numbers.

    Args:
        config: the settings of the sweep.
        runtimes: the settings `runtime` of its jobs.
        apart: whether each job has a process of its own in any case.

    Raises:
        ConfigError: if the GPUs or the memory do not allow so many jobs at once.
    """
    found = gpus() if any(runtime["accelerator"] in ("auto", "gpu") for runtime in runtimes) else []
    most = len(found) * config.slots_per_gpu
    threads = max(runtime["threads"] or 1 for runtime in runtimes)
    usual = most or max(1, cores() // threads)
    number = min(usual, len(runtimes)) if config.slots == "auto" else config.slots
    if number == 1 and not apart and len({runtime["tuned"] for runtime in runtimes}) == 1:
        return []
    if found and number > max(most, 1):
        has = f"{len(found)} GPU{'s' * (len(found) > 1)}"
        told = f"must be <= {most}: this machine has {has}, with {config.slots_per_gpu} at once on each; got {number}"
        raise ConfigError([Problem("sweep.slots", f"{told}; a GPU takes more with sweep.slots_per_gpu=N", str(most))])
    if found and any(isinstance(runtime["devices"], list) for runtime in runtimes):
        told = "must be 1, because a sweep with slots gives each job its GPU; set CUDA_VISIBLE_DEVICES to choose them"
        raise ConfigError([Problem("runtime.devices", told, "1")])
    free = free_memory()
    if free is not None and number * PROCESS > free:
        fit = max(1, free // PROCESS)
        if config.slots != "auto":
            told = f"{number} jobs at once need {_size(number * PROCESS)} or more of memory, {_size(free)} are free"
            raise ConfigError([Problem("sweep.slots", f"must be <= {fit}: {told}", str(fit))])
        number = fit
    own = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, min(cores(), int(own) if own.isdigit() and int(own) else cores()) // number)
    return [_slot(found[index % len(found)] if found else None, share) for index in range(number)]


def _slot(gpu: str | None, share: int) -> Slot:
    environment = {"OMP_NUM_THREADS": str(share)}
    if gpu is None:
        return Slot(f"{share} thread{'s' * (share > 1)}", environment)
    return Slot(f"GPU {gpu}", environment | {"CUDA_VISIBLE_DEVICES": gpu})


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"

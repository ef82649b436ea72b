"""What torchrun and srun say of the processes that they start. Nothing here imports torch."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""The variable in which torchrun says how often it has started this process again."""


class Launch(NamedTuple):
    """What a launcher says of this process.

    Attributes:
        by: the launcher.
        rank: the number of this process.
        world: how many processes there are.
        local: the number of this process among those on its machine.
        meeting: where the ranks find each other (`init_method` of torch.distributed).
    """

    by: str
    rank: int
    world: int
    local: int
    meeting: str


def launched() -> Launch | None:
    """Return what a launcher says of this process; None if none started it, or started it alone."""
    told = os.environ
    try:
        if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= told.keys():
            rank = int(told["RANK"])
            found = Launch("torchrun", rank, int(told["WORLD_SIZE"]), int(told.get("LOCAL_RANK", rank)), "env://")
        elif "SLURM_STEP_NUM_TASKS" in told:
            port = 20000 + int(told["SLURM_JOB_ID"]) % 10000  # the same on all ranks, and another one for each job
            meeting = f"tcp://{_first_host(told['SLURM_STEP_NODELIST'])}:{port}"
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
            rank, world, local = (int(told[name]) for name in names)
            found = Launch("srun", rank, world, local, meeting)
        else:
            return None
    except (KeyError, ValueError):  # variables of something else
        return None
    return found if found.world > 1 else None


def restarted() -> bool:
    """Whether torchrun starts this process again after another one has died."""
    return os.environ.get(RESTARTS, "0") not in ("", "0")


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's list of hosts: "node03" of "node[03-05,09],login"."""
    prefix, number, suffix = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", nodes).groups(default="")  # type: ignore[union-attr]  # it fits anything
    return prefix + number + suffix

"""Facts about this machine that need no torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from metalearn_cli.core.errors import Problem

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
"""Where Linux tells the memory of the machine, and that of the control group which a container sees as its own."""


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def description() -> str:
    """Return what computed a result, in words, such as "2 cores, x86_64, Linux"."""
    return f"{cores()} core{'s' * (cores() != 1)}, {platform.machine()}, {platform.system()}"


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; without a driver, none."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in given.split(",")]
        return names[: names.index("-1")] if "-1" in names else [name for name in names if name]
    if not (tool := shutil.which("nvidia-smi")):
        return []
    told = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(index) for index, _ in enumerate(re.findall(r"^GPU \d+", told, re.MULTILINE))]


def free_memory() -> int | None:
    """Return the bytes of memory that new processes can have; None where the system does not tell."""
    found = re.search(r"^MemAvailable: +(\d+) kB", contents(MEMINFO), re.MULTILINE)
    free = [int(found[1]) * 1024] if found else []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = contents(CGROUP / limit).strip(), contents(CGROUP / used).strip()
        if most.isdigit() and now.isdigit():  # not "max"
            free.append(max(0, int(most) - int(now)))
    return min(free, default=None)


def median_seconds(run: Callable[[], object], calls: int = 200) -> float:
    """Return the median of the seconds that some calls take; as many before them are not counted."""
    seconds = list[float]()
    for _ in range(2 * calls):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return median(seconds[calls:])


def contents(path: Path) -> str:
    """Return what a file of the system holds, "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def too_many_threads(threads: object) -> list[Problem]:
    """Return the problem of a number of threads on this machine, if any."""
    if not isinstance(threads, int) or threads <= cores():
        return []
    return [
        Problem("runtime.threads", f"this machine has {cores()} cores; must be at most that, or null, got {threads}")
    ]

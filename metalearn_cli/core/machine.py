"""Facts about this machine that need no torch."""

from __future__ import annotations

import os

from metalearn_cli.core.errors import Problem


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def too_many_threads(threads: object) -> list[Problem]:
    """Return the problem of a number of threads on this machine, if any."""
    if not isinstance(threads, int) or threads <= cores():
        return []
    return [
        Problem("runtime.threads", f"this machine has {cores()} cores; must be at most that, or null, got {threads}")
    ]

"""The jobs of a sweep as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from metalearn_cli.records import sweeps
from metalearn_cli.records.runs import is_held, locked
from metalearn_cli.studies.slots import Slot
from metalearn_cli.studies.sweep import End, Job, Process


class Processes:
    """Starts each job in a process of its own, a `studies.sweep.Engine`.

    A process holds the lock of the job's folder until it ends: one that outlived its scheduler is found by it.

    Args:
        slots: where jobs run.
        command: what begins the command line of each process; the words of the job follow.
    """

    def __init__(self, slots: Sequence[Slot], command: Sequence[str]) -> None:
        self.slots, self._command = slots, command

    def has(self, job: Job) -> bool:
        """Whether a job runs."""
        return is_held(job.folder)

    def start(self, job: Job, sweep: str, slot: int) -> Process:
        """Start a job in a slot, unless it runs."""
        if (lock := locked(job.folder)) is None:
            return Left(job, sweep)
        with lock, (job.folder / "output.json").open("wb") as output, (job.folder / "log").open("ab") as log:
            child = subprocess.Popen(
                [*self._command, *job.words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=os.environ | job.names(sweep) | self.slots[slot].environment,
                start_new_session=True,  # a Ctrl-C is for this process, which asks the jobs to save
                pass_fds=[lock.fileno()],
            )
            lock.truncate(0)
            lock.write(json.dumps({"pid": child.pid, "sweep": sweep, "slot": slot}))
        return _Child(job, child, slot)


class _Child:
    """A process that this one has started."""

    found = False

    def __init__(self, job: Job, child: subprocess.Popen[bytes], slot: int) -> None:
        self._job, self._child, self.slot = job, child, slot

    def end(self) -> End | None:
        """Return how it ended, None while it runs."""
        code = self._child.poll()
        return None if code is None else end_of(code, self._job)

    def stop(self) -> bool:
        """Ask it to save and end; return whether this sweep may do that."""
        self._child.terminate()
        return True

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()
        self._child.wait()


class Left:
    """A process that outlived its scheduler, or that another sweep has started."""

    found = True

    def __init__(self, job: Job, sweep: str) -> None:
        self._job, self._sweep = job, sweep
        owner = _owner(job)
        self.slot = owner["slot"] if owner else -1

    def end(self) -> End | None:
        """Return how it ended, which nobody knows; None while it runs."""
        return None if is_held(self._job.folder) else End("", again=True)

    def stop(self) -> bool:
        """Ask it to save and end, unless another sweep that lives has started it; return whether it was asked."""
        owner = _owner(self._job)
        runs_dir = self._job.runs_dir
        if not owner or (owner["sweep"] != self._sweep and is_held(sweeps.folder_of(runs_dir, owner["sweep"]))):
            return False
        with suppress(ProcessLookupError):
            os.kill(owner["pid"], signal.SIGTERM)
        return True

    def kill(self) -> None:
        """Leave it alone."""


def end_of(code: int, job: Job) -> End:
    """Return how a job's process ended, from its exit code, which is less than 0 for a signal."""
    if code >= 0:
        return End(f"exit code {code}; see {job.folder / 'log'}", again=False)
    memory = "if memory is short, type fewer sweep.slots"
    return End(f"killed by {signal.Signals(-code).name}", again=True, advice=memory)


def _owner(job: Job) -> dict[str, Any] | None:
    """Return what the lock of a job says of the process that holds it; None if it says nothing."""
    try:
        found = json.loads((job.folder / "lock").read_text())
        return {"pid": int(found["pid"]), "sweep": str(found["sweep"]), "slot": int(found["slot"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None

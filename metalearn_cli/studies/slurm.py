"""The jobs of a sweep as jobs of SLURM, each with a script of its own.

SLURM's queue is the only record of what was submitted: a job is found in it by the path of its script. A job that is
pre-empted comes back under the same number, and its run goes on, because the run says which job it is.
"""

from __future__ import annotations

import getpass
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.core import config
from metalearn_cli.core.errors import UserError
from metalearn_cli.records.runs import write_text
from metalearn_cli.studies.slots import Slot
from metalearn_cli.studies.sweep import End, Job, LostJobsError, Process

LOOK = 5.0
"""Seconds between two looks at the queue."""

PATIENCE = 600.0
"""Seconds for which the queue may give no answer."""

WARNING = 120
"""Seconds before its time is over at which SLURM asks a job to save."""


class Entry(NamedTuple):
    """A job in the queue: its number and its state."""

    number: str
    state: str


class Slurm:
    """Submits each job to SLURM, a `studies.sweep.Engine`.

    Args:
        settings: what each job asks SLURM for.
        number: how many jobs are in the queue at once.
        command: what begins the command line of each job; its words follow.

    Raises:
        UserError: if SLURM's commands are not there.
    """

    def __init__(self, settings: config.Slurm, number: int, command: Sequence[str]) -> None:
        if missing := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
            told = f"{' and '.join(missing)} cannot be found: sweep=slurm runs where SLURM's commands are"
            raise UserError(f"{told}, such as the login node of a cluster")
        self.slots: Sequence[Slot] = [Slot("SLURM", {})] * number
        self._settings, self._command = settings, command
        self._queue: dict[str, Entry] = {}
        self._looked = self._answered = -math.inf

    def has(self, job: Job) -> bool:
        """Whether a job is in the queue."""
        return script_of(job) in self.queue()

    def start(self, job: Job, sweep: str, slot: int) -> Process:
        """Submit a job, unless it is in the queue.

        Raises:
            LostJobsError: if SLURM refuses it.
        """
        path = script_of(job)
        if found := self.queue().get(path):
            return _Submitted(self, path, found.number, slot, found=True)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "output.json").unlink(missing_ok=True)  # of an earlier start
        write_text(Path(path), script(job, sweep, self._settings, self._command))
        answer = _asked("sbatch", "--parsable", path)
        if answer.returncode:
            told = f"sbatch refuses a job: {answer.stderr.strip()}; those that are in the queue go on"
            raise LostJobsError(f"{told}, and the same command collects them")
        number = answer.stdout.strip().partition(";")[0]
        self._queue[path] = Entry(number, "PENDING")
        return _Submitted(self, path, number, slot, found=False)

    def queue(self) -> dict[str, Entry]:
        """Return what is in the queue, by the paths of the scripts.

        Raises:
            LostJobsError: if the queue has given no answer for long.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            answer = _asked("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%o")
            if answer.returncode == 0:
                rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
                self._queue = {row[2].strip(): Entry(row[0], row[1]) for row in rows if len(row) == 3}
                self._answered = now
            elif now - self._answered > PATIENCE:
                told = f"squeue gives no answer ({answer.stderr.strip()}); the jobs in the queue go on"
                raise LostJobsError(f"{told}, and the same command collects them")
        return self._queue


class _Submitted:
    """A job in the queue."""

    def __init__(self, slurm: Slurm, path: str, number: str, slot: int, found: bool) -> None:
        self._slurm, self._path, self._number, self.slot, self.found = slurm, path, number, slot, found

    def end(self) -> End | None:
        """Return how it ended, as far as SLURM still knows; None while it is in the queue."""
        if self._path in self._slurm.queue():
            return None
        state = _asked("squeue", "--noheader", "--states=all", f"--jobs={self._number}", "--format=%T").stdout.strip()
        told = f"SLURM ended it ({state.lower() or 'it is no longer in the queue'})"
        advice = f"see {Path(self._path).with_name('log')}, and whether sweep.mem and sweep.time are enough"
        return End(told, again=state != "CANCELLED", advice=advice)

    def stop(self) -> bool:
        """Ask it to save and end; one that waits in the queue is taken out of it."""
        _asked("scancel", "--state=PENDING", self._number)
        # plain scancel would kill it after half a minute, perhaps in the middle of saving
        _asked("scancel", "--state=RUNNING", "--batch", "--signal=TERM", self._number)
        return True

    def kill(self) -> None:
        """Take it out of the queue."""
        _asked("scancel", self._number)


def script_of(job: Job) -> str:
    """Return the path of a job's script."""
    return str(job.folder.absolute() / "job.sh")


def script(job: Job, sweep: str, settings: config.Slurm, command: Sequence[str]) -> str:
    """Return the script of a job."""
    folder = job.folder.absolute()
    asked = {
        "job-name": f"mlx-{job.id}",
        "output": str(folder / "log").replace("%", "%%"),
        "open-mode": "append",
        "signal": f"B:TERM@{WARNING}",
        "partition": settings.partition,
        "account": settings.account,
        "time": settings.time,
        "gres": settings.gpus and f"gpu:{settings.gpus}",
        "cpus-per-task": settings.cpus,
        "mem": settings.mem,
    }
    options = [f'--{name}="{value}"' for name, value in asked.items() if value is not None]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in ["--requeue", *options]),
            *settings.lines,
            *(f"export {name}={value}" for name, value in job.names(sweep).items()),
            'export OMP_NUM_THREADS="${SLURM_CPUS_ON_NODE:-1}"',
            f"exec {shlex.join([*command, *job.words])} > {shlex.quote(str(folder / 'output.json'))}",
            "",
        ]
    )


def _asked(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one of SLURM's commands; one that is not there any more is one that failed."""
    try:
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))

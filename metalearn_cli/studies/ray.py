"""The jobs of a sweep as tasks of Ray, each of which runs `mlx` on the node that Ray chooses.

A task ends with the command that asked for it, whose next start resumes the run. Ray is imported where it is used.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.core import config
from metalearn_cli.core.errors import UserError
from metalearn_cli.records.runs import is_held, locked
from metalearn_cli.studies.processes import Left, end_of
from metalearn_cli.studies.slots import Slot
from metalearn_cli.studies.sweep import End, Job, LostJobsError, Process

ANSWER = 10.0
"""Seconds in which a cluster has to answer."""

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


class Ray:
    """Starts each job as a task, a `studies.sweep.Engine`.

    Args:
        settings: the cluster, and what each job asks it for.
        number: how many jobs Ray has at once; those for which it has no room wait.
        per_gpu: how many share a GPU, if the settings do not say how many GPUs each needs.
        command: what begins the command line of each job; its words follow.

    Raises:
        UserError: if Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, settings: config.Ray, number: int, per_gpu: int, command: Sequence[str]) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError("sweep=ray needs Ray; type: pip install 'metalearn-cli[ray]'") from error
        name, address = "sweep.address", settings.address
        if address is None and "RAY_ADDRESS" in os.environ:
            name, address = "RAY_ADDRESS", os.environ["RAY_ADDRESS"]
        try:
            _reach(address or "")
        except (OSError, OverflowError) as error:
            raise UserError(f"{name}={address}: no cluster of Ray there: {error}") from error
        try:
            ray.init(address=settings.address, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            # Ray says so only in its log, and takes a token by itself only with the address auto
            advice = "" if "RAY_AUTH_MODE" in os.environ else "; if it wants a token, set RAY_AUTH_MODE=token"
            raise UserError(f"{name}={address}: no cluster of Ray there: {error}{advice}") from error
        there = ray.cluster_resources()
        gpus = (1 / per_gpu if there.get("GPU") else 0) if settings.gpus is None else settings.gpus
        for name, wanted in (("CPU", settings.cpus), ("GPU", gpus)):
            if wanted > there.get(name, 0):
                told = f"must be <= {there.get(name, 0):g}, which is what the cluster has, got {wanted:g}"
                raise UserError(f"sweep.{name.lower()}s: {told}")
        self.slots: Sequence[Slot] = [Slot("Ray", {})] * number
        self._command = command
        self._task = ray.remote(num_cpus=settings.cpus, num_gpus=gpus, max_retries=0)(run)

    def has(self, job: Job) -> bool:
        """Whether a job runs."""
        return is_held(job.folder)

    def start(self, job: Job, sweep: str, slot: int) -> Process:
        """Hand a job to Ray, unless it runs."""
        if is_held(job.folder):
            return Left(job, sweep)
        folder = str(job.folder.absolute())
        return _Task(job, self._task.remote([*self._command, *job.words], folder, os.getcwd(), job.names(sweep)), slot)


class _Task:
    """A task of Ray."""

    found = False

    def __init__(self, job: Job, task: Any, slot: int) -> None:
        self._job, self._task, self.slot = job, task, slot

    def end(self) -> End | None:
        """Return how it ended, None while it runs or waits."""
        import ray

        try:
            if not ray.wait([self._task], timeout=0)[0]:
                return None
            code = ray.get(self._task)
        except ray.exceptions.TaskCancelledError:
            return End("cancelled", again=False)
        except ray.exceptions.RayError as error:
            return End(f"Ray lost it ({type(error).__name__})", again=True, advice="see whether its node has failed")
        except ConnectionError as error:
            raise LostJobsError(f"the cluster of Ray cannot be reached any more: {error}") from error
        return End("", again=True) if code is None else end_of(code, self._job)

    def stop(self) -> bool:
        """Ask it to save and end."""
        import ray

        ray.cancel(self._task)
        return True

    def kill(self) -> None:
        """End it at once."""
        import ray

        ray.cancel(self._task, force=True)


def _reach(address: str) -> None:
    """Check that something listens at an address: Ray itself tries again and again, and Ctrl-C does not end that.

    Raises:
        OSError: if nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # else it is auto, or "", which Ray looks up
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()


def run(words: Sequence[str], folder: str, where: str, names: Mapping[str, str]) -> int | None:
    """Run a job; this is what a task does, on its node.

    Args:
        words: the command line.
        folder: the job's.
        where: the folder in which the sweep was started.
        names: more variables of the environment; Ray's say which GPU it has.

    Returns:
        The exit code, less than 0 for a signal; None if the job runs already.
    """
    if (lock := locked(Path(folder))) is None:
        return None
    with lock, open(f"{folder}/output.json", "wb") as output, open(f"{folder}/log", "ab") as log:
        child = subprocess.Popen(
            words,
            cwd=where,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            env=os.environ | names,
            pass_fds=[lock.fileno()],
            preexec_fn=_end_with_the_task,
        )
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the task is cancelled
            child.terminate()


def _end_with_the_task() -> None:
    """Have this process save and end when its parent is killed: Ray gives its GPU to others then."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)

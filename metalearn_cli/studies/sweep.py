"""`mlx -m`: the jobs of a sweep, in this process or at once in processes of their own.

A sweep has no state besides the runs of its jobs, each of which records the `job` that it is. Thus the same command
skips what is done and resumes what was stopped. A job's process holds the lock of the job's folder until it ends: one
that outlived its scheduler is found by it, and waited for.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from metalearn_cli.core.errors import InUseError, Stopped, UserError
from metalearn_cli.engine.signals import first_signal, stop
from metalearn_cli.records import sweeps
from metalearn_cli.records.runs import is_held, list_runs, locked
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies.slots import Slot

STAGGER = 0.5
"""Seconds between the starts of two processes, so that the first has read the data before the second asks for it."""

POLL = 0.05
"""Seconds between two looks at the processes."""

TRIES = 3
"""How often a job is started that something kills, such as a system that is short of memory."""


class Job(NamedTuple):
    """One job.

    Attributes:
        id: identifies what it computes: a hash of its settings, without those that only say where and how.
        settings: those in which the jobs of the sweep differ, as they are typed.
        words: the words after `mlx` that run it.
        runs_dir: the folder of its runs.
    """

    id: str
    settings: dict[str, str]
    words: tuple[str, ...]
    runs_dir: str

    @property
    def folder(self) -> Path:
        """The folder of its lock, and of what its process prints."""
        return sweeps.folder_of_job(self.runs_dir, self.id)

    def runs(self) -> list[dict[str, Any]]:
        """Return the run.json of its runs, the newest first."""
        return [info for info in list_runs(self.runs_dir) if info.get("job") == self.id]


class Watcher(Protocol):
    """Is told of the jobs while they run."""

    def began(self, job: Job, place: str) -> None:
        """A job began, in a slot with this name, or in this process."""

    def found(self, job: Job) -> None:
        """A job runs already: it outlived its scheduler, or another sweep has it, too."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job ended, or was done before."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def look(self, running: Sequence[Job]) -> None:
        """These jobs are running; called often."""


class Trials(Protocol):
    """Makes the jobs of a sweep while it runs, see `studies.search`."""

    number: int

    def begin(self, folder: Path) -> Sequence[tuple[Job, Outcome | None]]:
        """Return the jobs so far, with the outcome of those of which no run tells it; the sweep has this folder."""

    def more(self) -> Job | None:
        """Return one more job; None if there are all."""

    def hopeless(self, running: Sequence[Job]) -> Sequence[tuple[Job, str]]:
        """Return those of the running jobs that shall end early, each with a reason; called often."""

    def ended(self, job: Job, outcome: Outcome) -> Outcome:
        """Take note of what came of a job; return what shall be recorded."""


class Sweep:
    """The jobs of a sweep and what came of them; the results are written whenever one ends.

    Args:
        folder: that of its results; its name is the sweep's id.
        jobs: all of them, in their order, or what makes them.
        facts: more for results.json.
        watcher: is told.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job] | Trials, facts: dict[str, Any], watcher: Watcher) -> None:
        self.folder, self.name, self.watcher = folder, folder.name, watcher
        self.jobs = list(jobs) if isinstance(jobs, Sequence) else []
        self._trials = None if isinstance(jobs, Sequence) else jobs
        self._facts = {"sweep": self.name, **facts}
        self._found: dict[str, Outcome] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within a block, hold the lock of the sweep; record what is done already, and at the end the rest.

        Raises:
            InUseError: if another process runs this sweep.
        """
        if (lock := locked(self.folder)) is None:
            told = f"this sweep is running in another process; see its results so far: mlx runs sweep={self.name}"
            raise InUseError(told)
        try:
            if self._trials:
                for job, outcome in self._trials.begin(self.folder):
                    self.jobs.append(job)
                    if outcome:
                        self._note(job, outcome)
            self._skip()
            yield
        finally:
            if any(outcome.folder or outcome.run for outcome in self._found.values()):
                sweeps.write(self.folder, self._facts, self.outcomes())
            else:
                sweeps.discard(self.folder, *(job.folder for job in self.jobs if not is_held(job.folder)))
            lock.close()

    def _skip(self) -> None:
        """Record the jobs that are done."""
        done: dict[str, dict[str, Any]] = {}
        for runs_dir in dict.fromkeys(job.runs_dir for job in self.jobs):
            found = [info for info in list_runs(runs_dir) if info.get("job") and info["status"] == "completed"]
            done |= {info["job"]: info for info in reversed(found)}
        for job in self.left():
            if info := done.get(job.id):
                self._note(job, _completed(job, info))

    def left(self) -> list[Job]:
        """Return the jobs without an outcome."""
        return [job for job in self.jobs if job.id not in self._found]

    def more(self) -> Job | None:
        """Return one more job that is not done, if this sweep makes jobs while it runs."""
        while self._trials and (job := self._trials.more()):
            self.jobs.append(job)
            done = [info for info in job.runs() if info["status"] == "completed"]
            if not done:
                return job
            self.record(job, _completed(job, done[0]))
        return None

    def hopeless(self, running: Sequence[Job]) -> Sequence[tuple[Job, str]]:
        """Return those of the running jobs that shall end early, each with a reason."""
        return self._trials.hopeless(running) if self._trials else ()

    def record(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of a job."""
        self._note(job, outcome)
        sweeps.write(self.folder, self._facts, self.outcomes())

    def _note(self, job: Job, outcome: Outcome) -> None:
        self._found[job.id] = self._trials.ended(job, outcome) if self._trials else outcome
        self.watcher.ended(job, self._found[job.id])

    def end(self, code: int) -> None:
        """Record that the jobs without an outcome are not begun, because of a signal or a failure with this code."""
        for job in self.left():
            self._found[job.id] = Outcome(job.settings, "not begun", code=code)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes so far, in the order of the jobs."""
        return [self._found[job.id] for job in self.jobs if job.id in self._found]

    def stopped(self, number: int) -> Stopped:
        """Return the exception that says what was done, and how to resume."""
        done = sum(outcome.run is not None for outcome in self._found.values())
        of = self._trials.number if self._trials else len(self.jobs)
        return Stopped(number, f"{done} of {of} jobs are done; resume with: {self._facts['command']}")


def in_turn(sweep: Sweep, attempt: Callable[[Job], Outcome], fail_fast: bool) -> None:
    """Run the jobs that are left in this process, one after the other.

    Args:
        sweep: the sweep.
        attempt: runs a job; raises Stopped after a signal.
        fail_fast: whether the first failure ends the sweep.

    Raises:
        Stopped: after a signal.
    """
    with first_signal((), stop):
        for job in sweep.left():
            try:
                outcome = _attempted(job, attempt, sweep.watcher)
            except KeyboardInterrupt as error:
                number = error.number if isinstance(error, Stopped) else signal.SIGINT
                told = str(Stopped(number))
                sweep.record(job, Outcome(job.settings, "interrupted", told, 128 + number, _folder(job)))
                sweep.end(128 + number)
                raise sweep.stopped(number) from error
            sweep.record(job, outcome)
            if fail_fast and outcome.code:
                return sweep.end(outcome.code)


def _attempted(job: Job, attempt: Callable[[Job], Outcome], watcher: Watcher) -> Outcome:
    """Run a job, once no other process does; if that has completed it, nothing is left to do."""
    lock, waits = locked(job.folder), False
    while lock is None:
        if not waits:
            watcher.found(job)
        lock, waits = locked(job.folder), True
        time.sleep(POLL)
    with lock:
        if waits and (done := [info for info in job.runs() if info["status"] == "completed"]):
            return _completed(job, done[0])
        watcher.began(job, "")
        return attempt(job)


def at_once(sweep: Sweep, slots: Sequence[Slot], command: Sequence[str], fail_fast: bool) -> None:
    """Run the jobs that are left in processes of their own, as many at once as there are slots.

    Args:
        sweep: the sweep.
        slots: where they run.
        command: what begins the command line of each process; the words of the job follow.
        fail_fast: whether the first failure ends the sweep.

    Raises:
        Stopped: after a signal; the jobs have then saved a checkpoint.
    """
    asked: list[int] = []
    with first_signal((), asked.append):
        pool = _Pool(sweep, slots, command, fail_fast)
        try:
            while pool.turn():
                if asked and pool.ending != 128 + asked[0]:
                    pool.end(128 + asked[0])
                time.sleep(POLL)
        except UserError:  # of a search, for which the jobs are of no use then
            pool.end(2)
            while pool.turn():
                time.sleep(POLL)
            raise
        except KeyboardInterrupt:  # the second one
            pool.kill()
            raise
    if pool.ending is not None:
        sweep.end(pool.ending)
    if asked:
        raise sweep.stopped(asked[0])


class _Running(NamedTuple):
    """A job that runs: in a child of this process or, without one, in a process that outlived its scheduler."""

    job: Job
    process: subprocess.Popen[bytes] | None

    def ended(self) -> bool:
        return not is_held(self.job.folder) if self.process is None else self.process.poll() is not None

    def signal(self, number: int, sweep: str) -> bool:
        """Send a signal; return whether a sweep may do that: no other one that lives has started the job."""
        if self.process is not None:
            self.process.send_signal(number)
            return True
        owner = _owner(self.job)
        if owner is None or (owner["sweep"] != sweep and is_held(sweeps.folder_of(self.job.runs_dir, owner["sweep"]))):
            return False
        with suppress(ProcessLookupError):
            os.kill(owner["pid"], number)
        return True


class _Pool:
    """The processes of a sweep.

    Args:
        sweep: the sweep.
        slots: where jobs run.
        command: what begins the command line of each process.
        fail_fast: whether the first failure ends the sweep.
    """

    def __init__(self, sweep: Sweep, slots: Sequence[Slot], command: Sequence[str], fail_fast: bool) -> None:
        self.sweep, self.slots, self.command, self.fail_fast = sweep, slots, command, fail_fast
        # first those that run already, so that there are never more at once than slots
        self.waiting = sorted(sweep.left(), key=lambda job: not is_held(job.folder))
        self.running: dict[int, _Running] = {}
        self.tries: dict[str, int] = {}
        self.hopeless: dict[str, str] = {}
        self.started = -math.inf
        self.ending: int | None = None

    def turn(self) -> bool:
        """Take note of jobs that ended, and start one that waits; return whether there are more to come."""
        for slot, running in list(self.running.items()):
            if running.ended():
                del self.running[slot]
                self._settle(running)
        free = [slot for slot in range(len(self.slots)) if slot not in self.running]
        if free and self.ending is None:
            if not self.waiting and (job := self.sweep.more()):
                self.waiting.append(job)
            if self.waiting and time.monotonic() - self.started >= STAGGER:
                self._start(self.waiting.pop(0), free)
        running_jobs = [running.job for running in self.running.values()]
        self.sweep.watcher.look(running_jobs)
        if self.ending is None:
            self._prune(running_jobs)
        return bool(self.running or (self.waiting and self.ending is None))

    def _prune(self, running: Sequence[Job]) -> None:
        """Ask the jobs to end that fall behind the others of a search."""
        for job, told in self.sweep.hopeless([job for job in running if job.id not in self.hopeless]):
            (one,) = (own for own in self.running.values() if own.job.id == job.id)
            if one.signal(signal.SIGTERM, self.sweep.name):
                self.hopeless[job.id] = told

    def end(self, code: int) -> None:
        """Ask the jobs to save and end; those that wait are not begun."""
        self.ending = code
        for slot, running in list(self.running.items()):
            if not running.signal(signal.SIGTERM, self.sweep.name):
                del self.running[slot]
                told = Outcome(running.job.settings, "in use", "another sweep runs it", code, _folder(running.job))
                self.sweep.record(running.job, told)
        if self.running:
            self.sweep.watcher.note(f"waiting for {len(self.running)} jobs to save; again to kill them")

    def kill(self) -> None:
        """End the children at once."""
        for running in self.running.values():
            if running.process is not None:
                running.process.kill()

    def _start(self, job: Job, free: Sequence[int]) -> None:
        """Start a job in a free slot, or watch the process that runs it already."""
        if (lock := locked(job.folder)) is None:
            owner = _owner(job)
            self.running[owner["slot"] if owner and owner["slot"] in free else free[0]] = _Running(job, None)
            self.sweep.watcher.found(job)
            return
        with lock, (job.folder / "output.json").open("wb") as output, (job.folder / "log").open("ab") as log:
            slot = free[0]
            names = dict(zip(sweeps.OF_JOB, (self.sweep.name, job.id), strict=True))
            process = subprocess.Popen(
                [*self.command, *job.words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=os.environ | names | self.slots[slot].environment,
                start_new_session=True,  # a Ctrl-C is for this process, which asks the jobs to save
                pass_fds=[lock.fileno()],
            )
            self.running[slot] = _Running(job, process)
            lock.truncate(0)
            lock.write(json.dumps({"pid": process.pid, "sweep": self.sweep.name, "slot": slot}))
        self.started = time.monotonic()
        self.tries[job.id] = self.tries.get(job.id, 0) + 1
        self.sweep.watcher.began(job, self.slots[slot].name)

    def _settle(self, running: _Running) -> None:
        """Record what came of a job that ended, or have it start again."""
        job, process = running
        if process is None:
            done = [info for info in job.runs() if info["status"] == "completed"]
            outcome = _completed(job, done[0]) if done else None
            if not done and self.ending is not None:
                outcome = Outcome(job.settings, "interrupted", "asked to stop", self.ending, _folder(job))
        else:
            outcome = self._outcome(job, process.returncode)
        if job.id in self.hopeless and (outcome is None or not outcome.run):
            outcome = Outcome(job.settings, "pruned", self.hopeless[job.id], folder=_folder(job))
        if outcome is not None:
            self.sweep.record(job, outcome)
            if self.fail_fast and outcome.code and self.ending is None:
                self.end(outcome.code)
        elif self.ending is None:
            self.waiting.insert(0, job)

    def _outcome(self, job: Job, code: int) -> Outcome | None:
        """Return what came of a job whose process ended with a code; None if it shall start again."""
        told = _told(job)
        if "id" in told:
            return _completed(job, told)
        if error := told.get("error"):
            ended = self.ending if self.ending is not None and error["exit_code"] > 128 else error["exit_code"]
            return Outcome(job.settings, error["kind"], error["message"], ended, _folder(job))
        killed = (
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}; see {job.folder / 'log'}"
        )
        if self.ending is not None:  # a signal may come before the process can say that it was stopped
            return Outcome(job.settings, "interrupted", killed, self.ending, _folder(job))
        if code >= 0:
            return Outcome(job.settings, "crashed", killed, 1, _folder(job))
        if self.tries[job.id] < TRIES:
            self.sweep.watcher.note(f"{_named(job)}: {killed}; it is resumed")
            return None
        told_of = f"{killed}, {TRIES} times; if memory is short, type fewer sweep.slots"
        return Outcome(job.settings, "killed", told_of, 1, _folder(job))


def _completed(job: Job, info: dict[str, Any]) -> Outcome:
    return Outcome(job.settings, folder=str(info.get("folder") or ""), run=info)


def _owner(job: Job) -> dict[str, Any] | None:
    """Return what the lock of a job says of the process that holds it; None if it says nothing."""
    try:
        found = json.loads((job.folder / "lock").read_text())
        return {"pid": int(found["pid"]), "sweep": str(found["sweep"]), "slot": int(found["slot"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _told(job: Job) -> dict[str, Any]:
    """Return what the process of a job printed, its result or its error; {} if it was killed before."""
    try:
        found = json.loads((job.folder / "output.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _folder(job: Job) -> str:
    """Return the folder of the newest run of a job, or "" if it has none."""
    return str(next((info["folder"] for info in job.runs()), ""))


def _named(job: Job) -> str:
    return " ".join(f"{key}={value}" for key, value in job.settings.items()) or job.id


def last_line(job: Job) -> str:
    """Return the last line that the process of a job has printed about its progress."""
    try:
        with (job.folder / "log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines: Iterable[str] = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(list(lines)) if line.strip()), "")

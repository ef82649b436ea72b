"""`mlx -m`: the jobs of a sweep, in this process or at once in processes of their own.

A sweep has no state besides the runs of its jobs, each of which records the `job` that it is. Thus the same command
skips what is done and resumes what was stopped. What starts the jobs, an `Engine`, knows those that outlived their
scheduler: they are found and waited for.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
"""How often a job is started without progress that something kills, such as a system that is short of memory."""


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

    def names(self, sweep: str) -> dict[str, str]:
        """Return the variables that tell a process that it is this job of a sweep."""
        return dict(zip(sweeps.OF_JOB, (sweep, self.id), strict=True))

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

    @property
    def number(self) -> int:
        """How many jobs there are, as far as that is known."""

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
            runs_dir = str(self.folder.parent.parent)
            there = f" --runs-dir {shlex.quote(runs_dir)}" if runs_dir != "runs" else ""
            told = f"this sweep is running in another process; see its results so far: mlx runs sweep={self.name}"
            raise InUseError(told + there)
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
            elif self._untouched():
                sweeps.discard(self.folder, *(job.folder for job in self.jobs if not is_held(job.folder)))
            lock.close()

    def _untouched(self) -> bool:
        """Whether there is nothing to keep: no job has a run or may still get one, and a search has no journal."""
        if self.jobs and not self.left():
            return True
        begun = any(job.folder.exists() for job in self.jobs)
        return not begun and [path.name for path in self.folder.iterdir()] == ["lock"]

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
        done = sum(outcome.status in ("completed", "pruned") for outcome in self._found.values())
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


class End(NamedTuple):
    """How a job ended, as far as what started it knows.

    Attributes:
        told: how, in words; "" if nobody knows, so that what it printed may be of an earlier start.
        again: whether it shall be started again if it has no result.
        advice: what to change if that is of no use, or "".
    """

    told: str
    again: bool
    advice: str = ""


class Process(Protocol):
    """A job that was started.

    Attributes:
        slot: the index of the slot in which it runs.
        found: whether an earlier scheduler, or another sweep, has started it.
    """

    slot: int
    found: bool

    def end(self) -> End | None:
        """Return how it ended, None while it runs; called often.

        Raises:
            LostJobsError: if that cannot be known.
        """

    def stop(self) -> bool:
        """Ask it to save and end; return whether this sweep may do that."""

    def kill(self) -> None:
        """End it at once, if this process has started it."""


class Engine(Protocol):
    """Starts jobs: on this machine, see `studies.processes`, or on a cluster.

    Attributes:
        slots: where they run; as many at once as there are.
    """

    slots: Sequence[Slot]

    def has(self, job: Job) -> bool:
        """Whether a job runs, because an earlier scheduler has started it."""

    def start(self, job: Job, sweep: str, slot: int) -> Process:
        """Start a job for a sweep in a slot, unless it runs.

        Raises:
            LostJobsError: if it cannot be started.
        """


class LostJobsError(UserError):
    """What runs the jobs cannot be reached, or starts no more; the jobs that run go on."""


def at_once(sweep: Sweep, engine: Engine, fail_fast: bool) -> None:
    """Run the jobs that are left in processes of their own, as many at once as there are slots.

    Args:
        sweep: the sweep.
        engine: starts them.
        fail_fast: whether the first failure ends the sweep.

    Raises:
        Stopped: after a signal; the jobs have then saved a checkpoint.
    """
    asked: list[int] = []
    with first_signal((), asked.append):
        pool = _Pool(sweep, engine, fail_fast)
        try:
            while pool.turn():
                if asked and pool.ending != 128 + asked[0]:
                    pool.end(128 + asked[0])
                time.sleep(POLL)
        except LostJobsError:
            raise
        except UserError:  # of a search, for which the jobs are of no use then
            pool.end(2)
            while pool.turn():
                time.sleep(POLL)
            raise
        except KeyboardInterrupt as error:  # the second one
            pool.kill()
            sweep.end(128 + signal.SIGINT)
            raise sweep.stopped(signal.SIGINT) from error
    if pool.ending is not None:
        sweep.end(pool.ending)
    if asked:
        raise sweep.stopped(asked[0])


class _Pool:
    """The jobs of a sweep that run, and those that wait.

    Args:
        sweep: the sweep.
        engine: starts them.
        fail_fast: whether the first failure ends the sweep.
    """

    def __init__(self, sweep: Sweep, engine: Engine, fail_fast: bool) -> None:
        self.sweep, self.engine, self.fail_fast = sweep, engine, fail_fast
        # first those that run already, so that there are never more at once than slots
        self.waiting = sorted(sweep.left(), key=lambda job: not engine.has(job))
        self.running: dict[int, tuple[Job, Process]] = {}
        self.tries: dict[str, tuple[int, Any]] = {}
        self.hopeless: dict[str, str] = {}
        self.started = -math.inf
        self.ending: int | None = None

    def turn(self) -> bool:
        """Take note of jobs that ended, and start one that waits; return whether there are more to come."""
        for slot, (job, process) in list(self.running.items()):
            if (end := process.end()) is not None:
                del self.running[slot]
                self._settle(job, end)
        free = [slot for slot in range(len(self.engine.slots)) if slot not in self.running]
        if free and self.ending is None:
            if not self.waiting and (more := self.sweep.more()):
                self.waiting.append(more)
            if self.waiting and time.monotonic() - self.started >= STAGGER:
                self._start(self.waiting[0], free)
        jobs = [job for job, _ in self.running.values()]
        self.sweep.watcher.look(jobs)
        if self.ending is None:
            self._prune(jobs)
        return bool(self.running or (self.waiting and self.ending is None))

    def _start(self, job: Job, free: Sequence[int]) -> None:
        """Start the first job that waits in a free slot, or watch it if it runs already."""
        process = self.engine.start(job, self.sweep.name, free[0])
        self.waiting.pop(0)
        self.running[process.slot if process.slot in free else free[0]] = job, process
        if process.found:
            return self.sweep.watcher.found(job)
        self.started = time.monotonic()
        tries, before = self.tries.get(job.id, (0, None))
        now = [(info["id"], info.get("step")) for info in job.runs()]
        self.tries[job.id] = (tries + 1 if now == before else 1), now
        self.sweep.watcher.began(job, self.engine.slots[process.slot].name)

    def _prune(self, jobs: Sequence[Job]) -> None:
        """Ask the jobs to end that fall behind the others of a search."""
        processes = {job.id: process for job, process in self.running.values()}
        for job, told in self.sweep.hopeless([job for job in jobs if job.id not in self.hopeless]):
            if processes[job.id].stop():
                self.hopeless[job.id] = told

    def end(self, code: int) -> None:
        """Ask the jobs to save and end; those that wait are not begun."""
        self.ending = code
        for slot, (job, process) in list(self.running.items()):
            if not process.stop():
                del self.running[slot]
                told = Outcome(job.settings, "in use", "another sweep runs it", code, _folder(job))
                self.sweep.record(job, told)
        if self.running:
            self.sweep.watcher.note(f"waiting for {len(self.running)} jobs to save; again to kill them")

    def kill(self) -> None:
        """End the jobs at once that this process has started."""
        for job, process in self.running.values():
            process.kill()
            told = "asked to stop" if process.found else "killed by the second signal"
            self.sweep.record(job, Outcome(job.settings, "interrupted", told, 128 + signal.SIGINT, _folder(job)))

    def _settle(self, job: Job, end: End) -> None:
        """Record what came of a job that ended, or have it start again."""
        outcome = self._outcome(job, end)
        if job.id in self.hopeless and (outcome is None or not outcome.run):
            outcome = Outcome(job.settings, "pruned", self.hopeless[job.id], folder=_folder(job))
        if outcome is None:
            self.waiting.insert(0, job)
            return
        self.sweep.record(job, outcome)
        if self.fail_fast and outcome.code and self.ending is None:
            self.end(outcome.code)

    def _outcome(self, job: Job, end: End) -> Outcome | None:
        """Return what came of a job that ended; None if it shall start again."""
        told = _told(job) if end.told else {}
        if "id" in told:
            return _completed(job, told)
        if done := [info for info in job.runs() if info["status"] == "completed"]:
            return _completed(job, done[0])
        error, folder = told.get("error"), _folder(job)
        stopped = error is not None and error["exit_code"] > 128
        if error and not (stopped and end.again):
            ended = self.ending if self.ending is not None and stopped else error["exit_code"]
            return Outcome(job.settings, error["kind"], error["message"], ended, folder)
        if self.ending is not None:  # a signal may come before the process can say that it was stopped
            return Outcome(job.settings, "interrupted", end.told or "asked to stop", self.ending, folder)
        if not end.again:
            return Outcome(job.settings, "crashed", end.told, 1, folder)
        tries, _ = self.tries.get(job.id, (0, None))
        if tries < TRIES:
            if end.told:
                self.sweep.watcher.note(f"{_named(job)}: {end.told}; it is resumed")
            return None
        return Outcome(job.settings, "killed", f"{end.told}, {TRIES} times; {end.advice}", 1, folder)


def _completed(job: Job, info: dict[str, Any]) -> Outcome:
    return Outcome(job.settings, folder=str(info.get("folder") or ""), run=info)


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

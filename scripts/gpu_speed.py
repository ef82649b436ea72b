"""Speed and memory of a meta-step on a device: ours in three ways, the plain PyTorch loop, higher and torchopt.

A workload's contestants share a process, because each start costs seconds; compiled ones have another, because
compiling may take minutes. All processes set up in parallel; then each workload is timed alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import bench_peers
import bench_rivals
import torch
from bench_common import WORKLOADS, Workload, number, on_device, table
from bench_rivals import PLAIN

OURS = {
    "ours, loop": ["runtime.task_batching=loop"],
    "ours, vmap": ["runtime.task_batching=vmap"],
    "ours, vmap compiled": ["runtime.task_batching=vmap", "runtime.task_compile=true"],
}
COMPILED = "ours, vmap compiled"
RIVALS = (PLAIN, "higher", "torchopt", "torchopt, per task")
NAMES = ("W1", "W3", "W1-5", "W2", "W4")  # the most important first
EXACT = ("W1", "W3")  # whose gradients are compared first, of some tasks
TOLERANCE = 1e-9  # of gradients in float64, relative to the plain loop's
BATCHES, TURNS, SETTING_UP = 3, 15, 0.6  # different ones; turns at most; share of the time to set up in


@dataclass
class Figures:
    """The result of a contestant: seconds of its first step and of its turns, peak memory, or why it failed."""

    first: float = float("nan")
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = float("nan")
    off_by: float = float("nan")
    failure: str = ""

    @property
    def median(self) -> float:
        """Seconds of the median turn; not a number where there is none."""
        return median(self.seconds) if self.seconds else float("nan")


def workloads(quick: bool) -> list[Workload]:
    """Return the workloads; quick ones are two, with two tasks a step at most."""
    found = [WORKLOADS[name] for name in NAMES]
    return [replace(workload, tasks=min(2, workload.tasks)) for workload in found[:2]] if quick else found


def contestants(workload: Workload) -> list[str]:
    """Return the installed contestants that can run a workload without compiling."""
    rivals = bench_rivals.rivals(workload)
    return [*(n for n in RIVALS if n in rivals and bench_rivals.installed(n)), *(n for n in OURS if n != COMPILED)]


def settled(device: str) -> float:
    """Wait until the device has nothing left to do, and return the time."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def meta_step(name: str, workload: Workload, device: str) -> Callable[[Any], object]:
    """Set a contestant up; the function takes a whole step on a batch."""
    if name in OURS:
        return bench_peers.our_side(workload, *on_device(device), *OURS[name]).step
    return bench_rivals.rivals(workload)[name](bench_rivals.network(workload, device), workload)


def gradient(name: str, workload: Workload, batch: Any, device: str) -> torch.Tensor:
    """Return a contestant's gradient [P] of a few tasks in float64."""
    few = type(batch)(*(p[:2].double() if p.is_floating_point() else p[:2] for p in batch))
    whose = bench_peers.OURS if name in OURS else name
    return bench_peers.gradient(whose, workload, few, device, OURS.get(name, ()))


class _Contest:
    """The contestants of one process.

    Args:
        workload: what they run.
        device: where.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device
        own = bench_peers.our_side(workload, *on_device(device))
        self.batches = [own.prepared.job.batches(step) for step in range(BATCHES)]
        self.steps: dict[str, Callable[[Any], object]] = {}
        self.plain: torch.Tensor | None = None

    def add(self, name: str) -> Figures:
        """Set a contestant up and run its first steps."""
        found = Figures()
        try:
            if self.workload.name in EXACT and name != COMPILED:
                found.off_by = self._off_by(name)
            before = self._memory(reset=True)
            step = meta_step(name, self.workload, self.device)
            found.first = self._timed(step, 0)
            for turn in range(0 if self.device == "cpu" else 2):  # a CUDA graph is recorded at the second step
                self._timed(step, turn)
            found.peak_mb = (self._memory() - before) / 2**20
            self.steps[name] = step
        except Exception as error:
            found.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if self.device != "cpu":
            torch.cuda.empty_cache()  # other processes set up, too
        return found

    def turn(self, index: int) -> dict[str, float]:
        """Let each contestant take a step, and return the seconds."""
        return {name: self._timed(step, index) for name, step in self.steps.items()}

    def _off_by(self, name: str) -> float:
        found = gradient(name, self.workload, self.batches[0], self.device)
        self.plain = found if name == PLAIN else self.plain
        return float("nan") if self.plain is None else float((found - self.plain).norm() / self.plain.norm())

    def _timed(self, step: Callable[[Any], object], turn: int) -> float:
        began = settled(self.device)
        step(self.batches[turn % BATCHES])
        return settled(self.device) - began

    def _memory(self, reset: bool = False) -> float:
        """Return the bytes of the device that were in use at most since the last reset; not a number on a CPU."""
        if self.device == "cpu":
            return float("nan")
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def _compete(pipe: Connection, workload: Workload, names: list[str], device: str, log: Path) -> None:
    """Set contestants up, send their results, and take a turn on each request."""
    os.setsid()  # so that processes started by the compiler end with it
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")  # the peers' warnings do not belong into a table
    contest = _Contest(workload, device)
    pipe.send({name: contest.add(name) for name in names})
    while isinstance(index := pipe.recv(), int):
        pipe.send(contest.turn(index))


class Group:
    """A process with some contestants of a workload."""

    def __init__(self, workload: Workload, names: list[str], device: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.workload, self.names = workload, names
        self._log = folder / f"{workload.name}-{names[0].replace(' ', '-')}.log"
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_compete, args=(end, workload, names, device, self._log))
        self._process.start()
        end.close()
        self.figures: dict[str, Figures] = {}

    def set_up(self, until: float) -> None:
        """Wait for the contestants to be ready; those that are late are left out."""
        answer = self._answer(until)
        self.figures = answer if isinstance(answer, dict) else {name: Figures(failure=answer) for name in self.names}

    def turn(self, index: int, until: float, counts: bool) -> None:
        """Let each contestant take a step."""
        if not self._process.is_alive():
            return
        answer = self._answer(until, index)
        for name, figures in self.figures.items():
            if isinstance(answer, str):
                figures.failure = figures.failure or answer
            elif counts and name in answer:
                figures.seconds.append(answer[name])

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive() and self._process.pid is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it does not have its own process group yet
                self._process.kill()
        self._process.join()

    def _answer(self, until: float, question: int | None = None) -> Any:
        try:
            if question is not None:
                self._pipe.send(question)
            if self._pipe.poll(max(0.0, until - time.monotonic())):
                return self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            told = self._log.read_text(errors="replace").split("\n")[-4:] if self._log.is_file() else []
            return f"its process died: {' '.join(' '.join(told).split())}"
        self.close()
        return LATE


LATE = "left out: not ready in time"


def compare(device: str, quick: bool, until: float, folder: Path) -> Iterator[tuple[Workload, dict[str, Figures]]]:
    """Yield each workload with its contestants' results.

    Args:
        device: cpu, or cuda:0 and so on.
        quick: see `workloads`; nothing is compiled.
        until: when to be ready, in seconds of `time.monotonic`.
        folder: for what the processes print.
    """
    found = workloads(quick)
    groups = [Group(workload, contestants(workload), device, folder) for workload in found]
    if device != "cpu" and not quick:
        groups += [Group(workload, [COMPILED], device, folder) for workload in found]
    try:
        began = time.monotonic()
        for group in groups:
            group.set_up(began + SETTING_UP * (until - began))
        for left, workload in zip(range(len(found), 0, -1), found, strict=True):
            own = [group for group in groups if group.workload == workload]
            share = time.monotonic() + (until - time.monotonic()) / left
            for index in range(1 + TURNS):  # the first one does not count
                if index > 1 and time.monotonic() > share:
                    break
                for group in own:
                    group.turn(index, until, counts=index > 0)
            for group in own:
                group.close()
            yield workload, {name: figures for group in own for name, figures in group.figures.items()}
    finally:
        for group in groups:
            group.close()


def shown(workload: Workload, results: dict[str, Figures]) -> str:
    """Return a workload's table and its failures."""
    plain = results[PLAIN].median if PLAIN in results else float("nan")
    rows = [
        [
            name,
            number(1e3 * r.median),
            number(workload.tasks / r.median),
            number(plain / r.median),
            number(r.peak_mb),
            number(r.first),
            len(r.seconds),
            f"{r.off_by:.0e}" if r.off_by == r.off_by else "-",
        ]
        for name, r in results.items()
    ]
    header = ["", "ms/step", "tasks/s", "x plain loop", "peak MB", "first step, s", "turns", "gradient off by"]
    notes = [f"{name}: {r.failure}" for name, r in results.items() if r.failure]
    title = f"### {workload.name}: {workload.title} ({workload.tasks} task{'s' * (workload.tasks > 1)} a step)"
    return "\n\n".join([title, table(header, rows), *notes])


def failures(workload: Workload, results: dict[str, Figures]) -> Iterable[str]:
    """Yield the failures of our contestants; those of peers are not counted."""
    for name, figures in results.items():
        if name in OURS and figures.failure and figures.failure != LATE:
            yield f"{workload.name}, {name}: {figures.failure}"
        if name in OURS and figures.off_by > TOLERANCE:
            yield f"{workload.name}, {name}: gradient off by {figures.off_by:.0e}"

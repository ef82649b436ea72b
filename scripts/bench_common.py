"""Code that the benchmarks share: the workloads, our side of a comparison, processes that take turns, and tables.

Every contestant runs in a process of its own, so that its peak memory and its settings are its own. The parent lets
them take turns, so that other load on the machine slows all of them equally.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from metalearn_cli.cli.main import WAITING

ROOT = Path(__file__).resolve().parents[1]

Turn = Callable[[int], float | None]
"""Runs turn i and returns the seconds that count, or None: then the whole turn is timed."""

Maker = Callable[[], Turn]
"""Sets a contestant up in its own process; picklable."""


@dataclass(frozen=True)
class Workload:
    """One meta-step on 28x28 images with conv4-64: batch statistics, 2x2 max-pooling.

    Attributes:
        name: its name in the tables.
        title: its description.
        tasks, way, shot, query, inner_steps, inner_lr, first_order: as the settings of the same names;
            inner_steps = 0 stands for ProtoNet.
        goal: how many times faster than the fastest peer we want to be.
        share: the share of the machine's measured limit that we want to reach.
        allocator: whether the peers, too, run with our settings of the allocator.
    """

    name: str
    title: str
    tasks: int
    way: int
    shot: int
    query: int
    inner_steps: int
    inner_lr: float
    first_order: bool
    goal: float
    share: float
    allocator: bool = False

    @property
    def settings(self) -> list[str]:
        """The command line of `mlx meta-train` that trains on it."""
        words = [f"tasks={self.tasks}", f"shot={self.shot}", f"train_query={self.query}"]
        if not self.inner_steps:
            return [*words, "algorithm=protonet", f"train_way={self.way}"]
        own = {"inner_lr": self.inner_lr, "inner_steps": self.inner_steps, "first_order": self.first_order}
        return [*words, f"way={self.way}", "algorithm=maml", *(f"algorithm.{k}={v}" for k, v in own.items())]

    @property
    def flops(self) -> float:
        """Floating-point operations of a step's convolutions: a multiply-add is two, the rest is not counted.

        An image costs one unit forward and two backward. The backward pass through a second-order inner step costs six
        more: the derivative of those three, each a product of two factors that both vary.
        """
        inner = self.inner_steps * self.way * self.shot * (3 if self.first_order else 9)
        outer = self.way * (self.query if self.inner_steps else self.query + self.shot) * 3
        return self.tasks * (inner + outer) * conv4_flops()


def conv4_flops(hidden: int = 64, size: int = 28) -> float:
    """Return the operations of the convolutions of conv4 on one grey image, forward."""
    sides = [size >> block for block in range(4)]
    return sum(2 * 9 * hidden * side**2 * (hidden if block else 1) for block, side in enumerate(sides))


# (name, title, tasks, way, shot, query, inner steps, inner lr, first order, goal, share[, allocator])
WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", "MAML, second order, 5-way 1-shot, 1 inner step", 32, 5, 1, 15, 1, 0.4, False, 2.0, 0.60),
        Workload("W1-5", "MAML, second order, 5-way 1-shot, 5 inner steps", 32, 5, 1, 15, 5, 0.1, False, 2.2, 0.60),
        Workload("W2", "MAML, first order, 5-way 1-shot, 1 inner step", 32, 5, 1, 15, 1, 0.4, True, 2.0, 0.65),
        Workload("W4", "MAML, second order, 20-way 1-shot, 5 inner steps", 16, 20, 1, 15, 5, 0.1, False, 1.8, 0.58),
        Workload("W3", "ProtoNet, 60-way 1-shot, peers as installed", 1, 60, 1, 5, 0, 0.0, False, 2.6, 0.60),
        Workload("W3m", "ProtoNet, 60-way 1-shot, peers with our malloc", 1, 60, 1, 5, 0, 0.0, False, 1.7, 0.60, True),
    )
}


def on_device(device: str) -> list[str]:
    """Return the settings that choose a device by torch's name for it: cpu, or cuda:0 and so on."""
    kind, _, index = device.partition(":")
    return ["runtime.accelerator=cpu"] if kind == "cpu" else ["runtime.accelerator=gpu", f"runtime.devices=[{index}]"]


class Ours:
    """Our side of every comparison: a stage's own job, trained by the engine's loop one step at a time.

    Args:
        stage: meta-train or pretrain.
        words: its settings, as on the command line.
    """

    def __init__(self, stage: str, *words: str) -> None:
        from metalearn_cli.cli import composing
        from metalearn_cli.engine.runtime import tune
        from metalearn_cli.engine.stepper import Stepper
        from metalearn_cli.stages import JOBS
        from metalearn_cli.stages.preparing import prepare
        from metalearn_cli.stages.session import Session

        tune()
        composer = composing.Composer(stage)
        words = ("runtime=cpu", "scheduler=constant", *words)
        composition = composer.compose([composer.forced(composer.read(word)) for word in words])
        self.prepared = prepare(stage, composition.settings, JOBS[stage], Session())
        self.stepper = Stepper(self.prepared.runtime, self.params, *self.prepared.optimizer())
        self.done = 0

    @property
    def params(self) -> dict[str, Tensor]:
        """The tensors that it trains; after a step each has that step's gradient."""
        return self.prepared.job.params

    def step(self, batch: Any = None) -> None:
        """Train one step, on the stage's own batch or on the one given, which may be on another device."""
        from metalearn_cli.engine.loop import Plan, fit

        job, config, runtime = self.prepared.job, self.prepared.config, self.prepared.runtime
        if batch is not None:
            batch = runtime.cast(batch.map(lambda part: part.to(runtime.device)))
            job = replace(job, batches=lambda step: batch)
        job = replace(job, evaluate=lambda params: {})
        fit(job, self.stepper, Plan(self.done, self.done + 1, config.every, config.seed), _Nowhere())
        self.done += 1


class _Nowhere:
    """Discards everything that a loop reports."""

    def advance(self, done: int) -> None:
        pass

    def measured(self, done: int, values: Mapping[str, float]) -> None:
        pass

    def save(self, done: int, scores: dict[str, float]) -> None:
        pass

    def exhausted(self, done: int) -> bool:
        return False


@dataclass
class Result:
    """The result of a contestant: the seconds of its turns, and its peak memory, or why it failed."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: float = float("nan")
    failure: str = ""

    @property
    def median(self) -> float:
        """Seconds of the median turn; infinite where there is none."""
        return statistics.median(self.seconds) if self.seconds else float("inf")


def race(
    makers: Mapping[str, Maker],
    turns: int,
    budget: float = float("inf"),
    warm: int = 1,
    ours: Collection[str] = (),
) -> dict[str, Result]:
    """Let contestants take turns, each in its own process.

    Args:
        makers: functions that set each of them up.
        turns: turns that count.
        budget: seconds after which no further round begins; one round always counts.
        warm: turns before them that do not count.
        ours: names of contestants whose threads wait as in `mlx`; those of the others wait as the system decides.

    Returns:
        The result of each, in the same order.
    """
    context = multiprocessing.get_context("spawn")
    results = {name: Result() for name in makers}
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, maker in makers.items():
            pipes[name], end = context.Pipe()
            processes.append(context.Process(target=_contestant, args=(end, maker), daemon=False))
            with patch.dict(os.environ, WAITING if name in ours else {}):
                processes[-1].start()
            end.close()
            _ask(
                pipes, results[name], name, None
            )  # one after the other, so that setting up does not disturb the others
        began = time.monotonic()
        for turn in range(warm + turns):
            if turn > warm and time.monotonic() - began > budget:
                break
            for name in list(pipes):
                seconds = _ask(pipes, results[name], name, turn)
                if seconds is not None and turn >= warm:
                    results[name].seconds.append(seconds)
        for name in list(pipes):
            results[name].peak_mb = _ask(pipes, results[name], name, "peak") or float("nan")
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()
    return results


def _ask(pipes: dict[str, Connection], result: Result, name: str, question: object) -> float | None:
    """Return a contestant's answer; one that fails takes no further turn."""
    try:
        if question is not None:
            pipes[name].send(question)
        answer = pipes[name].recv()
    except (EOFError, OSError):
        answer = "its process died"
    if isinstance(answer, str):
        print(f"{name} failed: {answer}", file=sys.stderr)
        result.failure = answer
        pipes.pop(name).close()
        return None
    return float(answer)


def _contestant(pipe: Connection, maker: Maker) -> None:
    warnings.simplefilter("ignore")  # the peers' warnings do not belong into a table
    with pipe, _silence():
        try:
            turn = maker()
            gc.collect()
            _forget_peak()
            pipe.send(0.0)
            while isinstance(question := pipe.recv(), int):
                began = time.perf_counter()
                seconds = turn(question)
                pipe.send(time.perf_counter() - began if seconds is None else seconds)
            pipe.send(_peak_mb())
        except EOFError:
            return
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what a contestant prints: some print at every step."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        if not os.environ.get("BENCH_STDERR"):
            os.dup2(nowhere.fileno(), 2)
        yield


def _forget_peak() -> None:
    """Reset the measurement of peak memory, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak_mb() -> float:
    """Return the largest resident memory of this process since `_forget_peak`, in MB of 2**20 bytes."""
    try:  # not getrusage, which starts with the parent's memory
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


MATMUL, IMAGES = 1024, 320


def matmul_limit() -> Turn:
    """Set up float32 matrix products; a turn returns seconds per 10**9 operations."""
    a, b = torch.randn(2, MATMUL, MATMUL).unbind()
    return lambda turn: _per_gflop(lambda: a @ b, 2 * MATMUL**3)


def convolution_limit() -> Turn:
    """Set up conv4's second convolution, channels-last, forward and backward; seconds per 10**9 operations."""
    x = torch.randn(IMAGES, 64, 14, 14).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    ahead = torch.randn(IMAGES, 64, 14, 14).to(memory_format=torch.channels_last)

    def work() -> None:
        torch.autograd.grad(conv2d(x, weight, padding=1), (x, weight), ahead)

    return lambda turn: _per_gflop(work, 3 * 2 * 9 * 64 * 64 * 14 * 14 * IMAGES)


def _per_gflop(work: Callable[[], object], flops: float, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) / flops * 1e9


LIMITS: dict[str, Maker] = {"limit: matrix product": matmul_limit, "limit: convolution": convolution_limit}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, the first column aligned left and the others right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + ":" if n else "-" * (w + 2) for n, w in enumerate(widths)) + "|"
    return "\n".join([f"{lines[0]} |", rule, *(f"{line} |" for line in lines[1:])])


def number(value: float, digits: int = 3) -> str:
    """Return a number with some significant digits, or a dash if there is none."""
    if value != value or value in (float("inf"), float("-inf")):
        return "-"
    magnitude = f"{value:.{digits}g}"
    return f"{float(magnitude):.0f}" if "e" in magnitude and abs(value) >= 1 else magnitude


def machine() -> str:
    """Return one line that describes the machine and its software."""
    try:
        info = Path("/proc/cpuinfo").read_text()
        processor = info.split("model name")[1].split(":")[1].splitlines()[0].strip()
    except (OSError, IndexError):
        processor = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor}, {cores} cores, {torch.get_num_threads()} threads; {system}"


def arguments(description: str, folder: str) -> argparse.ArgumentParser:
    """Return a parser with the options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer turns: for a first look, not to quote")
    parser.add_argument("--save", metavar="FOLDER", type=Path, help=f"write the results there, as in {folder}")
    return parser


def command(target: str, words: Sequence[str] | None) -> str:
    """Return the command that runs a benchmark with these options; None stands for those of this process."""
    given = " ".join(sys.argv[1:] if words is None else words)
    return f'make {target} ARGS="{given}"' if given else f"make {target}"

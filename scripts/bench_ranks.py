"""What a step costs on several ranks: seconds of a task, of a message and of a byte, and the steps that they predict.

    python scripts/bench_ranks.py              # measures on this machine, then predicts for 8 and 64 GPUs
    python scripts/bench_ranks.py --steps 200 --tasks 16

A step of N ranks takes rest + ceil(tasks / N) * task + message(N), where `message(N)` is that of a ring:
2 * (N - 1) * hop + 2 * (N - 1) / N * bytes / bandwidth.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

BYTES = 4 * 113_088  # the gradient of conv4-64 with a head of 5 classes, in float32
WORDS = ["meta-train", "init_from=null", "data=glyphs", "algorithm=maml", "val_episodes=2"]
WORDS += ["every.evaluate=1000000", "every.save=1000000"]
LAYOUTS = {"1 rank of 1 thread": (1, 1), "1 rank of 2 threads": (1, 2), "2 ranks of 1 thread": (2, 1)}
TIMES = 300


class Link(NamedTuple):
    """What joins ranks: seconds of a hop, and bytes a second that a rank sends."""

    name: str
    hop: float
    bandwidth: float

    def message(self, ranks: int) -> float:
        """Return the seconds of a step's message."""
        return 2 * (ranks - 1) * self.hop + 2 * (ranks - 1) / ranks * BYTES / self.bandwidth


class Compute(NamedTuple):
    """What a rank computes: seconds of a task, and of the rest of a step, which is not dealt."""

    name: str
    task: float
    rest: float

    def step(self, tasks: int, ranks: int, link: Link) -> float:
        """Return the seconds of a step."""
        return self.rest + math.ceil(tasks / ranks) * self.task + link.message(ranks)


GPUS = [Compute("14.4 ms (loop)", 14.4e-3, 1e-3), Compute("0.28 ms (vmap, compiled)", 0.28e-3, 1e-3)]
"""MAML with one inner step on an H100, as docs/benchmarks/gpu.md has it; the rest of a step is a guess."""

LINKS = {8: Link("NVLink", 3e-6, 300e9), 64: Link("InfiniBand", 5e-6, 25e9)}
"""What joins so many GPUs: usual numbers, not measured here."""


def _time_messages(rank: int, port: int, found: Any) -> None:
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    for numbers in (1, BYTES // 4):
        flat, seconds = torch.zeros(numbers), []
        for _ in range(TIMES):
            began = time.perf_counter()
            dist.all_reduce(flat)
            seconds.append(time.perf_counter() - began)
        if rank == 0:
            found.put(sorted(seconds)[TIMES // 2])
    dist.destroy_process_group()


def loopback() -> Link:
    """Measure the messages of two processes on this machine."""
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = context.Queue()
    processes = [context.Process(target=_time_messages, args=(rank, store.port, found)) for rank in range(2)]
    for process in processes:
        process.start()
    short, long = found.get(), found.get()
    for process in processes:
        process.join()
    return Link("gloo, this machine", short / 2, BYTES / max(long - short, 1e-9))


def seconds_of_step(tasks: int, steps: int, ranks: int, threads: int) -> float:
    """Train, and return the seconds of a step after the first tenth of them."""
    with tempfile.TemporaryDirectory() as folder:
        own = [f"tasks={tasks}", f"steps={steps}", f"every.log={steps // 10}", f"runs_dir={folder}"]
        runtime = ["runtime=cpu", f"runtime.devices={ranks}", f"runtime.threads={threads}"]
        mlx = [sys.executable, "-m", "metalearn_cli.cli.main", *WORDS, *own, *runtime]
        subprocess.run(mlx, check=True, capture_output=True)
        (path,) = Path(folder).glob("meta-train/*/metrics.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    speeds = sorted(line["tasks_per_second"] for line in lines if "tasks_per_second" in line)
    return tasks / speeds[len(speeds) // 2]


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    for row in (titles, ["---"] + ["---:"] * (len(titles) - 1), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def milliseconds(seconds: float) -> str:
    """Return seconds in words."""
    return f"{1000 * seconds:.3g} ms"


def main() -> None:
    """Measure and predict."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--tasks", type=int, default=8, help="of a measured step")
    arguments.add_argument("--steps", type=int, default=100, help="measured in each layout")
    given = arguments.parse_args()
    link = loopback()
    print(f"{link.name}: {1e6 * link.hop:.0f} us a hop, {link.bandwidth / 1e9:.2f} GB/s\n")
    measured: dict[str, float] = {}
    for name, (ranks, threads) in LAYOUTS.items():
        measured[name] = seconds_of_step(given.tasks, given.steps, ranks, threads)
    one, few = measured["1 rank of 1 thread"], seconds_of_step(1, given.steps, 1, 1)
    task = (one - few) / (given.tasks - 1)
    here = Compute("this machine, 1 thread", task, max(few - task, 0.0))
    print(f"{here.name}: {milliseconds(here.task)} a task, {milliseconds(here.rest)} for the rest of a step\n")
    predicted = {name: here.step(given.tasks, n, link) for name, (n, threads) in LAYOUTS.items() if threads == 1}
    rows = []
    for name, seconds in measured.items():
        told = milliseconds(predicted[name]) if name in predicted else ""
        rows.append([name, milliseconds(seconds), told, f"{one / seconds:.2f}"])
    table([f"a step of {given.tasks} tasks", "measured", "predicted", "times as fast"], rows)
    rows = []
    for gpu in GPUS:
        for tasks in (32, 64, 512):
            alone = gpu.step(tasks, 1, link)
            gains = [f"{alone / gpu.step(tasks, ranks, between):.1f}" for ranks, between in LINKS.items()]
            rows.append([f"{tasks} tasks of {gpu.name}", *gains])
    table(["a step of", *(f"{ranks} GPUs, {between.name}" for ranks, between in LINKS.items())], rows)


if __name__ == "__main__":
    main()

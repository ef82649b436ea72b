"""A job that needs no torch, and a scheduler of such jobs: what studies/sweep.py is tested with.

worker.py run FOLDER NAME STEPS SECONDS [fail]: does steps, each a line in FOLDER/steps.txt, and prints the result as
`mlx --json` does: NAME percent. One that was killed goes on where its lines end.
worker.py sweep FOLDER COUNT SLOTS STEPS SECONDS: a sweep of COUNT such jobs.
worker.py slurm FOLDER COUNT SLOTS STEPS SECONDS: the same on SLURM.
worker.py search FOLDER COUNT SLOTS STEPS SECONDS: a search for the best NAME with COUNT such jobs, some of which fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.core import config
from metalearn_cli.core.errors import Stopped
from metalearn_cli.records import runs
from metalearn_cli.records.sweeps import folder_of
from metalearn_cli.studies.processes import Processes
from metalearn_cli.studies.search import Numbers, Search, Space
from metalearn_cli.studies.slots import Slot
from metalearn_cli.studies.slurm import Slurm
from metalearn_cli.studies.sweep import Engine, Job, Sweep, at_once


class Quiet:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.told = []

    def began(self, job, place):
        self.told.append(("began", job.id, place))

    def found(self, job):
        self.told.append(("found", job.id))

    def ended(self, job, outcome):
        self.told.append(("ended", job.id, outcome.status))

    def note(self, text):
        self.told.append(("note", text))

    def look(self, running):
        pass


def job(folder: Path, name: str, *words: str) -> Job:
    return Job(name, {"seed": name}, ("run", str(folder), name, *words), str(folder))


def sweep(folder: Path, jobs: list[Job] | Search, watcher: Quiet | None = None, name: str = "s1") -> Sweep:
    facts = {"stage": "meta-train", "command": "mlx -m again"}
    return Sweep(folder_of(str(folder), name), jobs, facts, watcher or Quiet())


def search(folder: Path, trials: int, *words: str, space: Space | None = None, **settings: Any) -> Search:
    given = {"trials": trials, "objective": "val/accuracy", "pruner": "none", **settings}

    def make(point: dict[str, str], pins: Sequence[str]) -> Job:
        fails = ["fail"] * (int(point["x"]) % 4 == 0)
        return job(folder, point["x"], *words, *fails)._replace(settings=point)

    return Search(config.Search(**given), space or {"x": Numbers(0, 99)}, (1, 4), lambda: ["pinned"], make)


def slots(number: int) -> list[Slot]:
    return [Slot(f"GPU {index}", {"CUDA_VISIBLE_DEVICES": str(index)}) for index in range(number)]


COMMAND = (sys.executable, __file__)
METRIC = {"name": "val/accuracy", "interval": None}


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def steps(folder: Path) -> Counter:
    """Return how often each job has done each of its steps."""
    return Counter(tuple(line.split()[:2]) for line in (folder / "steps.txt").read_text().splitlines())


def run(folder: Path, name: str, steps: int, seconds: float, fail: bool) -> int:
    """Do the steps that are left; holds the lock of its GPU, so that no other job may use it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    gpu = (folder / f"gpu{os.environ['CUDA_VISIBLE_DEVICES']}").open("w")
    fcntl.flock(gpu, fcntl.LOCK_EX | fcntl.LOCK_NB)
    known = [info for info in runs.list_runs(str(folder)) if info.get("job") == os.environ["MLX_JOB_ID"]]
    facts = {"sweep": os.environ["MLX_SWEEP_ID"], "job": os.environ["MLX_JOB_ID"]}
    if known:
        own = runs.reopen(Path(known[0]["folder"]))
    else:
        own = runs.create(str(folder), "meta-train", {}, **facts, steps=steps)
    log = folder / "steps.txt"
    try:
        for step in range(sum(line.split()[0] == name for line in log.read_text().splitlines()), steps):
            time.sleep(seconds)
            with log.open("a") as file:
                file.write(f"{name} {step} {os.environ['CUDA_VISIBLE_DEVICES']}\n")
            with (own.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step + 1, "val/accuracy": int(name) / 100, "val/loss": 1.0}) + "\n")
        if fail:
            raise RuntimeError("it diverged")
    except SystemExit:
        own.update(status="interrupted")
        print(json.dumps({"error": {"exit_code": 143, "kind": "interrupted", "message": "stopped by SIGTERM"}}))
        return 143
    except RuntimeError as error:
        own.update(status="failed")
        print(json.dumps({"error": {"exit_code": 3, "kind": "diverged", "message": str(error)}}))
        return 3
    own.update(status="completed", finished_at=runs.now(), metric={**METRIC, "value": int(name) / 100, "step": steps})
    print(json.dumps({**own.info, "folder": str(own.folder)}))
    return 0


def main(kind: str, folder: str, *words: str) -> int:
    if kind == "run":
        name, steps, seconds, *fail = words
        return run(Path(folder), name, int(steps), float(seconds), bool(fail))
    count, number, *rest = words
    if kind == "search":
        jobs: Any = search(Path(folder), int(count), *rest)
    else:
        jobs = [job(Path(folder), str(index), *rest) for index in range(int(count))]
    watched = sweep(Path(folder), jobs)
    engine: Engine = Processes(slots(int(number)), COMMAND)
    if kind == "slurm":
        own = ["export CUDA_VISIBLE_DEVICES=$$"]
        engine = Slurm(config.Slurm(None, None, None, None, None, None, lines=own), int(number), COMMAND)
    try:
        with watched.open():
            at_once(watched, engine, fail_fast=False)
    except Stopped as stop:
        print(stop)
        return 128 + stop.number
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

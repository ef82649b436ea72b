"""Kill runs as `kill -9` does, let them go on, and compare what they come to with a run that nobody killed.

Usage: kills.py COUNT [SEED [STAGE ...]]; ends with "N faults injected, M runs lost something", and 1 if M > 0.

Half of the kills come at a random time, half right before a random file-system operation of the run; where COUNT is
`all`, one comes before each file-system operation. Every process is forked from this one, which has imported everything
and computed nothing, so that a kill costs a fraction of a second.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning_fabric  # noqa: F401  the stages import these two when they train
import torch._dynamo  # noqa: F401
from conftest import Said, smallest
from faults.folders import differences, result

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse, parse_chain
from metalearn_cli.records import runs
from metalearn_cli.stages import training

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
WORK = {
    "steps": 12,
    "every": {"log": 5, "evaluate": 3, "save": 2},
    "keep": 2,
    "patience": 2,
    "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 12},
}
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
"""Audit events of what changes a folder, or may; `os.fsync`, which is none, is added to them."""


def settings(stage: str, folder: Path) -> dict[str, Any]:
    """Return small settings with everything that a resumed run has to get right: schedules, best, early stopping."""
    if stage == "run":
        changes = {f"{s}__{key}": value for s in ("pretrain", "transfer", "meta_train") for key, value in WORK.items()}
        return smallest("run", folder, **changes, algorithm=MAML)
    return smallest(stage, folder, **WORK, **({"algorithm": MAML} if stage == "meta-train" else {}))


def live(stage: str, folder: Path, dying: int | None = None) -> int:
    """Begin or go on with a run in a new process.

    Args:
        stage: what to run.
        folder: of all runs.
        dying: before which file-system operation it shall kill itself.

    Returns:
        the process's id.
    """
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        count(folder, dying)
        begun = [info for info in runs.list_runs(str(folder)) if info["stage"] == stage]
        completed = bool(begun) and begun[0]["status"] == "completed"
        said = Said()
        if stage == "run":
            stages.run("run", parse_chain(settings(stage, folder)), said)
        elif begun and not completed:
            stages.resume(begun[0]["folder"], said, {})
        elif not completed:
            stages.run(stage, parse(STAGES[stage], settings(stage, folder)), said)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def count(folder: Path, dying: int | None) -> None:
    """Count this process's file-system operations in a file beside the folder, and kill it before one of them."""
    operations = 0

    def operation() -> None:
        nonlocal operations
        operations += 1
        if operations == dying:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: Any) -> None:
        if event in OPERATIONS and str(args[0]).startswith(str(folder)):
            operation()

    def exit_code(code: int) -> None:
        folder.with_suffix(".count").write_text(str(operations))
        leave(code)

    leave, os._exit = os._exit, exit_code
    os.fsync = lambda descriptor: operation()  # a kill loses nothing that is written, so there is no need to wait
    sys.addaudithook(hook)


def ended(pid: int) -> int:
    """Wait for a process and return its exit code, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(stage: str, folder: Path, when: float | int) -> str:
    """Kill a run after so many seconds, or before its file-system operation of that number.

    Returns:
        when that was, or "" if the run was quicker.
    """
    if isinstance(when, int):
        pid, told = live(stage, folder, dying=when), f"before operation {when}"
    else:
        pid, told = live(stage, folder), f"after {when:.3f} s"
        time.sleep(when)
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so it is there
    return told if ended(pid) == -signal.SIGKILL else ""


def plans(wanted: int | None, draw: random.Random, seconds: float, operations: int) -> Iterator[list[float | int]]:
    """Give for each run when it shall be killed: once, or once more while it goes on; without end, unless for all."""
    if wanted is None:
        yield from ([number] for number in range(1, operations + 1))
        return
    while True:
        again = 1 + (draw.random() < 0.35)
        yield [draw.choice([draw.uniform(0, seconds), draw.randint(1, operations)]) for _ in range(again)]


def campaign(stage: str, wanted: int | None, draw: random.Random, folder: Path) -> tuple[int, int]:
    """Kill a stage so many times, or before each of its file-system operations.

    Returns:
        how many kills there were, and how many of the runs lost something.
    """
    whole = folder / f"{stage}-whole"
    began = time.monotonic()
    if ended(live(stage, whole)):
        raise SystemExit(whole.with_suffix(".log").read_text())
    seconds, operations = time.monotonic() - began, int(whole.with_suffix(".count").read_text())
    expected = result(whole)
    kills, lost, number = 0, 0, 0
    for number, plan in enumerate(plans(wanted, draw, seconds, operations), start=1):
        one = folder / f"{stage}-{number}"
        times = [told for when in plan[: (wanted or kills + 1) - kills] if (told := kill(stage, one, when))]
        kills += len(times)
        crashed = ended(live(stage, one))
        problems = [one.with_suffix(".log").read_text()] if crashed else differences(expected, result(one))
        if problems:
            lost += 1
            print(f"{stage} killed {', then '.join(times)}:", *problems, sep="\n  ")
        shutil.rmtree(one)
        if kills == wanted:
            break
    print(
        f"{stage}: {kills} kills in {number} runs of {operations} operations and {seconds:.2f} s, {lost} lost",
        flush=True,
    )
    return kills, lost


def main(count: str, seed: str = "0", *wanted: str) -> int:
    """Run the campaigns of all stages, or of those that are named."""
    training.learning_curves = lambda *args: None  # which take longer than the training
    names = wanted or ("pretrain", "transfer", "meta-train", "run")
    share = [None if count == "all" else len(range(int(count))[i :: len(names)]) for i in range(len(names))]
    with tempfile.TemporaryDirectory() as folder:
        found = [
            campaign(stage, n, random.Random(f"{seed} {stage}"), Path(folder))
            for stage, n in zip(names, share, strict=True)
            if n != 0
        ]
    kills, lost = (sum(column) for column in zip(*found, strict=True))
    print(f"{kills} faults injected, {lost} runs lost something")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A sweep of real jobs whose scheduler and jobs are killed, against one that nothing disturbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults.folders import of_run

from metalearn_cli.records import runs, sweeps

STEPS = 100
WORDS = [
    *("-m", "meta-train", "data=gaussian", "backbone=mlp", "query=3", "val_episodes=5", "optimizer=sgd"),
    *("runtime=cpu", "runtime.threads=1", f"steps={STEPS}", "every.evaluate=50", "every.save=10", "keep=2"),
    *("seed=1,2,3,4", "optimizer.lr=0.01,0.003,1e38"),  # the last one diverges
]


def begin(folder: Path, *words: str, usual: Sequence[str] = WORDS) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with (folder / "out").open("a") as out:
        command = [sys.executable, "-m", "metalearn_cli.cli.main", *usual, *words]
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, env=environment)


def listed(folder: Path, status: str) -> list[dict[str, Any]]:
    return [info for info in runs.list_runs(str(folder / "runs")) if info["status"] == status]


def until(condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def kill_a_job(folder: Path) -> bool:
    """Kill a job that trains, if one has not ended meanwhile; return whether there was one."""
    for info in listed(folder, "running"):
        owner = json.loads((folder / "runs" / "sweeps" / "jobs" / info["job"] / "lock").read_text())
        with suppress(ProcessLookupError):
            os.kill(owner["pid"], signal.SIGKILL)
            return True
    return False


def by_job(folder: Path) -> dict[str, Any]:
    found = {info["job"]: of_run(Path(info["folder"]), info) for info in listed(folder, "completed")}
    return {job: {key: value for key, value in own.items() if key != "scalars"} for job, own in found.items()}


@pytest.mark.slow
def test_twelve_jobs_come_to_the_same_whatever_is_killed(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "disturbed"
    whole.mkdir()
    folder.mkdir()
    assert begin(whole).wait(timeout=300) == 3  # in one process; some diverge

    def is_training() -> bool:
        return any(0 < info.get("step", 0) < STEPS for info in listed(folder, "running"))

    for done in (1, 3):
        scheduler = begin(folder, "sweep.slots=2")
        until(lambda done=done: len(listed(folder, "completed")) >= done and is_training())
        scheduler.kill()
        scheduler.wait()
    scheduler = begin(folder, "sweep.slots=2")
    for done in (4, 5):
        until(lambda done=done: len(listed(folder, "completed")) >= done and is_training())
        until(lambda: kill_a_job(folder))
    until(lambda: len(listed(folder, "completed")) >= 6 and is_training())
    scheduler.send_signal(signal.SIGINT)
    assert scheduler.wait(timeout=60) == 130
    told = (folder / "out").read_text()
    assert "resume with: mlx -m meta-train data=gaussian" in told and "it is resumed" in told
    assert not listed(folder, "running") and listed(folder, "interrupted")
    assert begin(folder, "sweep.slots=2").wait(timeout=300) == 3
    assert len(by_job(folder)) == 8
    assert by_job(folder) == by_job(whole)
    every = runs.list_runs(str(folder / "runs"))
    assert set(Counter(info["job"] for info in every).values()) == {1}  # each has one run folder
    (name,) = (path.name for path in (folder / "runs" / "sweeps").iterdir() if path.name != "jobs")
    outcomes = sweeps.read(str(folder / "runs"), name)
    assert Counter(outcome.status for outcome in outcomes) == {"completed": 8, "diverged": 4}
    assert all("the loss became nan" in outcome.error for outcome in outcomes if not outcome.run)
    first, second = (table(path) for path in (whole, folder))
    assert first == second


@pytest.mark.slow
def test_ten_trials_of_a_search_are_ten_whatever_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = [*WORDS[:-2], "optimizer.lr=tag(log,interval(0.001,10))", "backbone.hidden=range(8,65,8)"]
    words += ["sweep=optuna", "sweep.trials=10", "sweep.slots=2"]
    for done in (2, 5):
        scheduler = begin(tmp_path, usual=words)
        until(lambda done=done: len(listed(tmp_path, "completed")) >= done and listed(tmp_path, "running"))
        scheduler.kill()
        scheduler.wait()
    assert begin(tmp_path, usual=words).wait(timeout=300) in (0, 3)  # a trial may diverge
    every = runs.list_runs(str(tmp_path / "runs"))
    assert len(every) == 10 == len({info["job"] for info in every})
    (name,) = (path.name for path in (tmp_path / "runs" / "sweeps").iterdir() if path.name != "jobs")
    outcomes = sweeps.read(str(tmp_path / "runs"), name)
    assert len(outcomes) == 10 and {o.status for o in outcomes} <= {"completed", "pruned", "diverged"}
    values = [row["value"] for row in table(tmp_path)]
    assert len(values) > 4 and values == sorted(values, reverse=True)


def table(folder: Path) -> list[dict[str, Any]]:
    """Return the closing table of the sweep, without the ids of runs."""
    found = json.loads(next(folder.glob("runs/sweeps/*/results.json")).read_text())
    return [{key: value for key, value in row.items() if key != "runs"} for row in found["table"]]

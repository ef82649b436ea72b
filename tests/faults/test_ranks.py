"""Commands on two ranks that lose one, are stopped, or are started again by torchrun; each is a few real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint, read_tensors

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MLX = ["-m", "metalearn_cli.cli.main"]
TRAIN = [
    *("meta-train", "init_from=null", "data=gaussian", "backbone=mlp", "query=3", "tasks=4", "val_episodes=10"),
    *("steps=1500", "every.log=500", "every.evaluate=500", "every.save=20", "runtime=cpu", "runtime.devices=2"),
]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that starts python with some words, in an empty folder; what is left at the end is killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    begun: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen([sys.executable, *words], start_new_session=True, **pipes))  # type: ignore[call-overload]
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return found


def saved() -> bool:
    return len(list(Path("runs").glob("meta-train/*/checkpoints/step-0*"))) > 1


def rank_1(parent: int) -> int:
    """Return the child of a process that is rank 1, started by torchrun or by rank 0; 0 if there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if fields(int(folder.name))[1] != str(parent):
                continue
            of_torchrun = b"\0RANK=1\0" in (folder / "environ").read_bytes()
            if of_torchrun or b"spawn_main" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return 0


def fields(pid: int) -> list[str]:
    """Return what /proc says of a process after its name: its state, its parent, and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def documents(text: str) -> list[Any]:
    """Return the JSON values that follow each other in a text."""
    found = []
    while text := text.strip():
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def alive(pid: int) -> bool:
    try:
        return fields(pid)[0] != "Z"
    except OSError:
        return False


def test_a_signal_to_all_ranks_saves_once_and_the_command_is_resumed(start):
    process = start(*MLX, *TRAIN)
    until(saved)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    (run,) = runs.list_runs("runs")
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == f"interrupted; resume with: mlx resume {run['folder']}"
    assert "Traceback" not in err and run["status"] == "interrupted"
    assert (Path(run["folder"]) / "checkpoints" / f"step-{run['step']:06d}").is_dir()


@pytest.mark.parametrize("victim", ["rank 0", "rank 1"])
def test_when_a_rank_is_killed_all_end(start, victim):
    process = start(*MLX, *TRAIN)
    until(saved)
    other = rank_1(process.pid)
    assert other
    os.kill(process.pid if victim == "rank 0" else other, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    until(lambda: not alive(other), 20)
    (run,) = runs.list_runs("runs")
    if victim == "rank 1":
        assert process.returncode == 1 and "Traceback" not in err
        assert "error: meta-train: rank 1 was killed (SIGKILL); the last good checkpoint is " in err.splitlines()[-1]
    assert run["status"] == ("died" if victim == "rank 0" else "failed")
    assert open_checkpoint(Path(run["folder"]) / "checkpoints" / run["last"])


def test_torchrun_restarts_and_the_same_run_goes_on_bit_for_bit(start):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1")
    process = start(*torchrun, *MLX, *TRAIN, "runtime.threads=1", "--json")
    until(saved)
    os.kill(until(lambda: rank_1(process.pid)), signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    *failed, told = documents(out)  # of rank 0: that another rank has ended, unless torchrun was faster; the result
    assert [answer["error"]["kind"] for answer in failed] in ([], ["crashed"], ["interrupted"])
    assert len(runs.list_runs("runs")) == 1 and told["status"] == "completed" and told["step"] == 1500
    assert "resumes after step " in err
    whole = start(*MLX, *TRAIN, "runtime.threads=1", "runs_dir=whole", "--json")
    out, err = whole.communicate(timeout=240)
    assert whole.returncode == 0, err
    one, two = (read_tensors(open_checkpoint(Path(run["checkpoint"]))) for run in (told, json.loads(out)))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_as_many_ranks_as_torchrun_has_started(start):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start(*torchrun, *MLX, *TRAIN, "runtime.devices=3")
    _, err = process.communicate(timeout=120)
    assert "must be 2, the number of processes that torchrun has started, or 1; got 3" in err
    assert not Path("runs").exists()

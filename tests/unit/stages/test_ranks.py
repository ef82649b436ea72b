"""Several ranks compute what one computes; these tests start processes, so each of them asks for much."""

from __future__ import annotations

import json
import logging
import os
import signal
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROTONET
from sources import arrays

from metalearn_cli import stages
from metalearn_cli.core.errors import LostRankError, Stopped
from metalearn_cli.engine.ranks import Crew, Ranks
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint, read_resume, read_tensors
from metalearn_cli.stages import following
from metalearn_cli.stages.evaluate import evaluate
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.following import JOBS, follow
from metalearn_cli.stages.preparing import prepare
from metalearn_cli.stages.session import Session
from metalearn_cli.stages.training import train

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 4}
RESNET = {"_target_": "metalearn_cli.backbones.resnet18.resnet18", "hidden": 2}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.05}  # not Adam, which makes a step of any rounding error

ADAM = {"_target_": "torch.optim.Adam", "lr": 0.01}

JOBS_OF_BOTH = {
    "maml": ("meta-train", {"algorithm": MAML, "tasks": 3}),
    "protonet": ("meta-train", {"algorithm": PROTONET, "tasks": 4, "runtime__task_batching": "vmap"}),
    "pretrain": ("pretrain", {"backbone": CONV4, "batch_size": 7}),
    # in 64 bits, because the layers of a deep network multiply rounding errors
    "resnet": ("pretrain", {"backbone": RESNET, "runtime__precision": "64-true"}),
    "transfer": ("transfer", {"backbone": CONV4, "batch_size": 7, "patience": 1}),
}


@pytest.fixture
def work(config, monkeypatch, said, tmp_path):
    """Return a function that does jobs with a number of ranks; it gives what each gave, by name."""
    data = {"_target_": "metalearn_cli.data.arrays.arrays", "kind": "image"}
    data["root"] = str(arrays.fill(tmp_path / "images.npz", 1, 16, 16, items=8))
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    norm = Runtime.gradient_norm

    def one(stage: str, session: Session, devices: int, changes: dict[str, Any]) -> dict[str, Any]:
        gradients: list[torch.Tensor] = []

        def recorded(runtime, params):
            gradients.append(torch.cat([p.grad.reshape(-1) for p in params.values() if p.grad is not None]))
            return norm(runtime, params)

        monkeypatch.setattr(Runtime, "gradient_norm", recorded)
        made = config(stage, **{"steps": 3, "optimizer": SGD, "runtime__devices": devices, **changes})
        done = train(prepare(stage, made, JOBS[stage], session), session, said)
        return {
            "gradients": gradients,
            "done": done,
            "tensors": read_tensors(open_checkpoint(Path(done["checkpoint"]))),
        }

    def both(devices: int, jobs: Collection[str]) -> dict[str, dict[str, Any]]:
        with Crew(follow) as crew:
            session = Session(crew)
            found = {}
            for name in jobs:
                stage, changes = JOBS_OF_BOTH[name]
                changes = {"data": data, **changes} if "backbone" in changes else changes
                found[name] = one(stage, session, devices, changes)
            if devices > 1:  # bit for bit, so that even Adam gives the same
                for name, shard in (("whole", False), ("divided", True)):
                    changes = {"algorithm": MAML, "tasks": 3, "optimizer": ADAM, "runtime__shard": shard}
                    found[name] = one("meta-train", session, devices, changes)
            ckpt = found["maml"]["done"]["folder"]
            prepared = prepare_evaluation(config("evaluate", ckpt=ckpt, runtime__devices=devices, episodes=7), session)
            found["evaluate"] = {"done": evaluate(prepared, said)}
        return found

    return both


def newest(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the optimizer's state of the newest checkpoint of a run."""
    checkpoint = open_checkpoint(max((folder / "checkpoints").glob("step-*")))
    return read_tensors(checkpoint), read_resume(checkpoint)["optimizer"]


@pytest.mark.parametrize(
    "jobs", [("maml", "transfer"), pytest.param(tuple(JOBS_OF_BOTH), marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.medium
def test_two_ranks_compute_what_one_computes(work, jobs):
    alone, together = work(1, jobs), work(2, jobs)
    for name in jobs:
        one, two = alone[name], together[name]
        assert len(one["gradients"]) == len(two["gradients"]) > 1
        for mine, others in zip(one["gradients"], two["gradients"], strict=True):
            torch.testing.assert_close(mine, others, rtol=0, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}")
        for tensor, mine in one["tensors"].items():
            torch.testing.assert_close(mine, two["tensors"][tensor], rtol=0, atol=1e-5)
        assert two["done"]["metric"]["value"] == pytest.approx(one["done"]["metric"]["value"], abs=1e-6)
    whole, divided = (newest(Path(together[name]["done"]["folder"])) for name in ("whole", "divided"))
    torch.testing.assert_close(whole, divided, rtol=0, atol=0)
    assert len(whole[1]) > 2
    one, two = alone["evaluate"]["done"], together["evaluate"]["done"]
    assert two["episodes_hash"] == one["episodes_hash"]
    scores = [Path(done["folder"], "episodes.csv").read_text() for done in (one, two)]
    assert scores[0] == scores[1]
    assert len(runs.list_runs(str(Path(two["folder"]).parents[1]))) == len(alone) + len(
        together
    )  # rank 1 has made none


@pytest.fixture
def at_step(said, monkeypatch):
    """Return a function that has something done once in this process, after a step."""
    waiting = []

    def advance(done):
        if waiting and done == waiting[0][0]:
            waiting.pop()[1]()

    def put(step, act):
        waiting[:] = [(step, act)]

    monkeypatch.setattr(said, "advance", advance)

    return put


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_the_last_checkpoint_stands(go, said, at_step, monkeypatch, tmp_path):
    crews: list[Crew] = []
    begin = Crew.__init__
    monkeypatch.setattr(Crew, "__init__", lambda self, *args: crews.append(self) or begin(self, *args))
    at_step(2, lambda: os.kill(crews[-1]._processes[0].pid, signal.SIGKILL))
    with pytest.raises(LostRankError) as caught:
        go("meta-train", runtime__devices=2)
    (run,) = runs.list_runs(str(tmp_path / "runs"))
    last = f"the last good checkpoint is {run['folder']}/checkpoints/step-000002"
    told = f"meta-train: rank 1 was killed (SIGKILL); {last}; resume with: mlx resume {run['folder']}"
    assert str(caught.value) == told
    assert (run["status"], run["step"], run["error"]) == ("failed", 2, f"LostRankError: {told}")
    whole = go("meta-train")
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))  # which both hear of in step 4
    with pytest.raises(Stopped):
        stages.resume(run["folder"], said, {})
    run = runs.find_run("", run["folder"])
    assert (run["status"], run["step"]) == ("interrupted", 4)
    done = stages.resume(run["folder"], said, {"runtime.devices": 1})
    one, two = (read_tensors(open_checkpoint(Path(found["checkpoint"]))) for found in (whole, done))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    assert json.dumps(whole["metric"]["step"]) == json.dumps(done["metric"]["step"])


RUNNING = {**RESNET, "norm": "running"}


def test_what_cannot_be_dealt_is_refused(refused, images):
    assert refused("meta-train", tasks=3, runtime__devices=4) == {
        "tasks": "must be at least 4, a task for each rank, got 3"
    }
    simclr = {"_target_": "metalearn_cli.models.simclr.Simclr"}
    found = refused("pretrain", model=simclr, batch_size=2, runtime__devices=3)
    assert found == {
        "batch_size": "must be at least 3, an item for each rank, got 2",
        "runtime.devices": "must be 1 with Simclr, which compares the items of a whole batch with each other; or choose"
        " another model",
    }
    for stage in ("pretrain", "transfer"):
        found = refused(stage, backbone=RUNNING, runtime__devices=2)
        assert found == {
            "runtime.devices": "must be 1 with torch's BatchNorm2d, whose statistics would be those of a part of a"
            " batch; or choose backbone.norm=batch or group"
        }


def test_frozen_running_statistics_can_be_dealt(ready, images):
    probe = {"_target_": "metalearn_cli.methods.linear_probe.LinearProbe"}
    assert ready("transfer", backbone=RUNNING, method=probe, runtime__devices=2).runtime.ranks.world == 2


def test_a_launcher_can_end_a_rank_that_waits_for_rank_0(config, monkeypatch):
    """Rank 0 may be refused before it meets the others, who wait in code that no handler of Python interrupts."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    monkeypatch.setattr(following, "connect", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    monkeypatch.setattr(Ranks, "same", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with warnings.catch_warnings():
            follow(config("pretrain", runtime__devices=2).runtime)
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIG_DFL, signal.SIG_IGN]

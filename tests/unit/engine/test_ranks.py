from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import pytest
import torch
from conftest import on_cpu

from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import dealt, moments, total
from metalearn_cli.engine import ranks, runtime
from metalearn_cli.engine.launched import Launch, launched, restarted
from metalearn_cli.engine.ranks import Crew, Ranks

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "730042",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[03-04,07],login",
}


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets what a launcher sets, and nothing else of any launcher."""

    def put(told: dict[str, str]) -> None:
        for name in (*TORCHRUN, *SRUN, "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in told.items():
            monkeypatch.setenv(name, value)

    put({})
    return put


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (TORCHRUN, Launch("torchrun", 3, 4, 1, "env://")),
        (SRUN, Launch("srun", 5, 8, 1, "tcp://gpu03:20042")),
        ({**SRUN, "SLURM_STEP_NODELIST": "a1,b2"}, Launch("srun", 5, 8, 1, "tcp://a1:20042")),
        ({**SRUN, "SLURM_STEP_NODELIST": "a1-ib"}, Launch("srun", 5, 8, 1, "tcp://a1-ib:20042")),
        ({**SRUN, "SLURM_STEP_NODELIST": "r[1-2]n0"}, Launch("srun", 5, 8, 1, "tcp://r1n0:20042")),
        ({}, None),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        ({**TORCHRUN, "RANK": "y"}, None),
        ({"RANK": "3", "WORLD_SIZE": "4"}, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({name: SRUN[name] for name in ("SLURM_JOB_ID", "SLURM_PROCID")}, None),  # a batch script, not a step of it
    ],
)
def test_what_a_launcher_says(environment, told, found):
    environment(told)
    assert launched() == found


@pytest.mark.parametrize(("count", "again"), [("", False), ("0", False), ("1", True), ("12", True)])
def test_whether_torchrun_starts_it_again(environment, count, again):
    environment({"TORCHELASTIC_RESTART_COUNT": count})
    assert restarted() == again


@pytest.mark.parametrize(("number", "world"), [(7, 3), (8, 4), (3, 3), (5, 1)])
def test_everything_is_dealt_once(number, world):
    every = [Ranks(rank, world) for rank in range(world)]
    own = [one.own(number) for one in every]
    assert sorted(itertools.chain(*own)) == list(range(number))
    assert all(list(range(number))[r.share] == list(o) for r, o in zip(every, own, strict=True))
    assert sum(r.weight(number) for r in every) == pytest.approx(1)
    assert max(map(len, own)) - min(map(len, own)) <= 1


def test_one_rank_changes_nothing():
    one, tensors = Ranks(), [torch.ones(2), torch.zeros(())]
    assert [a is b for a, b in zip(one.add(tensors), tensors, strict=True)] == [True, True]
    assert (one.largest(15), one.same("x"), one.gathered([1, 2]), one.weight(3)) == (15, "x", [1, 2], 1.0)
    with Crew() as crew, crew.working(on_cpu(), None):
        assert not torch.distributed.is_initialized()


class Gone:
    """A process that has ended."""

    def __init__(self) -> None:
        self.sentinel, other = os.pipe()
        os.close(other)


@pytest.mark.parametrize(("noticed", "code"), [(False, [1]), (True, [])])
def test_a_command_does_not_wait_for_a_rank_that_has_ended(monkeypatch, capsys, noticed, code):
    left: list[int] = []
    monkeypatch.setattr(ranks, "_DYING", 0.01)
    monkeypatch.setattr(os, "_exit", left.append)
    ending = threading.Event()
    if noticed:
        ending.set()
    ranks.watch([Gone()], ending)
    assert left == code
    assert ("resume the run with: mlx resume latest" in capsys.readouterr().err) == bool(code)


def problems(**changes: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        on_cpu(**changes)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_ranks_that_a_machine_does_not_have(environment, monkeypatch):
    monkeypatch.setattr(runtime, "available", lambda: {"gpu": 2, "mps": 1, "cpu": 1})
    monkeypatch.setattr(runtime, "unsupported", lambda kind, precision: "")
    wanted = "must be at most 2, the GPUs of this machine, got 4"
    assert problems(accelerator="gpu", devices=4) == {"runtime.devices": wanted}
    wanted = "must be 1 on mps: several ranks are for cpu and gpu"
    assert problems(accelerator="mps", devices=2) == {"runtime.devices": wanted}
    assert problems(devices=2, anomaly=True).keys() == {"runtime.anomaly"}
    assert "scales all gradients" in problems(devices=2, shard=True, precision="16-mixed")["runtime.shard"]
    environment(TORCHRUN)
    wanted = "must be 4, the number of processes that torchrun has started, or 1; got 2"
    assert problems(devices=2) == {"runtime.devices": wanted}


def test_the_rank_and_the_threads_of_a_process(environment, two_cores, monkeypatch):
    monkeypatch.setattr(runtime, "_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        assert on_cpu(devices=2, threads=None).description == "2 ranks, each cpu, 1 thread, 32-true"
        environment(TORCHRUN)
        found = on_cpu(devices=4, threads=None)  # a launcher gives each process cores of its own
        assert (found.ranks, torch.get_num_threads()) == (Ranks(3, 4), 2)
        assert on_cpu(devices=1).ranks == Ranks()  # started by a launcher, but not for this
    finally:
        torch.set_num_threads(before)


def test_moments_are_those_of_the_batch_of_all_ranks():
    x = torch.randn(6, 3, 4)
    mean, variance = moments(x)
    torch.testing.assert_close(mean, x.mean((0, 2), keepdim=True))
    torch.testing.assert_close(variance, x.var((0, 2), keepdim=True, correction=0))
    with dealt(lambda tensor: 2 * tensor):  # as if another rank had the same items
        assert total() is not None
        torch.testing.assert_close(moments(x), (mean, variance))
    assert total() is None

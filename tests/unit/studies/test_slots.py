"""How many jobs of a sweep run at once, and what each of them gets."""

from __future__ import annotations

import pytest

from metalearn_cli.core import machine
from metalearn_cli.core.config import Sweep
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.studies import slots as module
from metalearn_cli.studies.slots import slots_of

AUTO = {"accelerator": "auto", "devices": 1, "threads": None, "tuned": True}
CPU = {**AUTO, "accelerator": "cpu"}


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "free_memory", lambda: 64 << 30)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def found(slots, *runtimes, per_gpu=1):
    return [slot.environment for slot in slots_of(Sweep(slots, per_gpu, False, {}), runtimes or [AUTO] * 12)]


def test_one_slot_is_this_process():
    assert found(1) == []
    assert found("auto", AUTO) == []  # one job
    assert slots_of(Sweep(1, 1, False, {}), [CPU], apart=True)[0].environment == {"OMP_NUM_THREADS": "8"}
    # threads keep how they treat denormal numbers
    assert found(1, AUTO, {**AUTO, "tuned": False}) == [{"OMP_NUM_THREADS": "8"}]


def test_a_share_of_the_cores(monkeypatch):
    assert found(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert found(20) == [{"OMP_NUM_THREADS": "1"}] * 20
    assert found("auto") == [{"OMP_NUM_THREADS": "1"}] * 8
    assert found("auto", *[{**AUTO, "threads": 4}] * 3) == [{"OMP_NUM_THREADS": "4"}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert found(2) == [{"OMP_NUM_THREADS": "2"}] * 2


def test_a_gpu_for_each(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-77,6")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found("auto")] == ["4", "GPU-77", "6"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in found(4, per_gpu=2)] == ["4", "GPU-77", "6", "4"]
    assert found(1) == []
    assert found(2, CPU, CPU) == [{"OMP_NUM_THREADS": "4"}] * 2
    with pytest.raises(
        ConfigError, match=r"sweep.slots: must be <= 3: this machine has 3 GPUs, with 1 at once on each"
    ):
        found(4)
    with pytest.raises(ConfigError, match=r"runtime.devices: must be 1, because a sweep with slots gives each job"):
        found(2, AUTO, {**AUTO, "devices": [1]})


def test_more_than_memory_allows(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1 << 30)
    with pytest.raises(
        ConfigError, match=r"must be <= 2: 3 jobs at once need 1.2 GiB or more of memory, 1.0 GiB are fr"
    ):
        found(3)
    assert len(found("auto")) == 2
    monkeypatch.setattr(module, "free_memory", lambda: None)
    assert len(found(9)) == 9


def test_gpus_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,2")
    assert machine.gpus() == ["0"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    assert machine.gpus() == ["0", "1"]


def test_free_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:       9000 kB\nMemAvailable:    8000 kB\n")
    assert machine.free_memory() == 8000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() == 8000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine.free_memory() == 4000

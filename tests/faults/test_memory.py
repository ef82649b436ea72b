"""Too little memory ends in advice, and a long run needs no more of it than a short one."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core.errors import UserError
from metalearn_cli.records import runs

CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12")
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")


@pytest.mark.parametrize(("stage", "error", "told"), [
    ("transfer", GPU, ", as it tried to allocate 2.00 gib; lower batch_size (8), runtime.precision (32-true), or the"),
    ("meta-train", CPU, ", as it tried to allocate 4096 bytes; lower tasks (2), runtime.task_chunk (null), runtime.th"),
    ("evaluate", MemoryError(), "; lower runtime.task_chunk (null), runtime.threads (1), runtime.precision (32-true),"),
])  # fmt: skip
def test_want_of_memory_names_the_settings(config, said, tmp_path, monkeypatch, stage, error, told):
    def advance(step):
        if step == 3:
            raise error

    values = config(stage)
    if stage == "evaluate":
        stages.run("transfer", config("transfer", steps=1), said)
    monkeypatch.setattr(said, "advance", advance)
    with pytest.raises(UserError, match="ran out of memory") as caught:
        stages.run(stage, values, said)
    assert str(caught.value).startswith(f"{stage} ran out of memory{told}")
    (run,) = [info for info in runs.list_runs(str(tmp_path / "runs")) if info["stage"] == stage]
    assert run["status"] == "failed" and "ran out of memory" in run["error"]


def test_other_errors_stay_what_they_are(config, said, monkeypatch):
    monkeypatch.setattr(said, "advance", lambda step: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        stages.run("transfer", config("transfer"), said)


@pytest.mark.slow
def test_process_with_little_memory(tmp_path):
    words = ["meta-train", "data=gaussian", "backbone=mlp", "query=3", "steps=2", "tasks=2000000", "runtime.threads=1"]
    limit = 4 << 30  # bytes of address space, of which importing everything takes about half
    done = subprocess.run(
        [sys.executable, "-m", "metalearn_cli.cli.main", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2, done.stderr
    assert "meta-train ran out of memory, as it tried to allocate" in done.stderr
    assert "Traceback" not in done.stderr
    (path,) = tmp_path.glob("runs/meta-train/*/run.json")
    assert json.loads(path.read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
def test_long_run_does_not_grow(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), str(tmp_path), "100", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(done.stdout)
    (first, early), (last, late) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (first, last) == (100, 5000), done.stderr
    assert late - early < 4096  # KiB; what 4,900 steps may leave in caches

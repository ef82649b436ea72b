"""A chain that is killed and typed again ends as if it had not been killed, digit for digit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core.config import parse_chain
from metalearn_cli.engine import runs
from metalearn_cli.engine.checkpoint import open_checkpoint, read_tensors
from metalearn_cli.stages import _training

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(("stage", "step", "where"), [
    ("meta-train", 4, "step"),
    pytest.param("transfer", 1, "step", marks=SLOW),
    pytest.param("transfer", 3, "save", marks=SLOW),
    pytest.param("transfer", 5, "step", marks=SLOW),
    pytest.param("evaluate", 5, "step", marks=SLOW),
])  # fmt: skip
def test_killed_chain_goes_on(settings, said, tmp_path, monkeypatch, stage, step, where):
    monkeypatch.setattr(_training, "learning_curves", lambda *args: None)
    values = settings("run", stages=["transfer", "meta-train"], algorithm=MAML)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(values))
    command = [sys.executable, str(Path(__file__).with_name("run_and_die.py")), str(file), stage, str(step), where]
    died = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    found = runs.list_runs(values["runs_dir"])
    assert {info["stage"] for info in found if info["status"] == "died"} == {"run", stage}

    whole = stages.run("run", parse_chain({**values, "runs_dir": str(tmp_path / "whole")}), said)
    said.notes.clear()
    done = stages.run("run", parse_chain(values), said)
    skipped = sum("already done" in note for note in said.notes)
    assert skipped == sum(info["status"] == "completed" for info in found)
    assert done["table"] == whole["table"]
    ended = [{i["stage"]: i for i in runs.list_runs(str(tmp_path / name))} for name in ("runs", "whole")]
    for name in ("transfer", "meta-train"):
        one, two = (Path(infos[name]["folder"]) for infos in ended)
        assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
        tensors = [read_tensors(open_checkpoint(path / "checkpoints" / ended[0][name]["last"])) for path in (one, two)]
        assert all(torch.equal(tensors[0][key], tensor) for key, tensor in tensors[1].items())
        assert not list((one / "checkpoints").glob(".*"))
    assert all(info["status"] == "completed" for info in runs.list_runs(values["runs_dir"]))

"""A run that is killed and resumed has each value once in every tracker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.folders import of_mlflow, of_wandb, scalars

from metalearn_cli.records.metrics import TIMES, read_metrics

RUN = "meta-train data=gaussian backbone=mlp way=2 query=2 steps=600 val_episodes=2 tasks=1".split()
EVERY = "every.log=20 every.evaluate=200 every.save=20".split()
READ: dict[str, Callable[[Path], list]] = {
    "tensorboard": lambda folder: scalars(folder / "tensorboard"),
    "mlflow": of_mlflow,
    "wandb": lambda folder: [
        (step, name, float(text)) for step, name, text in of_wandb(folder) if "curves" not in name
    ],
}


def mlx(*words: str) -> list[str]:
    return [sys.executable, "-m", "metalearn_cli.cli.main", *words]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the packages that they bring
@pytest.mark.parametrize("name", READ)
def test_a_killed_and_resumed_run_has_each_value_once(name, tmp_path, monkeypatch):
    if name != "tensorboard":
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    process = subprocess.Popen(mlx(*RUN, *EVERY, f"tracker=[{name}]"), stderr=subprocess.DEVNULL)
    folder = run_folder(process)
    for steps in (100, 300):
        while process.poll() is None and not any(
            int(path.name.partition("-")[2]) > steps for path in (folder / "checkpoints").glob("step-*")
        ):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1.1)  # W&B names its folders by the second
        process = subprocess.Popen(mlx("resume", str(folder)), stderr=subprocess.DEVNULL)
    assert process.wait() == 0
    lines = read_metrics(folder)
    measured = [(int(x["step"]), n, v) for x in lines for n, v in x.items() if n not in ("step", *TIMES)]
    assert len(measured) == len(set(measured)) and measured[-1][0] == 600
    found = READ[name](folder)
    assert sorted((step, key) for step, key, _ in found) == sorted((step, key) for step, key, _ in measured)
    assert [v for _, _, v in sorted(found)] == pytest.approx([v for _, _, v in sorted(measured)])
    assert os.listdir(tmp_path / "runs" / "meta-train") == [folder.name]


def run_folder(process) -> Path:
    """Wait for the run of a process."""
    while process.poll() is None:
        if found := [path.parent for path in Path("runs/meta-train").glob("*/run.json")]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("it made no run")

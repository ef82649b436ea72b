"""How a command fails: its exit code, and what a program is told on stdout."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.cli import errors
from metalearn_cli.core.errors import (
    ConfigError,
    DataError,
    Finding,
    InUseError,
    NonFiniteError,
    Problem,
    Stopped,
    UserError,
)
from metalearn_cli.records import runs

TOY = "data=gaussian backbone=mlp way=2 query=3 steps=4 val_episodes=2 every.save=1 runtime.threads=1".split()
README = (Path(__file__).parents[2] / "README.md").read_text()


def strict(text: str) -> dict:
    """Read JSON as a program does that knows no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert isinstance(found, dict | list)
    return found


@pytest.mark.parametrize(
    ("error", "code", "kind", "problems"),
    [
        (ZeroDivisionError("oh"), 1, "crashed", []),
        (UserError("no"), 2, "refused", [("", "no")]),
        (ConfigError([Problem("way", "is odd"), Problem("x", "y")]), 2, "refused", [("way = 4", "is odd"), ("x", "y")]),
        (DataError([Finding(True, "a.png", "is no image")]), 2, "refused", [("a.png", "is no image")]),
        (
            OSError(errno.EFBIG, "full", "runs/x"),
            2,
            "failed",
            [("", "cannot write to runs/x: file too large")],
        ),
        (NonFiniteError("the loss became nan"), 3, "diverged", [("", "the loss became nan")]),
        (InUseError("runs/x is in use"), 4, "in use", [("", "runs/x is in use")]),
        (Stopped(signal.SIGTERM), 143, "interrupted", []),
    ],
)
def test_a_program_is_told_what_the_user_is(mlx, monkeypatch, error, code, kind, problems):
    def run(*args, **facts):
        raise error

    monkeypatch.setattr(stages, "run", run)
    answer = mlx("meta-train", "way=4", "--json")
    told = strict(answer.out)["error"]
    assert answer.code == told["exit_code"] == code
    assert told["kind"] == kind
    assert [(problem["key"], problem["message"]) for problem in told["problems"]] == problems
    assert all(problem.keys() == {"key", "message", "origin", "hint"} for problem in told["problems"])
    assert told["message"].split(": ")[-1].split(";")[0] in answer.err
    plain = mlx("meta-train", "way=4")
    assert (plain.code, plain.out) == (code, "")


@pytest.mark.parametrize(
    "words",
    [
        ["--nosuch"],
        ["nosuch"],
        ["completion", "bash"],
        ["resume"],
        ["resume", "nosuch"],
        ["show", "nosuch"],
        ["ls", "nosuch"],
        ["validate", "meta-train", "shot=0"],
        ["data", "nosuch"],
        ["data", "check", "data.nosuch=3"],
        ["meta-train", "data=nosuch", "--cfg", "job"],
        ["meta-train", "--cfg", "job", "-p", "nosuch"],
        ["run", "wait=-1"],
        ["evaluate"],
    ],
)
def test_every_command_fails_in_json(mlx, words):
    answer = mlx(*words, "--json")
    assert answer.code == 2
    assert strict(answer.out)["error"]["problems"]
    assert answer.err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["meta-train", "--cfg", "job", "way=3"], "way"),
        (["meta-train", "--cfg", "job", "algorithm=maml", "-p", "algorithm"], "inner_lr"),
        (["meta-train", "--cfg", "job", "--resolve"], "scheduler"),
        (["meta-train", "--cfg", "hydra"], "hydra"),
        (["meta-train", "--info", "defaults"], "text"),
        (["--version"], "version"),
        (["ls", "--help"], "help"),
    ],
)
def test_what_only_shows_is_json_too(mlx, words, key):
    answer = mlx(*words, "--json")
    assert answer.code == 0, answer.err
    assert strict(answer.out)[key]


def test_what_is_no_number_is_null(mlx, stage, monkeypatch):
    quick = stages.run

    def run(*args, **facts):
        info = quick(*args, **facts)
        return {**info, "metric": {**info["metric"], "value": float("nan"), "interval": float("inf")}}

    monkeypatch.setattr(stages, "run", run)
    metric = strict(mlx("meta-train", "--json").out)["metric"]
    assert (metric["value"], metric["interval"]) == (None, None)


def test_a_run_whose_result_is_no_number_can_be_read(mlx):
    words = "meta-train data=sinusoid way=1 backbone=mlp algorithm=maml optimizer=sgd optimizer.lr=1e18 steps=1".split()
    answer = mlx(*words, "val_episodes=2", "runtime.threads=1", "--json")
    assert answer.code == 0, answer.err
    assert strict(answer.out)["metric"]["value"] is None
    (folder,) = Path("runs/meta-train").iterdir()
    for path in (folder / "run.json", *folder.glob("checkpoints/*/manifest.json")):
        strict(path.read_text())
    assert strict(mlx("runs", "--json").out)[0]["metric"]["value"] is None
    assert "val mse nan" in mlx("runs").out
    assert "NaN or Inf" not in answer.err
    evaluated = mlx("evaluate", f"ckpt={folder}", "way=1", "episodes=2", "--json")
    assert evaluated.code == 0, evaluated.err
    assert strict(evaluated.out)["results"][0]["value"] is None


@pytest.mark.medium
def test_a_training_that_diverges(mlx):
    answer = mlx("meta-train", *TOY, "optimizer=sgd", "optimizer.lr=1e38")
    assert answer.code == 3
    assert "the loss became nan at step 2 of 4" in answer.err
    (info,) = runs.list_runs("runs")
    assert info["status"] == "failed"
    assert " ERROR failed: meta-train: the loss became nan" in (Path(info["folder"]) / "mlx.log").read_text()
    swept = mlx("-m", "meta-train", *TOY, "optimizer=sgd", "optimizer.lr=1e38,0.1")
    assert swept.code == 3
    assert [line.split()[2] for line in swept.out.splitlines()[3:5]] == ["completed", "diverged"]


def test_a_training_without_a_finite_step_is_no_success(mlx):
    sinusoid = "data=sinusoid way=1 backbone=mlp algorithm=maml algorithm.inner_lr=1e25".split()
    limits = ["steps=3", "val_episodes=2", "on_nonfinite=skip", "nonfinite_limit=9", "runtime.threads=1"]
    answer = mlx("meta-train", *sinusoid, *limits)
    assert answer.code == 3
    assert "meta-train: no step had a finite loss and gradient, so nothing was learnt" in answer.err
    (info,) = runs.list_runs("runs")
    assert info["status"] == "failed"
    assert mlx("resume", info["id"]).code == 3
    assert mlx("evaluate", "way=1").code == 2  # latest does not take it


HOLDING = """
import sys, time
from pathlib import Path
from metalearn_cli.records import runs
run = runs.reopen(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
time.sleep(float(sys.argv[2]))
run.update(status=sys.argv[3])
"""


@pytest.fixture
def held():
    """Have another process hold a run's folder until it is let go; it leaves the run with a status."""
    holding = []

    def hold(folder, status="failed", after=0.0):
        command = [sys.executable, "-c", HOLDING, str(folder), str(after), status]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holding.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in holding:
        process.communicate("\n")


@pytest.mark.medium
def test_a_run_in_use_has_a_code_and_can_be_waited_for(mlx, held):
    assert mlx("meta-train", *TOY, "steps=2").code == 0
    (info,) = runs.list_runs("runs")
    process = held(info["folder"], "completed", after=0.6)
    answer = mlx("resume", info["id"], "steps=4")
    assert answer.code == 4
    assert f"{info['folder']} is in use by another mlx process; to wait for it, add wait=SECONDS" in answer.err
    began = time.monotonic()
    assert mlx("resume", info["id"], "steps=4", "wait=0.3").code == 4
    assert 0.3 <= time.monotonic() - began < 5
    process.stdin.write("\n")
    process.stdin.flush()
    answer = mlx("resume", info["id"], "steps=4", "wait=60", "--json")
    assert (answer.code, strict(answer.out)["step"]) == (0, 4)
    assert "wait" not in answer.err.replace("waiting", "")
    assert "wait" not in runs.read_config(Path(info["folder"]))
    answer = mlx("resume", info["id"], "wait=soon")
    assert (answer.code, "wait" in answer.err) == (2, True)


def test_a_signal_ends_the_wait_for_a_run(mlx, monkeypatch, tmp_path):
    run = runs.create("runs", "pretrain", {})
    monkeypatch.setattr(time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *args: pytest.fail("the signal was not handled"))
    try:
        answer = mlx("resume", run.info["id"], "wait=600", "--json")
    finally:
        signal.signal(signal.SIGTERM, before)
        run.close()
    assert answer.code == strict(answer.out)["error"]["exit_code"] == 143
    assert answer.err.splitlines()[-1] == f"stopped by SIGTERM; resume with: mlx resume {run.folder}"


@pytest.mark.parametrize("words", [["pretrain"], ["runs"], ["ls"], ["doctor"]])
def test_a_current_folder_that_was_deleted(mlx, monkeypatch, tmp_path, words):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = mlx(*words)
    assert (answer.code, answer.err) == (
        2,
        "error: the current folder no longer exists; go to one that does: cd FOLDER\n",
    )
    assert mlx("--version").code == 0


@pytest.mark.medium
def test_a_chain_waits_for_its_own_run_and_its_stages(mlx, held):
    sizes = [f"{s}.{w}" for s in ("pretrain", "meta_train") for w in ("steps=1", "val_episodes=2")]
    words = ["run", *TOY[:4], "runtime.threads=1", "stages=[pretrain,meta-train]", "model=classifier", *sizes]
    words.append("evaluate.episodes=2")
    assert mlx(*words).code == 0
    for stage in ("run", "pretrain"):
        (info,) = (info for info in runs.list_runs("runs") if info["stage"] == stage)
        run = runs.reopen(Path(info["folder"]))
        run.update(status="failed")
        run.close()
        process = held(info["folder"], "completed")
        assert mlx(*words).code == 4
        process.stdin.write("\n")
        process.stdin.flush()
        answer = mlx(*words, "wait=60")
        assert answer.code == 0, answer.err
        assert len(list(Path("runs", stage).iterdir())) == 1


def test_a_crash_of_a_run_is_in_its_own_log(mlx, monkeypatch, tmp_path):
    from metalearn_cli.engine.stepper import Stepper

    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(Stepper, "take", lambda *args: 1 / 0)
    answer = mlx("meta-train", *TOY)
    assert answer.code == 1
    (folder,) = Path("runs/meta-train").iterdir()
    assert f"full traceback: {folder}/mlx.log" in answer.err
    assert "ZeroDivisionError: division by zero" in (folder / "mlx.log").read_text()
    assert [path.name for path in Path("runs").iterdir()] == ["meta-train"]
    assert mlx("resume", folder.name).code == 1


def test_readme_lists_the_exit_codes():
    listed = [
        int(code) for cells in re.findall(r"^\| ([\d, ]+) \|", README, re.MULTILINE) for code in cells.split(", ")
    ]
    ours = [errors.DONE, *errors.KINDS, errors.UNMET, *(errors.SIGNALLED + s for s in (signal.SIGINT, signal.SIGTERM))]
    assert listed == ours

"""Commands that a signal stops: what they save, what they say, how they go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from metalearn_cli.cli.telling import Progress
from metalearn_cli.records import runs

SMALL = ("data=gaussian", "backbone=mlp", "query=3", "runtime.threads=1", "runtime.stop_on=[SIGUSR1]")
TRAINING = ("steps=6", "val_episodes=2", "every.evaluate=5")


@pytest.fixture
def signalled(mlx, monkeypatch):
    """Return a function that runs a command and sends it signals in a step."""

    def call(words, step, *numbers):
        def advance(self, done):
            if done == step:
                for number in numbers:
                    os.kill(os.getpid(), number)

        before = [signal.getsignal(number) for number in numbers]
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "advance", advance)
            answer = mlx(*words)
        assert [signal.getsignal(number) for number in numbers] == before
        return answer

    return call


def latest(stage):
    return next(info for info in runs.list_runs("runs") if info["stage"] == stage)


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGUSR1, 138, "stopped by SIGUSR1"),
    ],
)
def test_training_saves_and_says_how_to_go_on(mlx, signalled, number, code, told):
    answer = signalled(("transfer", "init_from=null", *SMALL, *TRAINING), 3, number)
    run = latest("transfer")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.splitlines()[-1] == f"{told}; resume with: mlx resume {run['folder']}"
    assert (run["status"], run["step"], run["last"]) == ("interrupted", 3, "step-000003")
    answer = signalled(("resume", run["folder"]), 5, number)  # what it says can be typed, and stops likewise
    assert answer.code == code
    assert answer.err.splitlines()[-1] == f"{told}; resume with: mlx resume {run['folder']}"
    assert json.loads(mlx("resume", run["folder"], "--json").out)["status"] == "completed"


def test_second_signal_ends_at_once(signalled):
    answer = signalled(("transfer", "init_from=null", *SMALL, *TRAINING), 3, signal.SIGTERM, signal.SIGTERM)
    run = latest("transfer")
    assert answer.code == 143
    assert run["step"] == 0 and run["status"] == "interrupted"  # the start is saved before the first step
    assert [path.name for path in Path(run["folder"], "checkpoints").iterdir()] == ["step-000000"]


@pytest.mark.medium
def test_evaluation_and_chain_are_typed_again(mlx, signalled):
    sections = [f"{s}.{word}" for s in ("pretrain", "meta_train") for word in TRAINING]
    chain = ("run", *SMALL, *sections, "stages=[pretrain,meta-train]", "evaluate.episodes=3", "model=classifier")
    answer = signalled(chain, 2, signal.SIGTERM)  # while the untrained backbone is evaluated
    assert answer.code == 143 and "stopped by SIGTERM; resume with: the same command" in answer.err
    assert [(info["stage"], info["status"]) for info in runs.list_runs("runs")] == [
        ("evaluate", "interrupted"),
        ("run", "interrupted"),
    ]
    answer = signalled(chain, 5, signal.SIGTERM)  # in the pretraining
    assert answer.code == 143 and "resume with: the same command" in answer.err
    assert (latest("pretrain")["status"], latest("pretrain")["step"]) == ("interrupted", 5)
    assert mlx(*chain).code == 0
    assert {info["status"] for info in runs.list_runs("runs")} == {"completed"}
    words = ("evaluate", "query=3", "episodes=4", "runtime.stop_on=[SIGUSR1]")
    answer = signalled(words, 2, signal.SIGUSR1)
    assert answer.code == 138 and "stopped by SIGUSR1; resume with: the same command" in answer.err
    assert latest("evaluate")["status"] == "interrupted"


def test_signal_that_is_none_is_refused(mlx, tmp_path):
    answer = mlx("meta-train", "runtime.stop_on=[SIGUSER1]")
    assert answer.code == 2
    assert "must be a list of one of SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, got ['SIGUSER1']" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_a_sweep_that_is_stopped_shows_what_was_done_and_is_resumed(mlx, signalled, monkeypatch):
    words = ("-m", "meta-train", "init_from=null", "seed=1,2,3", *SMALL, *TRAINING)
    advance, steps = Progress.advance, []
    answer = signalled((*words[:3], "seed=1", *words[4:]), 9)
    assert answer.code == 0 and "1 job, 1 completed" in answer.out
    answer = signalled((*words, "--json"), 3, signal.SIGTERM)
    assert answer.code == 143
    told = json.loads(answer.out)["runs"]
    assert [(job["status"], bool(job["run"])) for job in told] == [
        ("completed", True),
        ("interrupted", False),
        ("not begun", False),
    ]
    assert "stopped by SIGTERM; 1 of 3 jobs are done; resume with: mlx -m meta-train init_from=null" in answer.err
    monkeypatch.setattr(Progress, "advance", lambda self, done: steps.append(done) or advance(self, done))
    answer = mlx(*words)
    assert answer.code == 0
    assert steps == [4, 5, 6, 1, 2, 3, 4, 5, 6]  # the first is skipped, the second resumed
    assert [(run["seed"]) for run in map(runs.read_config, map(Path, folders("meta-train")))] == [1, 2, 3]


def folders(stage):
    return [info["folder"] for info in runs.list_runs("runs")[::-1] if info["stage"] == stage]

"""`mlx compress`: its words go to the trainings and evaluations that have them, and its table says what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainings import GRAY, meta_trained

from metalearn_cli.core.errors import Stopped
from metalearn_cli.deploy import compressing
from metalearn_cli.records import runs

QUICK = ("steps=1", "val_episodes=2", "evaluate.episodes=3", "evaluate.normalisation=[inductive]", "query=3")


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_pictures: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(of_pictures.parents[3])
    monkeypatch.setattr(compressing, "median_seconds", lambda run: 0.0015)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have nothing done, and keep what was asked for."""
    kept: list[Any] = []

    def nothing(asked: Any, reporter: Any) -> Any:
        kept.append(asked)
        raise Stopped(2, "")

    monkeypatch.setattr(compressing, "compress", nothing)
    return kept


@pytest.mark.medium
def test_a_table_says_what_pruning_costs(mlx: Callable, of_pictures: Path) -> None:
    run = of_pictures.parent.parent.name
    code, out, err = mlx("compress", f"ckpt={run}", *QUICK)
    assert code == 0, err
    assert "prune: 4 -> 2 channels, in runs/meta-train/" in err
    assert [line.split()[:1] for line in out.splitlines()[3:5]] == [["trained"], ["pruned"]]
    assert "change of the accuracy, inductive: " in out and "percentage points (95 %, in pairs over 3 episodes)" in out
    code, again, err = mlx("compress", f"ckpt={run}", *QUICK, "--json")
    found = json.loads(again)
    assert code == 0 and f"next: mlx export ckpt={found['run']} support=EXAMPLES" in out
    assert [network["seconds"] for network in found["networks"]] == [0.0015, 0.0015]
    assert found["data"]["name"] == "images"


@pytest.mark.medium
def test_a_student_without_batch_statistics_is_compared_under_each_protocol(mlx: Callable, of_pictures: Path) -> None:
    quick = [word for word in QUICK if "normalisation" not in word]
    words = ["method=distill", "backbone=mlp", "backbone.hidden=9", "batch_size=4", *quick]
    code, out, err = mlx("compress", f"ckpt={of_pictures}", *words)
    assert code == 0, err
    assert [line.count(str(of_pictures)) for line in err.splitlines() if line.startswith("teacher ")] == [1]
    assert "accuracy, transductive   accuracy, inductive" in out.splitlines()[1]
    (distilled,) = (line.split() for line in out.splitlines() if line.startswith("distilled"))
    assert distilled[-8:-4] == distilled[-4:]  # the same scores
    assert out.count("change of the accuracy, ") == 2


@pytest.mark.medium
def test_words_go_to_those_that_have_them(mlx: Callable, asked: list[Any]) -> None:
    mlx("compress", "ckpt=latest", "amount=0.25", *QUICK, "tasks=3", "optimizer.lr=0.5")
    (own,) = asked
    assert own.amount == 0.25 and own.transfer is None and own.student is None
    changes = {"steps": 1, "val_episodes": 2, "query": 3, "tasks": 3, "optimizer.lr": 0.5}
    assert own.changes == changes
    assert (own.evaluate.episodes, own.evaluate.query, own.evaluate.normalisation) == (3, 3, ["inductive"])


def test_a_student_is_narrower_or_chosen(mlx: Callable, asked: list[Any]) -> None:
    mlx("compress", "ckpt=latest", "method=distill", "steps=7", "batch_size=9")
    mlx("compress", "ckpt=latest", "method=distill", "backbone=mlp", "backbone.hidden=9", "method.weight=0.1")
    first, second = asked
    assert first.student is None
    assert (first.transfer["method"]["weight"], first.transfer["method"]["features"]) == (0, 1)
    assert (first.transfer["steps"], first.transfer["batch_size"], first.changes) == (7, 9, {"steps": 7})
    assert second.student["_target_"].endswith("Mlp") and second.student["hidden"] == 9
    assert (second.transfer["method"]["weight"], second.transfer["method"]["features"]) == (0.1, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("amount=0", "amount must be a number between 0 and 1, got '0'"),
        ("amount=nan", "amount must be a number between 0 and 1, got 'nan'"),
        ("amount=half", "amount must be a number between 0 and 1, got 'half'"),
        ("method=int8", "method must be prune or distill, got 'int8'"),
        ("half", "mlx compress takes settings, KEY=VALUE, got 'half'"),
        ("stepz=3", "mlx compress has no setting stepz; did you mean steps?"),
        ("batch_size=3", "mlx compress has no setting batch_size"),
        ("evaluate.tasks=3", "mlx compress has no setting tasks"),
        (
            "transfer.steps=3",
            "mlx compress runs meta-train and evaluate here, not transfer; leave transfer.steps=3 out",
        ),
        ("data=omniglot", "data is that of the checkpoint"),
        ("backbone.hidden=3", "backbone is for method=distill"),
        ("ckpt=gone", "ckpt=gone"),
        ("episodes=none", "episodes"),
        ("amount=0.01", "channels is none; take a larger amount"),
    ],
)
def test_what_is_wrong_is_told(mlx: Callable, words: str, told: str) -> None:
    before = sorted(Path("runs").rglob("*"))
    code, out, err = mlx("compress", *words.split())
    assert (code, out) == (2, "") and told in err
    assert sorted(Path("runs").rglob("*")) == before


def test_a_student_that_cannot_be_made_is_the_only_problem(mlx: Callable) -> None:
    code, _, err = mlx("compress", "method=distill", "backbone.hidden=0")
    assert code == 2 and "1 problem in the settings" in err and "backbone.hidden  must be a whole number >= 1" in err


def test_a_run_in_use_is_named_with_what_can_be_done(mlx: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(stage: str, config: Any, *args: Any, **facts: Any) -> Any:
        runs.wait_for(Path(config.init_from).parent.parent, 0)

    monkeypatch.setattr(compressing.stages, "run", in_use)
    monkeypatch.setattr(runs, "is_held", lambda folder: True)
    code, _, err = mlx("compress", "amount=0.75", *QUICK)
    assert code == 4 and "is in use by another mlx process; type the same again when it has ended" in err
    assert "wait=SECONDS" not in err


def test_what_is_interrupted_says_how_it_goes_on(mlx: Callable, asked: list[Any], of_pictures: Path) -> None:
    code, _, err = mlx("compress", f"ckpt={of_pictures}", "amount=0.25", "evaluate.normalisation=[inductive]")
    resume = f"mlx compress ckpt={of_pictures} amount=0.25 'evaluate.normalisation=[inductive]'"
    assert code == 130 and f"resume with: {resume}" in err


def test_latest_is_no_network_that_was_only_pruned(mlx: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = compressing.stages.run, list[str]()

    def nothing(stage: str, config: Any, *args: Any, **facts: Any) -> Any:
        made.append(config.init_from)
        raise Stopped(2, "")

    monkeypatch.setattr(compressing.stages, "run", nothing)
    assert mlx("compress", "amount=0.75", *QUICK).code == 130
    monkeypatch.setattr(compressing.stages, "run", run)
    code, _, err = mlx("evaluate", "episodes=2", "query=2")
    assert code == 0 and made[0] not in err

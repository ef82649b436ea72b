"""Settings of a learner that are chosen on validation episodes, before the test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from metalearn_cli.records import runs
from metalearn_cli.records.selected import chosen
from metalearn_cli.stages.select import combinations

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 1, "first_order": False}
SCRATCH = {"_target_": "metalearn_cli.algorithms.from_scratch.FromScratch", "lr": 0.1, "steps": 20}
NEAREST = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
UNTRAINED = {"ckpt": None, "backbone": MLP, "data": GAUSSIAN, "way": 4, "query": 5}


@pytest.fixture
def listed(tmp_path: Path) -> Any:
    """Return a function that gives the evaluations."""
    return lambda: [info for info in runs.list_runs(str(tmp_path / "runs")) if info["stage"] == "evaluate"]


def test_every_combination_is_one() -> None:
    found = combinations({"algorithm.lr": [0.1, 1], "algorithm": {"steps": [1, 2, 3]}}, SCRATCH, "test")
    assert found == [{"algorithm.lr": lr, "algorithm.steps": steps} for lr in (0.1, 1) for steps in (1, 2, 3)]


@pytest.mark.medium
def test_the_best_on_validation_is_tested_and_both_are_recorded(go: Any, said: Any) -> None:
    def alone(lr: float, split: str) -> dict[str, Any]:
        return go("evaluate", **UNTRAINED, algorithm={**SCRATCH, "lr": lr}, split=split)  # type: ignore[no-any-return]

    worse, better = values = 1e-9, 0.5
    said.steps.clear()
    done = go("evaluate", **UNTRAINED, algorithm=SCRATCH, select={"algorithm.lr": [*values]})
    assert [row["values"] for row in done["selected"]] == [{"algorithm.lr": lr} for lr in values]
    assert [row["chosen"] for row in done["selected"]] == [False, True]
    for row, lr in zip(done["selected"], values, strict=True):
        expected = alone(lr, "val")["metric"]
        assert {name: row[name] for name in expected} == expected
    assert done["selected"][0]["value"] < done["selected"][1]["value"]
    assert said.steps[: 3 * 6] == list(range(1, 3 * 6 + 1))
    assert f"select: algorithm.lr={better}, the best of 2 on 6 validation episodes" in said.notes
    tested = alone(better, "test")
    assert (done["metric"], done["episodes_hash"]) == (tested["metric"], tested["episodes_hash"])
    assert done["metric"] != alone(worse, "test")["metric"]
    assert done["algorithm"] == {**SCRATCH, "lr": better}
    assert json.loads((Path(done["folder"]) / "run.json").read_text())["selected"] == done["selected"]


@pytest.mark.medium
def test_an_error_is_the_better_the_smaller(go: Any) -> None:
    regression = {"ckpt": None, "backbone": MLP, "data": SINUSOID, "way": None, "shot": 10, "query": 10}
    done = go("evaluate", **regression, algorithm=SCRATCH, select={"algorithm.lr": [1e-9, 0.01, 1e9]})
    values = [row["value"] for row in done["selected"]]
    assert values[1] < values[0]
    assert [row["chosen"] for row in done["selected"]] == [False, True, False]  # the last one diverges


def test_the_learner_of_a_checkpoint_keeps_its_other_settings(go: Any) -> None:
    go("meta-train", algorithm={**MAML, "inner_steps": 2})
    done = go("evaluate", select={"algorithm": {"inner_lr": [0.1, 0.3]}})
    assert done["algorithm"] in [{**MAML, "inner_steps": 2, "inner_lr": lr} for lr in (0.1, 0.3)]
    assert done["selected"][0]["learner"] == "maml"
    assert not done["metric"]["untrained_head"]


def test_test_classes_are_not_read_before_the_choice(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[Any] = []
    module = sys.modules["metalearn_cli.stages.evaluate"]  # the package has the function under this name
    original = module.score_episodes
    monkeypatch.setattr(module, "score_episodes", lambda *args: scored.append(args[1].classes(1)) or original(*args))
    go("evaluate", **UNTRAINED, algorithm=SCRATCH, select={"algorithm.steps": [1, 2]})
    val, test = (go("evaluate", **UNTRAINED, algorithm=SCRATCH, split=s) and scored[-1] for s in ("val", "test"))
    assert scored[:3] == [val, val, test]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (
            {"algorithm.rate": [1]},
            "algorithm.rate: no such setting of FromScratch; it has algorithm.lr, algorithm.steps",
        ),
        ({"algorithm.stes": [1]}, "algorithm.stes: no such setting of FromScratch; did you mean algorithm.steps?"),
        ({"algorithm.lr": []}, "algorithm.lr: must be a list of one or more values, got []"),
        ({"algorithm.lr": 0.1}, "algorithm.lr: must be a list of one or more values, got 0.1"),
        ({"algorithm.lr": [0.1, -1]}, "algorithm.lr: must be a number > 0, got -1"),
        ({"algorithm.steps": ["a"]}, "algorithm.steps: must be a whole number >= 1, got 'a'"),
        (
            {"lr": [0.1]},
            "lr: is no setting of the learner; those begin with algorithm., as in algorithm.lr",
        ),
        ({"algorithm._target_": ["x"]}, "algorithm._target_: 'x' may not be built"),
    ],
)
def test_what_cannot_be_selected(refused: Any, select: dict[str, Any], message: str) -> None:
    assert refused("evaluate", **UNTRAINED, algorithm=SCRATCH, select=select)["select"].startswith(message)


def test_selecting_is_for_a_test(refused: Any) -> None:
    found = refused("evaluate", **UNTRAINED, algorithm=SCRATCH, split="val", select={"algorithm.lr": [1.0]})
    assert found == {"split": "must be test with select, which chooses by validation classes, got 'val'"}


def test_a_value_that_only_the_network_excludes_is_refused_before_any_is_scored(refused: Any) -> None:
    tuned = {"_target_": "metalearn_cli.algorithms.finetune_at_test.FinetuneAtTest", "steps": 1}
    found = refused("evaluate", **UNTRAINED, algorithm=tuned, select={"algorithm.blocks": [1, 9]})
    assert found == {"algorithm.blocks": "must be at most 2, the backbone's number of blocks, got 9"}


@pytest.mark.medium
def test_a_chain_selects_for_the_learner_and_not_for_the_floors(go: Any, listed: Any) -> None:
    chain = {"stages": ["meta-train"], "algorithm": MAML, "evaluate__select": {"algorithm.inner_lr": [0.1, 0.2]}}
    done = go("run", **chain)
    found = {(info["metric"]["learner"], len(info.get("selected", ()))) for info in listed()}
    assert found == {("nearest_centroid", 0), ("maml", 2)}
    own = [[chosen(info)] for info in listed()[::-1] if "selected" in info]
    assert [row["selected"] for row in done["table"] if "selected" in row] == own
    assert len(own) == 2 and "selected" not in done["metric"]
    several = go("run", **chain, seeds=2)
    assert [len(row["selected"]) for row in several["table"] if "selected" in row] == [2, 2]
    before = len(listed())
    assert go("run", **chain, seeds=2)["table"] == several["table"] and len(listed()) == before
    before = len(listed())
    assert go("run", **chain)["table"] == done["table"]
    assert len(listed()) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ["transfer"]}, "chooses settings of the learner that meta-train trains, and stages has no meta-"),
        (
            {"stages": ["meta-train"]},
            "algorithm.inner_lr: no such setting of ProtoNet, which has none; leave select out",
        ),
    ],
)
def test_a_chain_without_such_a_learner(refused: Any, changes: dict[str, Any], message: str) -> None:
    found = refused("run", **changes, evaluate__select={"algorithm.inner_lr": [0.1]})
    assert found["evaluate.select"].startswith(message)

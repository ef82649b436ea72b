"""`compress` makes a smaller ordinary network, trains it with the checkpoint's own settings, and says what it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Said, smallest
from contract.components import specs
from trainings import GRAY, trained

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse
from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy import compressing
from metalearn_cli.deploy.compressing import Asked, compress
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint, read_tensors
from metalearn_cli.stages.scores import Scores

EPISODES = 4
BY_FEATURES = {"_target_": "metalearn_cli.methods.distill.Distill", "weight": 0.0, "features": 1.0}


@pytest.fixture(scope="module", params=["pretrain", "transfer", "meta-train"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(request.param, "images", tmp_path_factory.mktemp("images"), GRAY)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressing, "median_seconds", lambda run: run() is not None and 0.001)


def asked(checkpoint: Path, **changes: Any) -> Asked:
    runs_dir = str(checkpoint.parents[3])
    config: Any = parse(STAGES["evaluate"], smallest("evaluate", Path("elsewhere"), episodes=EPISODES))
    own = Asked(open_checkpoint(checkpoint), 0.5, {}, config, None, None, None, runs_dir)
    return own._replace(**changes)


def distilling(method: dict[str, Any] = BY_FEATURES) -> dict[str, Any]:
    return smallest("transfer", Path("elsewhere"), steps=1, way=3, val_episodes=2, method=method)


def listed(checkpoint: Path) -> dict[str, dict[str, Any]]:
    return {run["id"]: run for run in runs.list_runs(str(checkpoint.parents[3]))}


@pytest.mark.medium
def test_a_pruned_network_is_an_ordinary_one_that_its_stage_has_trained(checkpoint, quick):
    before = listed(checkpoint)
    record = compress(asked(checkpoint), Said())
    new = {name: run for name, run in listed(checkpoint).items() if name not in before}
    last = open_checkpoint(Path(record["checkpoint"]))
    stage = open_checkpoint(checkpoint).manifest["stage"]
    assert last.manifest["stage"] == stage and last.manifest["model"]["backbone"]["hidden"] == 2
    assert new[record["run"]]["steps"] == 1
    (start,) = (run for run in new.values() if run["stage"] == stage and run["id"] != record["run"])
    assert last.manifest["parent"]["run"] == start["id"]
    assert start["parent"]["sha256"] == open_checkpoint(checkpoint).sha256
    pruned = read_tensors(open_checkpoint(Path(start["folder"]) / "checkpoints" / "step-000000"))
    assert {name.partition(".")[0] for name in pruned} == {"backbone"}
    assert json.loads((last.folder.parent.parent / "compress.json").read_text())["run"] == record["run"]
    whole, small = record["networks"]
    assert (whole["name"], small["name"], small["checkpoint"]) == ("trained", "smaller", record["checkpoint"])
    assert whole["parameters"] > 2 * small["parameters"] and whole["bytes"] > small["bytes"]
    evaluations = [run for run in new.values() if run["stage"] == "evaluate"]
    by_parent = {run["parent"]["run"]: Scores.read(Path(run["folder"]), EPISODES) for run in evaluations}
    first, second = by_parent[whole["run"]], by_parent[small["run"]]
    assert [change["normalisation"] for change in record["changes"]] == ["transductive", "inductive"]
    for change in record["changes"]:
        gains = second.protocols[change["normalisation"]] - first.protocols[change["normalisation"]]
        assert change["gain"] == pytest.approx(gains.mean().item())
        assert change["over"]["episodes"] == EPISODES


@pytest.mark.medium
def test_a_run_that_was_only_pruned_cannot_be_resumed(checkpoint):
    run = Path(compressing._pruned(asked(checkpoint), Said())).parents[1]
    own = open_checkpoint(checkpoint).manifest["run"]
    told = f"{run.name} was pruned, and has no training to resume; type the mlx compress that made it again, with"
    with pytest.raises(UserError, match=f"{told} ckpt={own}: it skips what is done"):
        stages.resume(str(run), Said(), {})


@pytest.mark.slow
def test_the_same_again_does_nothing_again(checkpoint, quick):
    first = compress(asked(checkpoint, amount=0.75), Said())
    before, said = listed(checkpoint), Said()
    assert compress(asked(checkpoint, amount=0.75), said) == first
    assert listed(checkpoint).keys() == before.keys()
    assert sum("skipped" in note for note in said.notes) == 4


@pytest.mark.slow
def test_a_student_learns_from_the_whole_network(checkpoint, quick):
    before = listed(checkpoint)
    record = compress(asked(checkpoint, transfer=distilling(), amount=0.25), Said())
    new = [run for name, run in listed(checkpoint).items() if name not in before]
    stage = open_checkpoint(checkpoint).manifest["stage"]
    (transfer,) = (run for run in new if run["stage"] == "transfer")
    assert transfer["teacher"]["sha256"] == open_checkpoint(checkpoint).sha256 and transfer["parent"] is None
    last = open_checkpoint(Path(record["checkpoint"]))
    assert last.manifest["stage"] == ("meta-train" if stage == "meta-train" else "transfer")
    assert last.manifest["model"]["backbone"]["hidden"] == 3 and record["method"] == "distill"
    student = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "layers": 2}
    record = compress(asked(checkpoint, transfer=distilling(), student=student), Said())
    assert open_checkpoint(Path(record["checkpoint"])).manifest["model"]["backbone"] == student
    assert record["amount"] is None
    assert [change["normalisation"] for change in record["changes"]] == ["transductive", "inductive"]


@pytest.mark.slow
def test_settings_of_the_training_are_changed(checkpoint, quick):
    record = compress(asked(checkpoint, changes={"steps": 2, "optimizer.lr": 0.5}), Said())
    values = runs.read_config(Path(record["checkpoint"]).parent.parent)
    assert values["steps"] == 2 and values["optimizer"]["lr"] == 0.5


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("meta-train", "table", tmp_path_factory.mktemp("rows"))


def refused(own: Asked, match: str) -> None:
    before = listed(own.checkpoint.folder)
    with pytest.raises(UserError, match=match):
        compress(own, Said())
    assert listed(own.checkpoint.folder) == before


def test_what_cannot_be_done_is_told_before_anything_is(learner, tmp_path):
    own = asked(learner)
    refused(own._replace(changes={"steps": 0}), "steps: must be a whole number >= 1")
    refused(own._replace(changes={"stepz": 5}), "stepz")
    refused(own._replace(amount=0.01), "amount=0.01 of 8 channels is none")
    away = tmp_path / "step-000001"
    away.symlink_to(learner)
    moved = replace(own.checkpoint, folder=away)
    refused(own._replace(checkpoint=moved), "is not in the folder of its run, which has the settings of its training")
    method = {"_target_": "metalearn_cli.methods.distill.Distill"}
    refused(own._replace(transfer=distilling(method)), "teacher: .* has no classifier; name a run of transfer")


def test_a_regression_is_refused(tmp_path):
    data = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
    own = {"steps": 1, "val_episodes": 2, "way": 1, "data": data, "algorithm": specs("algorithm")["maml"]}
    config: Any = parse(STAGES["meta-train"], smallest("meta-train", tmp_path, **own))
    run = stages.run("meta-train", config, Said())
    refused(asked(Path(run["checkpoint"])), "predicts numbers; only networks of classifiers can be made smaller")


def test_a_frozen_network_is_to_be_distilled(tmp_path, quick):
    backbone = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "train": "none"}
    algorithm = {"_target_": "metalearn_cli.algorithms.feat.Feat"}  # which has tensors of its own to train
    frozen = trained("meta-train", "table", tmp_path, backbone=backbone, algorithm=algorithm)
    record = compress(asked(frozen, transfer=distilling()), Said())
    student = open_checkpoint(Path(record["checkpoint"])).manifest["model"]["backbone"]
    assert (student["hidden"], student["train"]) == (4, "all")
    refused(asked(frozen), r"the backbone is frozen \(backbone.train=none\).*; type method=distill")

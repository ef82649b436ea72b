from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import Split
from metalearn_cli.records import runs
from metalearn_cli.records.calibration import calibration_of, temperature_of
from metalearn_cli.stages import curves, session
from metalearn_cli.stages import evaluate as module_function
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.scores import CLASSES, FILE, Scores, check_scores
from metalearn_cli.stages.session import Session

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
FOMAML = {**MAML, "first_order": True}
PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
NEAREST = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
SCRATCH = {"_target_": "metalearn_cli.algorithms.from_scratch.FromScratch", "steps": 2}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
CNP = {"_target_": "metalearn_cli.algorithms.cnp.Cnp", "hidden": 4}
CAVIA = {"_target_": "metalearn_cli.algorithms.cavia.Cavia"}
MANY = {**GAUSSIAN, "items": 280, "classes": 28}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}


def test_result_is_what_was_measured(go, manifest, said):
    trained = go("meta-train", algorithm=MAML)
    said.steps.clear()
    done = go("evaluate", split="val", episodes=5, seed=3)
    (result,) = done["results"]
    measured = ("value", "interval", "interval_classes", "worst_decile", "hardest")
    assert {k: v for k, v in result.items() if k not in measured} == {
        "name": "val/accuracy",
        "interval_trainings": None,
        "untrained_head": False,
        "over": {"episodes": 5, "classes": 4, "trainings": 1},
        "normalisation": "none",  # an mlp has no batch statistics
        "learner": "maml",
        "way": 2,
        "shot": 1,
        "query": 3,
    }
    written = Scores.read(Path(done["folder"]), 5)
    scores = written.protocols["none"]
    assert [len(set(names)) for names in written.classes] == [2] * 5
    assert result["value"] == pytest.approx(scores.mean().item())
    assert result["worst_decile"] == scores.min().item()
    with (Path(done["folder"]) / CLASSES).open(newline="") as file:
        by_class = list(csv.DictReader(file))
    assert {row["class"] for row in by_class} == {name for names in written.classes for name in names}
    assert sum(int(row["queries"]) for row in by_class) == 5 * 2 * 3
    weighted = sum(float(row["accuracy"]) * int(row["queries"]) for row in by_class) / (5 * 2 * 3)
    assert result["value"] == pytest.approx(weighted)
    assert [own["name"] for own in result["hardest"]] == [row["class"] for row in by_class if int(row["episodes"]) > 1][
        :3
    ]
    assert result["interval"] == pytest.approx(2.7764 * scores.std().item() / 5**0.5, rel=1e-4)
    assert done["metric"] == result
    assert done["parent"]["run"] == trained["id"]
    assert said.steps == [1, 2, 3, 4, 5]
    assert said.started[-1] == ("evaluate", 0, 5)
    assert json.loads((Path(done["folder"]) / "run.json").read_text())["status"] == "completed"


def test_validation_of_training_is_what_evaluation_gives(go):
    trained = go("meta-train", algorithm=MAML)
    again = go("evaluate", split="val", episodes=4)["results"][0]
    assert (again["value"], again["interval"]) == (trained["metric"]["value"], trained["metric"]["interval"])


@pytest.mark.medium
def test_same_episodes_for_every_learner_and_checkpoint(config, go):
    go("meta-train", algorithm=MAML)
    done = [go("evaluate", algorithm=algorithm) for algorithm in (None, FOMAML, PROTONET, NEAREST, SCRATCH)]
    done.append(go("evaluate", ckpt=None, backbone=MLP, data=GAUSSIAN))
    assert len({run["episodes_hash"] for run in done}) == 1
    assert [run["results"][0]["learner"] for run in done] == [
        *("maml", "fomaml", "protonet", "nearest_centroid", "from_scratch", "nearest_centroid")
    ]
    assert len({run["key"] for run in done}) == 6
    other = [go("evaluate", **c)["episodes_hash"] for c in ({"seed": 1}, {"shot": 2}, {"split": "val"})]
    assert len({done[0]["episodes_hash"], *other}) == 4


def test_weights_that_no_checkpoint_brings_have_a_seed_of_their_own(go):
    untrained = {"ckpt": None, "backbone": MLP, "data": GAUSSIAN}
    one, same, other = (go("evaluate", **untrained, seed=2, weights_seed=seed) for seed in (None, 2, 3))
    assert one["results"] == same["results"] != other["results"]
    assert one["episodes_hash"] == other["episodes_hash"]


def test_floor_from_scratch_does_not_see_the_weights(go, said):
    go("meta-train", optimizer__lr=0.5)
    from_checkpoint = go("evaluate", algorithm=SCRATCH)
    assert any("starts from random weights" in note for note in said.notes)
    backbone = {**MLP, "layers": 3}
    untrained = go("evaluate", ckpt=None, backbone=backbone, data=GAUSSIAN, algorithm=SCRATCH)
    assert from_checkpoint["metric"]["value"] == untrained["metric"]["value"]


def test_learner_that_was_not_trained_takes_the_backbone_alone(go, said):
    trained = go("transfer")
    said.notes.clear()
    go("evaluate", algorithm=MAML)
    assert f"ckpt latest -> {trained['checkpoint']}" in said.notes
    line = f"loaded 6/6 tensors, 100.0 % of the backbone, from {trained['checkpoint']}; fresh: head.bias, head.weight"
    assert line in said.notes


def test_way_of_a_head_is_fixed(go, refused):
    go("meta-train", algorithm=MAML)
    assert refused("evaluate", way=3) == {"way": "the checkpoint's head is for way = 2, got 3"}
    assert go("evaluate", way=3, algorithm=PROTONET)["results"][0]["way"] == 3


def test_way_without_a_head_is_free(go):
    go("meta-train")
    assert go("evaluate", way=4)["results"][0]["learner"] == "protonet"


@pytest.mark.parametrize(("algorithm", "way"), [(MAML, 3), (PROTONET, 3), (PROTONET, 4)])
def test_way_and_shot_are_those_of_the_checkpoint_unless_they_are_typed(go, said, algorithm, way):
    go("meta-train", algorithm=algorithm, way=way, shot=2, train_shot=1)
    said.notes.clear()
    done = go("evaluate", way=None, shot=None)
    assert (done["results"][0]["way"], done["results"][0]["shot"]) == (way, 2)
    assert f"as in the checkpoint's training: way {way}, shot 2" in said.notes
    said.notes.clear()
    typed = go("evaluate", way=None, shot=1)["results"][0]
    assert (typed["way"], typed["shot"]) == (way, 1)
    assert f"as in the checkpoint's training: way {way}" in said.notes


def test_another_learner_has_the_usual_way_and_shot(go, said):
    go("meta-train", way=3, shot=2)
    said.notes.clear()
    (result,) = go("evaluate", way=None, shot=None, algorithm=NEAREST)["results"]
    assert (result["way"], result["shot"]) == (4, 1)  # the data has four test classes
    assert "as many as gaussian allows: way 4 (usually 5)" in said.notes
    assert not any("checkpoint's training" in note for note in said.notes)


def test_the_way_of_a_checkpoint_is_as_large_as_other_data_allows(go, said):
    go("meta-train", way=4)
    said.notes.clear()
    other = {**GAUSSIAN, "items": 120, "classes": 12}
    assert go("evaluate", way=None, data=other)["results"][0]["way"] == 3
    assert "as many as gaussian allows: way 3 (usually 4)" in said.notes


def test_untrained_needs_a_backbone_and_data(refused):
    assert refused("evaluate", ckpt=None) == {
        "backbone": "ckpt=null needs one; choose it with backbone=NAME",
        "data": "ckpt=null needs one; choose it with data=NAME",
    }


def test_backbone_of_a_checkpoint_is_not_replaced(go, refused):
    go("transfer", steps=1)
    assert refused("evaluate", backbone=MLP) == {"backbone": "is only for ckpt=null: a checkpoint has its own"}


def test_no_protocol_at_all(refused):
    found = refused("evaluate", ckpt=None, backbone=MLP, data=GAUSSIAN, normalisation=[])
    assert found == {"normalisation": "must name at least one of transductive, inductive"}


def test_data_of_another_shape(go, refused):
    go("transfer", steps=1)
    found = refused("evaluate", data={**GAUSSIAN, "features": 7})
    told = "gaussian has items of shape [7], the trained network takes [6]; type data.features=6"
    assert found == {"data": told}


def test_other_data_and_other_episodes_are_told(go, said):

    def told():
        return [note for note in said.notes if "trained on" in note][-1:]

    trained = go("meta-train", steps=1)
    go("evaluate")
    assert not told()
    go("evaluate", data={**GAUSSIAN, "seed": 1})
    assert told() == ["trained on gaussian (directions), tested on other data of this name"]
    done = go("evaluate", way=4, shot=2)
    assert told() == ["trained on 2-way 1-shot episodes, tested on 4-way 2-shot ones"]
    data = {key: trained["data"][key] for key in ("name", "protocol", "fingerprint")}
    assert done["training"] == {"data": data, "way": 2, "shot": 1}
    go("evaluate", varying=True, data=MANY)
    before = "trained on 2-way 1-shot episodes of gaussian (directions)"
    assert told() == [f"{before}, tested on varying ones of other data of this name"]


def test_both_protocols_on_the_same_episodes(go, images, said):
    untrained = {"ckpt": None, "backbone": {**CONV4, "hidden": 8}, "data": GAUSSIAN, "way": 4, "query": 8}
    done = go("evaluate", **untrained)
    assert [result["normalisation"] for result in done["results"]] == ["transductive", "inductive"]
    episodes = Scores.read(Path(done["folder"]), 6).protocols
    assert list(episodes) == ["transductive", "inductive"]
    assert not torch.equal(episodes["transductive"], episodes["inductive"])
    assert said.steps == list(range(1, 13))
    only = go("evaluate", **untrained, normalisation=["inductive"])
    assert only["results"] == done["results"][1:]


def test_regression(go):
    go("meta-train", data=SINUSOID, algorithm={**MAML, "inner_lr": 0.01}, way=1)
    done = go("evaluate", way=1)
    assert done["metric"]["name"] == "test/mse"
    floor = go("evaluate", ckpt=None, backbone=MLP, data=SINUSOID, way=1)
    assert floor["metric"]["learner"] == "from_scratch"
    assert floor["episodes_hash"] == done["episodes_hash"]


@pytest.mark.parametrize(("algorithm", "adapts"), [(MAML, True), (CNP, False)], ids=["maml", "cnp"])
@pytest.mark.parametrize("data", ["sinusoid", "harmonic"])
def test_the_first_fits_of_a_regression_are_drawn(go, monkeypatch, algorithm, adapts, data):
    drawn = []
    monkeypatch.setattr(curves, "curve_picture", lambda *args: drawn.append(args))
    spec = {"_target_": f"metalearn_cli.data.{data}.{data}"}
    done = go("evaluate", ckpt=None, backbone=MLP, data=spec, way=1, algorithm=algorithm, episodes=5)
    ((found, title, path),) = drawn
    name = "maml" if adapts else "cnp"
    assert (title, path) == (f"{name}: the first 3 of 5 test episodes", Path(done["folder"]) / "plots" / "fits.png")
    errors = []
    for curve in found:
        assert (curve.fit.before is not None) == adapts and (curve.fit.spread is None) == adapts
        assert len(curve.x) == len(curve.fit.after) == 203  # the 3 queries, and the places between them
        every = torch.cat([curve.episode.support_x, curve.episode.query_x])
        assert torch.equal(torch.stack(curve.x.aminmax()), torch.stack(every.aminmax()))
        errors.append((curve.fit.after[:3] - curve.episode.query_y).square().mean())
    assert torch.allclose(torch.stack(errors), Scores.read(Path(done["folder"]), 5).protocols["none"][:3].float())


def test_other_evaluations_have_no_picture_of_fits(go):
    done = go("evaluate", ckpt=None, backbone=MLP, data=GAUSSIAN)
    assert not (Path(done["folder"]) / "plots").exists()


def test_no_checkpoint(config, said):
    with pytest.raises(UserError, match="ckpt: no completed run of pretrain or transfer or meta-train in"):
        stages.run("evaluate", config("evaluate"), said)


def test_failure_is_recorded(config, said, tmp_path, monkeypatch):
    prepared = prepare_evaluation(config("evaluate", ckpt=None, backbone=MLP, data=GAUSSIAN), Session())
    monkeypatch.setitem(module_function.__globals__, "score_episodes", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module_function(prepared, said)
    (info,) = runs.list_runs(str(tmp_path / "runs"))
    assert (info["status"], info["error"]) == ("failed", "ZeroDivisionError: division by zero")


def test_key_does_not_depend_on_where_things_lie(config, tmp_path):
    untrained = {"ckpt": None, "backbone": MLP, "data": GAUSSIAN}
    changes = ({}, {"runs_dir": "elsewhere"}, {"data": {**GAUSSIAN, "seed": 1}})
    one, two, other = (prepare_evaluation(config("evaluate", **(untrained | c)), Session()).key for c in changes)
    assert one == two != other


@pytest.fixture
def scored(config, said):
    """Return a function that evaluates with settings given for the checkpoint's learner, and gives those used."""

    def score(given, **changes):
        said.notes.clear()
        done = stages.run("evaluate", config("evaluate", **changes), said, given=given)
        assert json.loads((Path(done["folder"]) / "config.json").read_text())["algorithm"] == done["algorithm"]
        return json.loads((Path(done["folder"]) / "run.json").read_text())["algorithm"]

    return score


@pytest.mark.medium
def test_given_settings_are_laid_over_those_of_the_checkpoints_learner(go, scored, said):
    go("meta-train", algorithm={**MAML, "inner_steps": 2})
    of_file = {**MAML, "inner_lr": 0.4, "inner_steps": 5}  # what algorithm=maml algorithm.inner_steps=5 composes to
    used = scored({"inner_steps": 5}, algorithm=of_file)
    assert used == {**MAML, "inner_steps": 5}
    assert "algorithm.inner_steps: 5, not 2 as in the checkpoint" in said.notes
    assert "algorithm.inner_lr: 0.1 as in the checkpoint; for 0.4 type algorithm.inner_lr=0.4" in said.notes
    assert scored({"inner_steps": 5}) == used
    assert scored(None, algorithm=of_file) == of_file  # all of it is given
    assert scored({}, algorithm={**SCRATCH, "steps": 3})["steps"] == 3  # another learner


def test_given_settings_that_the_checkpoints_learner_does_not_have(go, scored):
    go("meta-train", algorithm=PROTONET)
    with pytest.raises(ConfigError, match=r"algorithm\.inner_steps: no such setting of ProtoNet"):
        scored({"inner_steps": 5})
    go("pretrain")
    with pytest.raises(ConfigError, match=r"algorithm\.inner_steps: there is no learner to set it of"):
        scored({"inner_steps": 5})


def test_a_head_that_nothing_trained_is_warned_of(go, said):
    trained = go("meta-train", algorithm=PROTONET)
    said.notes.clear()
    go("evaluate", algorithm=MAML)
    (warning,) = [note for note in said.notes if note.startswith("warning: ")]
    assert "no head for maml," in warning and f"mlx meta-train init_from={trained['id']} algorithm=" in warning
    go("meta-train", algorithm=MAML)
    said.notes.clear()
    go("evaluate", algorithm=FOMAML)
    assert not [note for note in said.notes if note.startswith("warning: ")]


def test_everything_wrong_with_checkpoint_machine_and_data_at_once(refused):
    found = refused("evaluate", ckpt="nope", runtime__threads=999, data={**GAUSSIAN, "items": 161})
    assert {"ckpt", "runtime.threads"} <= found.keys()
    found = refused("evaluate", ckpt="nope", data={**GAUSSIAN, "items": 161})
    assert {"ckpt", "data.items"} <= found.keys()


def test_fixed_episodes_are_all_scored(images, monkeypatch, go, refused):
    data = replace(images, fixed={"test": EpisodeShape(way=2, shot=1, query=9)})
    monkeypatch.setattr(session, "_loaded", lambda spec: data)
    go("meta-train")
    assert refused("evaluate", query=9, episodes=12) == {
        "episodes": "must be 3, as images/test has 3 fixed episodes, got 12"
    }
    assert "way=2 shot=1 query=9 episodes=3" in refused("evaluate", episodes=3)["query"]
    result = go("evaluate", query=9, episodes=3)["results"][0]
    assert result["over"] == {"episodes": 3, "classes": 6, "trainings": 1}
    assert result["fixed"] and result["hardest"] == []
    with_fixed = refused("evaluate", query=9, episodes=3, also_within=True)["also_within"]
    assert "needs a group for every class" in with_fixed


UNTRAINED = {"ckpt": None, "backbone": MLP, "data": GAUSSIAN}


@pytest.mark.medium
def test_a_temperature_is_fitted_on_validation_classes(go, said, monkeypatch):
    read = []
    module = sys.modules["metalearn_cli.stages.evaluate"]  # the package has the function under this name
    original = module.score_episodes
    monkeypatch.setattr(module, "score_episodes", lambda *args: read.append(original(*args)) or read[-1])
    done = go("evaluate", **UNTRAINED, algorithm=SCRATCH, calibration=3)
    test, val = read
    assert (len(test.logits), len(val.logits)) == (6, 3)
    found = done["results"][0]["calibration"]
    assert found["temperature"] == temperature_of(val.logits, val.targets)
    before, after = (calibration_of(test.logits, test.targets, t) for t in (1.0, found["temperature"]))
    assert found["before"] == {"ece": before.ece, "nll": before.nll}
    assert found["after"] == {"ece": after.ece, "nll": after.nll}
    assert (Path(done["folder"]) / "plots" / "reliability.png").stat().st_size > 1000
    assert said.steps == list(range(1, 10))
    read.clear()
    scored = go("evaluate", **UNTRAINED, algorithm=SCRATCH, split="val", episodes=3)
    assert torch.equal(read[0].scores, val.scores)
    assert read[0].logits == ()
    assert "calibration" not in scored["results"][0]


def test_calibration_that_cannot_be_measured(refused):
    found = refused("evaluate", **UNTRAINED, calibration=3, split="val")["calibration"]
    assert found == "fits a temperature on validation classes, so that split must be test, got 'val'"
    found = refused("evaluate", ckpt=None, backbone=MLP, data=SINUSOID, way=1, calibration=3)["calibration"]
    assert found == "is of classifiers, and sinusoid is a regression; take it away"


@pytest.mark.medium
def test_a_selected_learner_is_calibrated(go):
    done = go("evaluate", **UNTRAINED, algorithm=SCRATCH, calibration=3, select={"algorithm.steps": [1, 2]})
    assert ["calibration" in row for row in (*done["selected"], *done["results"])] == [False, False, True]


@pytest.fixture
def grouped(monkeypatch):
    """Return a function that has sessions load classes with names, split into train, val and test."""

    def load(names: list[str], **changes: Any) -> None:
        items = torch.randn(len(names) * 8, 6, generator=torch.Generator().manual_seed(0))
        splits = {
            part: Split(items, torch.full((len(names),), 8), tuple(f"{own[0]}{part}{own[1:]}" for own in names))
            for part in ("train", "val", "test")
        }
        data = replace(Dataset.of("grouped", "any", splits, "vector"), **changes)
        monkeypatch.setattr(session, "_loaded", lambda spec: data)

    return load


@pytest.mark.medium
def test_episodes_within_one_group_are_scored_beside_those_from_all_classes(grouped, go, said):
    grouped(["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"])
    done = go("evaluate", **UNTRAINED, also_within=True, calibration=2)
    assert [result["drawn"] for result in done["results"]] == ["pooled", "within one group"]
    pooled, within = (Path(done["folder"]) / place for place in ("", "within"))
    assert any(len({name[0] for name in names}) == 2 for names in Scores.read(pooled, 6).classes)
    assert all(len({name[0] for name in names}) == 1 for names in Scores.read(within, 6).classes)
    assert said.steps == list(range(1, 17))
    assert (within / CLASSES).exists() and (within / "plots" / "reliability.png").exists()
    alone = go("evaluate", **UNTRAINED)["results"]
    assert {k: v for k, v in done["results"][0].items() if k not in ("drawn", "calibration")} == alone[0]
    check_scores(done, 6)
    (within / FILE).unlink()
    with pytest.raises(UserError, match=r"within/episodes\.csv is missing"):
        check_scores(done, 6)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["a/1", "b/1", "c/1"], {}, "the largest one of grouped/test has 1 classes"),
        (["a/1", "a/2", "c"], {}, "needs a group for every class of grouped, and ctrain has none"),
        (["a/1", "a/2"], {"within": True}, "whose episodes are not from all classes"),
    ],
)
def test_no_episodes_within_one_group(grouped, refused, names, changes, message):
    grouped(names, **changes)
    (found,) = refused("evaluate", **UNTRAINED, also_within=True).values()
    assert message in found


def test_a_regression_has_no_groups_of_classes(refused):
    found = refused("evaluate", ckpt=None, backbone=MLP, data=SINUSOID, way=1, also_within=True)["also_within"]
    assert "sinusoid is a regression" in found


def test_varying_way_and_shot(go):
    first = go("evaluate", ckpt=None, backbone=MLP, data=MANY, varying=True, episodes=12)
    again = go("evaluate", ckpt=None, backbone=MLP, data=MANY, varying=True, episodes=12, algorithm=PROTONET, shot=3)
    assert first["episodes_hash"] == again["episodes_hash"]
    assert first["metric"]["varying"]["way"] == [5, 7] and not {"way", "shot", "query"} & first["metric"].keys()
    with (Path(first["folder"]) / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["episode", "none", "way", "shots", "classes"]
    assert {int(row["way"]) for row in rows} == {5, 6, 7}
    for row in rows:
        assert len(row["shots"].split(";")) == len(row["classes"].split(";")) == int(row["way"])
    assert first["metric"]["value"] == pytest.approx(sum(float(row["none"]) for row in rows) / 12)
    frozen = {**MLP, "train": "none"}  # its features are computed once
    same = go("evaluate", ckpt=None, backbone=frozen, data=MANY, varying=True, episodes=12)
    assert same["metric"]["value"] == pytest.approx(first["metric"]["value"])
    assert same["episodes_hash"] == first["episodes_hash"]


@pytest.mark.parametrize(("changes", "key", "told"), [
    ({"algorithm": MAML}, "varying", "Maml has tensors for one number of classes, so that the way cannot vary"),
    ({"algorithm": CAVIA}, "varying", "Cavia has tensors for one number of classes"),
    ({"runtime__task_batching": "vmap"}, "runtime.task_batching", "vmap needs episodes of the same size"),
    ({"data": SINUSOID, "algorithm": None, "way": 1}, "varying", "sinusoid has no classes, whose number could vary"),
])  # fmt: skip
def test_what_cannot_be_scored_on_varying_episodes(refused, changes, key, told):
    found = refused("evaluate", **{"ckpt": None, "backbone": MLP, "data": MANY, "varying": True, **changes})
    assert told in found[key]


def test_a_chain_finds_a_head_that_does_not_fit_before_it_begins(refused):
    found = refused("run", stages=["meta-train"], algorithm=MAML, evaluate__varying=True)
    assert "Maml has tensors for one number" in found["evaluate.varying"]

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import Split
from metalearn_cli.records import runs
from metalearn_cli.stages import session
from metalearn_cli.stages.scores import Scores, mean_of

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 8}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
OMNIGLOT = {"_target_": "metalearn_cli.data.omniglot.omniglot", "root": "here"}
SHORT = {"stages": ["transfer", "meta-train"]}
ONE_TINY_STEP = {"stages": ["meta-train"], "meta_train__steps": 1, "meta_train__optimizer__lr": 1e-9}


@pytest.fixture
def listed(tmp_path):
    """Return a function that gives the runs of a stage, oldest first."""
    return lambda stage: [i for i in runs.list_runs(str(tmp_path / "runs"))[::-1] if i["stage"] == stage]


def cells(table, *names):
    return [tuple(row[name] for name in names) for row in table]


@pytest.mark.medium
def test_every_checkpoint_is_scored_by_one_learner_then_the_trained_one_by_itself(go, listed, said):
    done = go("run", algorithm=MAML, evaluate__episodes=20)
    table, evaluations = done["table"], listed("evaluate")
    assert cells(table, "after", "learner") == [
        ("nothing", "nearest_centroid"),
        ("pretrain", "nearest_centroid"),
        ("transfer", "nearest_centroid"),
        ("meta-train", "nearest_centroid"),
        ("transfer", "maml"),
        ("meta-train", "maml"),
    ]
    assert len({info["episodes_hash"] for info in evaluations}) == 1
    assert done["metric"] == {k: v for k, v in evaluations[-1]["metric"].items() if k != "hardest"}
    assert said.finished[-1]["table"] == table
    # each stage started from the one before, and each evaluation from its stage
    chain = runs.lineage(str(Path(done["folder"]).parents[1]), done["id"])
    assert [info["stage"] for info in chain] == ["run", "meta-train", "transfer", "pretrain"]
    assert all(info["sha256"] for info in chain[1:])
    parents = [info["parent"] and info["parent"]["stage"] for info in evaluations]
    assert parents == [None, "pretrain", "transfer", "transfer", "meta-train", "meta-train"]


@pytest.mark.medium
def test_a_chain_starts_from_the_last_checkpoint_of_the_one_before(config, listed, said):
    second = replace(config("run", stages=["meta-train"]), first=config("run", stages=["transfer"]))
    done = stages.run("run", second, said)
    (transfer,), (meta,), (first, last) = listed("transfer"), listed("meta-train"), listed("run")
    assert meta["parent"]["run"] == transfer["id"]
    assert done["id"] == last["id"]
    assert last["starts"]["meta-train"]["init_from"] == first["parent"]["checkpoint"]
    assert stages.run("run", second, said)["table"] == done["table"]
    assert [len(listed(stage)) for stage in ("transfer", "meta-train", "run")] == [1, 1, 2]


@pytest.mark.medium
def test_the_time_of_a_chain_is_that_of_its_parts_also_if_an_earlier_command_did_them(go, listed):
    first = go("run", **SHORT)
    parts = sum(info["seconds"] for stage in ("transfer", "meta-train", "evaluate") for info in listed(stage))
    assert first["seconds"] == pytest.approx(parts)
    assert go("run", **SHORT)["seconds"] == first["seconds"]


@pytest.mark.medium
def test_gains_are_paired_and_within_one_learner(go, listed):
    table = go("run", algorithm=MAML, evaluate__episodes=20)["table"]
    by_row = {((i["parent"] or {}).get("stage", "nothing"), i["metric"]["learner"]): i for i in listed("evaluate")}
    before = {}
    for row in table:
        info = by_row[row["after"], row["learner"]]
        written = Scores.read(Path(info["folder"]), 20)
        scores = written.protocols["none"]
        assert row["value"] == info["metric"]["value"]
        earlier = before.get(row["learner"])
        if earlier is None:
            assert row["gain"] is row["gain_interval"] is row["gain_interval_classes"] is None
        else:
            gained = mean_of((scores - earlier)[None], written.classes)
            assert row["gain"] == gained["value"]
            assert row["gain_interval"] == gained["interval"]
            assert row["gain_interval_classes"] == gained["interval_classes"]
        before[row["learner"]] = scores
    assert any(row["gain"] for row in table)


def test_first_row_is_the_checkpoint_that_the_chain_starts_from(go):
    first = go("transfer", seed=1, steps=6, optimizer__lr=0.01)
    done = go("run", **ONE_TINY_STEP, init_from="latest:transfer")
    assert done["starts"] == {"meta-train": {"init_from": first["checkpoint"]}}
    assert cells(done["table"], "after", "learner", "gain") == [
        ("start", "nearest_centroid", None),
        ("meta-train", "nearest_centroid", 0.0),
        ("start", "protonet", None),
        ("meta-train", "protonet", 0.0),
    ]


def test_the_learner_before_meta_training_has_the_weights_that_it_begins_with(go):
    """Also where its head, or the whole network, is drawn."""
    table = go("run", **ONE_TINY_STEP, algorithm=MAML, seed=3)["table"]
    assert cells(table, "after", "learner", "gain")[2:] == [("nothing", "maml", None), ("meta-train", "maml", 0.0)]


@pytest.mark.medium
def test_several_trainings_are_one_row_each_stage(go, listed, said):
    settings = {**SHORT, "evaluate__episodes": 20, "seed": 5}
    done = go("run", **settings, seeds=3)
    alone = [go("run", **{**settings, "seed": seed})["table"] for seed in (5, 6, 7)]
    assert [len(listed(stage)) for stage in ("transfer", "meta-train")] == [3, 3]  # those alone were done already
    assert len({info["episodes_hash"] for info in listed("evaluate")}) == 1
    for row, *single in zip(done["table"], *alone, strict=True):
        assert row["value"] == pytest.approx(sum(each["value"] for each in single) / 3)
        assert row["over"] == {"episodes": 20, "classes": 4, "trainings": 3}
        assert row["interval_trainings"] > 0
        if row["gain"] is not None:
            assert row["gain"] == pytest.approx(sum(each["gain"] for each in single) / 3)
            assert row["gain_interval_trainings"] > 0
    assert done["metric"]["value"] == done["table"][-1]["value"]
    scored = [[(row["after"], row["learner"]), len(set(row["runs"]))] for row in done["evaluations"]]
    assert scored == [[(row["after"], row["learner"]), 3] for row in done["table"]]
    assert {name for row in done["evaluations"] for name in row["runs"]} == {info["id"] for info in listed("evaluate")}
    assert done["parent"]["run"] == listed("meta-train")[0]["id"]
    said.steps.clear()
    assert go("run", **settings, seeds=3)["table"] == done["table"] and said.steps == []


@pytest.mark.medium
def test_second_call_skips_everything(go, said, tmp_path):
    first = go("run", **SHORT)
    folders = sorted((tmp_path / "runs").glob("*/*"))
    said.notes.clear()
    said.steps.clear()
    second = go("run", **SHORT)
    assert sorted((tmp_path / "runs").glob("*/*")) == folders
    assert said.steps == []
    assert sum("already done with these settings and inputs in" in note for note in said.notes) == 7
    assert second["table"] == first["table"] and second["id"] == first["id"]
    held = runs.reopen(Path(first["folder"]))
    with pytest.raises(UserError, match="in use by another mlx process"):
        go("run", **SHORT)
    held.close()


@pytest.mark.medium
def test_change_of_a_stage_repeats_it_and_what_follows(go, listed):
    go("run", **SHORT)
    second = go("run", **SHORT, meta_train__tasks=3)
    assert [len(listed(stage)) for stage in ("run", "transfer", "meta-train", "evaluate")] == [2, 1, 2, 7]
    third = go("run", **SHORT, transfer__seed=1)
    # nothing is kept: the same settings start from another checkpoint now, and the first one from other weights
    assert [len(listed(stage)) for stage in ("run", "transfer", "meta-train", "evaluate")] == [3, 2, 3, 12]
    assert second["id"] != third["id"]


@pytest.mark.medium
def test_interrupted_chain_goes_on_and_equals_the_uninterrupted(go, config, said, monkeypatch, listed, tmp_path):
    whole = go("run", **SHORT, runs_dir=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop = 4
        patch.setattr(said, "advance", lambda s: os.kill(os.getpid(), signal.SIGINT) if s == stop else None)
        patch.setattr(stages.chain, "evaluated", lambda *args: {})
        with pytest.raises(KeyboardInterrupt):
            go("run", **SHORT)
    (begun,) = listed("run")
    assert begun["status"] == "interrupted"
    assert [info["step"] for info in listed("transfer")] == [4]
    done = go("run", **SHORT)
    assert done["table"] == whole["table"]
    assert done["id"] == begun["id"] and done["status"] == "completed" and "error" not in done
    assert len(listed("transfer")) == 1


@pytest.mark.medium
def test_both_protocols_and_the_gain_of_each(go, images):
    table = go("run", stages=["meta-train"], backbone=CONV4, meta_train__steps=2)["table"]
    assert [(row["learner"], row["after"], row["normalisation"], row["gain"] is None) for row in table] == [
        (learner, after, protocol, after == "nothing")
        for learner in ("nearest_centroid", "protonet")
        for after in ("nothing", "meta-train")
        for protocol in ("transductive", "inductive")
    ]


def test_gain_of_regression_is_the_error_that_went_away(go):
    settings = {"stages": ["meta-train"], "data": SINUSOID, "way": 1, "shot": 5}
    table = go("run", **settings, algorithm={**MAML, "inner_lr": 0.01})["table"]
    assert cells(table, "after", "learner", "name") == [
        ("nothing", "from_scratch", "test/mse"),  # which is the same whatever a checkpoint has learnt
        ("nothing", "maml", "test/mse"),
        ("meta-train", "maml", "test/mse"),
    ]
    assert table[2]["gain"] == pytest.approx(table[1]["value"] - table[2]["value"])
    assert table[2]["interval_classes"] is None and "classes" not in table[2]["over"]


def test_untrained_row_is_scored_on_the_data_of_the_others(go, listed):
    """Also where evaluation has data of its own."""
    go("run", stages=["meta-train"], evaluate__data={**GAUSSIAN, "seed": 1})
    assert len({info["episodes_hash"] for info in listed("evaluate")}) == 1
    assert {info["data"]["spec"]["seed"] for info in listed("evaluate")} == {1}


@pytest.mark.medium
def test_chain_starts_where_init_from_says(go, listed):
    first = go("transfer", seed=1)
    go("run", stages=["meta-train"], init_from="latest:transfer")
    assert listed("meta-train")[0]["parent"]["run"] == first["id"]


@pytest.mark.parametrize(("changes", "key", "told"), [
    ({"meta_train__train_way": 9}, "meta_train.train_way", "gaussian/train has 8 classes"),
    ({"meta_train__optimizer__lr": -1.0}, "meta_train.optimizer.lr", "must be a number >= 0"),
    ({"evaluate__way": 3, "algorithm": MAML}, "evaluate.way", "must be 2, the outputs of the head"),
    ({"evaluate__query": 10}, "evaluate.query", "gaussian/test has only 10 items"),
    ({"evaluate__data": {**GAUSSIAN, "features": 5}}, "evaluate.data", "the trained network takes [6]"),
    ({"runtime__accelerator": "tpu"}, "runtime.accelerator", "tpu is not on this machine"),
    ({"init_from": "latest"}, "init_from", "no completed run of pretrain"),
])  # fmt: skip
def test_mistakes_of_any_stage_show_before_the_first_begins(refused, changes, key, told):
    found = refused("run", **changes)
    assert told in found[key]


@pytest.mark.medium
def test_failure_of_a_stage_is_that_of_the_chain(go, listed, monkeypatch):
    def disk_full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr("metalearn_cli.records.checkpoint.to_safetensors", disk_full)
        go("run", **SHORT)
    for stage in ("run", "transfer"):
        (info,) = listed(stage)
        assert info["status"] == "failed" and "No space left" in info["error"]
    assert go("run", **SHORT)["status"] == "completed"
    assert len(listed("transfer")) == 1


def test_check_says_what_would_run(config):
    notes = stages.check("run", config("run"))
    assert [note.split(":")[0] for note in notes if ": cpu" in note] == [
        "evaluate",
        "pretrain",
        "transfer",
        "meta-train",
    ]
    assert notes[-1] == "2 tasks a step, 1 task at once (loop)"


@pytest.mark.medium
def test_latest_means_the_same_when_a_chain_is_repeated(go, said):
    go("pretrain")
    chain = {"stages": ["pretrain", "transfer"], "init_from": "latest:pretrain"}
    first = go("run", **chain)
    said.steps.clear()
    again = go("run", **chain)  # by now the latest is its own
    assert said.steps == [] and again["table"] == first["table"]
    assert first["starts"].keys() == {"pretrain"}


@pytest.mark.medium
def test_a_stage_whose_checkpoint_is_damaged_is_trained_again(go, said):
    first = go("run", **SHORT)
    best = next(Path(first["folder"]).parents[1].glob("transfer/*/checkpoints/*/model.safetensors"))
    best.write_bytes(best.read_bytes()[:-1] + b"?")
    second = go("run", **SHORT)
    assert any(note.startswith("transfer: ") and note.endswith("; it is retrained") for note in said.notes)
    assert [row["value"] for row in second["table"]] == [row["value"] for row in first["table"]]


@pytest.mark.slow
def test_other_spellings_of_the_same_paths(go, images, said, tmp_path, monkeypatch):
    first = go("transfer", backbone=CONV4, data=OMNIGLOT)
    named = {"backbone": CONV4, "stages": ["meta-train"], "init_from": first["checkpoint"]}
    go("run", **named, data=OMNIGLOT)
    folders = sorted((tmp_path / "runs").glob("*/*"))
    said.steps.clear()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    spelled = {"data": {**OMNIGLOT, "root": "there"}, "runs_dir": "link/"}
    go("run", **named | {"init_from": str(Path(first["folder"]).relative_to(tmp_path)) + "/"}, **spelled)
    assert said.steps == []
    assert sorted((tmp_path / "runs").glob("*/*")) == folders


@pytest.mark.medium
def test_what_latest_meant_is_found_where_it_was_moved(go, said, tmp_path):
    go("transfer")
    go("run", stages=["meta-train"], init_from="latest")
    go("transfer", seed=1)
    (tmp_path / "runs").rename(tmp_path / "moved")
    said.steps.clear()
    go("run", stages=["meta-train"], init_from="latest", runs_dir=str(tmp_path / "moved"))
    assert said.steps == []


@pytest.mark.parametrize("stage", ["meta-train", "evaluate"])
def test_a_sweep_that_is_repeated_skips_what_is_done(config, go, said, listed, stage):
    go("pretrain", steps=1)
    settings = config(stage)
    first = stages.run(stage, settings, said, sweep="a")
    said.steps.clear()
    assert stages.run(stage, settings, said, sweep="a")["id"] == first["id"]
    assert said.steps == [] and "already done" in said.notes[-1]
    assert listed(stage)[0]["sweep"] == "a"
    assert stages.run(stage, settings, said)["id"] != first["id"]  # outside of a sweep each command is a new run


@pytest.mark.medium
def test_an_evaluation_whose_files_are_lost_is_done_again(go, said, listed):
    first = go("run", **SHORT)
    one, two, three = (Path(info["folder"]) for info in listed("evaluate")[:3])
    (one / "episodes.csv").unlink()
    (two / "episodes.csv").write_text("x\n")
    (three / "config.json").write_text("")
    second = go("run", **SHORT)
    assert sum(note.endswith("; it is re-evaluated") for note in said.notes) == 3
    assert second["table"] == first["table"]


@pytest.mark.medium
def test_a_head_that_nothing_has_trained_is_named(go):
    table = go("run", **SHORT, algorithm=MAML)["table"]
    assert cells(table, "after", "learner", "untrained_head") == [
        ("nothing", "nearest_centroid", False),
        ("transfer", "nearest_centroid", False),
        ("meta-train", "nearest_centroid", False),
        ("transfer", "maml", True),
        ("meta-train", "maml", False),
    ]


@pytest.mark.medium
def test_scores_that_are_not_those_of_the_results_are_measured_again(go, said, listed):
    first = go("run", **SHORT)
    file = Path(listed("evaluate")[0]["folder"]) / "episodes.csv"
    file.write_text(file.read_text().replace("0.", "0.9", 1))
    assert go("run", **SHORT)["table"] == first["table"]
    assert sum("does not have the scores of run.json; it is re-evaluated" in note for note in said.notes) == 1


@pytest.mark.medium
def test_a_finished_stage_without_its_best_checkpoint_is_trained_again(go, listed):
    first = go("run", **SHORT)
    path = Path(listed("transfer")[0]["folder"]) / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in info.items() if name != "best"}))
    assert cells(go("run", **SHORT)["table"], "value") == cells(first["table"], "value")
    assert len(listed("transfer")) == 2


def test_there_are_seeds_for_all_trainings(config):
    with pytest.raises(ConfigError, match="seeds: must be <= 2 with this seed, got 3"):
        config("run", seed=2**32 - 2, seeds=3)
    assert config("run", seed=2**32 - 2, seeds=2).seeds == 2


FOLDS = {"stages": ["meta-train"], "evaluate__episodes": 20, "folds": 3}


@pytest.mark.medium
def test_folds_are_trained_apart_and_told_in_one_table(go, listed, said):
    done = go("run", **FOLDS)
    names = []
    for k, info in enumerate(listed("meta-train"), 1):
        assert info["data"]["spec"]["fold"] == f"{k}/3"
        assert info["data"]["protocol"].endswith(f": fold {k} of 3 by classes")
        names += json.loads((Path(info["folder"]) / "splits.json").read_text())["test"]
    assert len(names) == len(set(names)) == 16
    by_fold = [[i for i in listed("evaluate") if i["data"]["spec"]["fold"] == f"{k}/3"] for k in (1, 2, 3)]
    assert len(done["table"]) == len(by_fold[0]) == 4
    for row, *own in zip(done["table"], *(sorted(f, key=_place) for f in by_fold), strict=True):
        assert row["value"] == pytest.approx(sum(info["metric"]["value"] for info in own) / 3)
        assert row["over"] == {"episodes": 60, "classes": 16, "trainings": 1} and row["folds"] == 3
        assert row["interval_classes"] > 0
    assert done["data"]["protocol"].endswith(": 3 folds by classes") and done["data"]["spec"]["fold"] is None
    assert "training 2 of 3: fold 2 of 3 is test" in said.notes
    said.steps.clear()
    assert go("run", **FOLDS)["table"] == done["table"] and said.steps == []
    assert len(listed("run")) == 1


def _place(info):
    """Return where a row is in a table: the common learner's rows first."""
    common = info["metric"]["learner"] == "nearest_centroid"
    return not common, ["nothing", "meta-train"].index((info["parent"] or {}).get("stage", "nothing"))


@pytest.mark.medium
def test_interrupted_folds_go_on(go, said, monkeypatch, listed):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        done = []

        def advance(step):
            done.append(step)
            if len(done) == 40:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(said, "advance", advance)
        go("run", **FOLDS)
    begun = {info["id"] for stage in ("run", "meta-train", "evaluate") for info in listed(stage)}
    done = go("run", **FOLDS)
    assert begun <= {info["id"] for stage in ("run", "meta-train", "evaluate") for info in listed(stage)}
    assert [len(listed(stage)) for stage in ("run", "meta-train", "evaluate")] == [1, 3, 12]
    assert done["status"] == "completed" and len(done["table"]) == 4


@pytest.mark.medium
def test_what_was_trained_on_a_fold_meets_no_other(go, config, refused, listed):
    go("transfer", data={**GAUSSIAN, "fold": "2/4"})
    told = "it may have seen test classes of .*; type data.fold=2/4"
    for data in (GAUSSIAN, {**GAUSSIAN, "fold": "3/4"}, {**GAUSSIAN, "fold": "2/5"}):
        with pytest.raises(ConfigError, match=f"init_from: .*{told}"):
            go("meta-train", init_from="latest:transfer", data=data)
        with pytest.raises(ConfigError, match=f"ckpt: .*{told}"):
            go("evaluate", ckpt="latest:transfer", data=data, backbone=None)
    also = {"both": {**GAUSSIAN, "fold": "3/4"}}
    multitask = {"_target_": "metalearn_cli.methods.multitask.Multitask"}
    found = refused("transfer", data={**GAUSSIAN, "fold": "2/4"}, also=also, method=multitask)
    assert "trains on test classes of" in found["also.both"] and "type also.both.fold=2/4" in found["also.both"]
    done = go("evaluate", ckpt="latest:transfer", data=None, backbone=None)
    assert done["data"]["spec"]["fold"] == "2/4"
    go("meta-train", init_from="latest:transfer", data={**GAUSSIAN, "fold": "2/4"})
    go("transfer", data=GAUSSIAN)
    with pytest.raises(ConfigError, match=r"init_from: .*type data.fold=null"):
        go("run", **FOLDS, init_from="latest:transfer")


@pytest.mark.parametrize(("changes", "key", "told"), [
    ({"folds": 17}, "folds", "gaussian has 16 classes, so that 16 folds are the most; got 17"),
    ({"folds": 9}, "folds", "a fold of gaussian would have 1 class"),
    ({"folds": 4, "evaluate__way": 5}, "evaluate.way", "way must be from 2 to 4; or type fewer folds than 4"),
    ({"folds": 3, "data": SINUSOID, "way": 1, "stages": ["meta-train"], "algorithm": MAML}, "folds", "draws new tasks"),
    ({"folds": 4, "data": {**GAUSSIAN, "fold": "1/4"}}, "data.fold", "must be null, as folds=4 takes every fold"),
])  # fmt: skip
def test_folds_that_cannot_be_are_found_before_the_first_begins(refused, changes, key, told):
    assert told in refused("run", **changes)[key]


def test_two_folds_leave_nothing_to_train_on(config):
    with pytest.raises(ConfigError, match="folds: must be a whole number >= 3"):
        config("run", folds=2)


def test_a_chain_scores_episodes_within_one_group_too(go, monkeypatch):
    split = Split(torch.randn(48, 6), torch.full((6,), 8), ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"))
    splits = {p: replace(split, names=tuple(p + name for name in split.names)) for p in ("train", "val", "test")}
    monkeypatch.setattr(session, "_loaded", lambda spec: Dataset.of("grouped", "any", splits, "vector"))
    done = go("run", stages=["meta-train"], evaluate__also_within=True)
    drawn = [row["drawn"] for row in done["table"]]
    assert drawn == ["pooled", "within one group"] * (len(drawn) // 2)
    assert done["metric"]["drawn"] == "pooled"
    last = done["table"][-1]
    assert last["gain"] == pytest.approx(last["value"] - done["table"][-3]["value"])

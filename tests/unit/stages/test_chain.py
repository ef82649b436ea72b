from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core.errors import UserError
from metalearn_cli.records import runs
from metalearn_cli.records.metrics import interval
from metalearn_cli.stages.evaluate import read_episodes

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 8}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.Sinusoid"}
SHORT = {"stages": ["transfer", "meta-train"]}


@pytest.fixture
def listed(tmp_path):
    """Return a function that gives the runs of a stage, oldest first."""
    return lambda stage: [i for i in runs.list_runs(str(tmp_path / "runs"))[::-1] if i["stage"] == stage]


def scores(info):
    found = read_episodes(Path(info["folder"]))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def test_table_has_a_row_per_stage_with_paired_gains(go, listed, said):
    done = go("run", algorithm=MAML, evaluate__episodes=20)
    table, evaluations = done["table"], listed("evaluate")
    assert [row["after"] for row in table] == ["nothing", "pretrain", "transfer", "meta-train"]
    assert [row["learner"] for row in table] == [*["NearestCentroid"] * 3, "Maml"]
    assert len({info["episodes_hash"] for info in evaluations}) == 1
    assert table[0]["gain"] is table[0]["gain_interval"] is None
    for row, info, before in zip(table[1:], evaluations[1:], evaluations, strict=False):
        assert row["value"] == info["metric"]["value"]
        difference = scores(info)["none"] - scores(before)["none"]
        assert (row["gain"], row["gain_interval"]) == interval(difference)
        assert row["gain"] == pytest.approx(row["value"] - before["metric"]["value"])
    assert any(row["gain"] != 0 for row in table[1:])
    assert done["metric"] == evaluations[-1]["metric"]
    assert said.finished[-1]["table"] == table
    # each stage started from the one before, and each evaluation from its stage
    chain = runs.lineage(str(Path(done["folder"]).parents[1]), done["id"])
    assert [info["stage"] for info in chain] == ["run", "meta-train", "transfer", "pretrain"]
    assert all(info["sha256"] for info in chain[1:])
    parents = [info["parent"] and info["parent"]["stage"] for info in evaluations]
    assert parents == [None, "pretrain", "transfer", "meta-train"]


def test_second_call_skips_everything(go, said, tmp_path):
    first = go("run", **SHORT)
    folders = sorted((tmp_path / "runs").glob("*/*"))
    said.notes.clear()
    said.steps.clear()
    second = go("run", **SHORT)
    assert sorted((tmp_path / "runs").glob("*/*")) == folders
    assert said.steps == []
    assert sum("already done with these settings and inputs in" in note for note in said.notes) == 5
    assert second["table"] == first["table"] and second["id"] == first["id"]
    held = runs.reopen(Path(first["folder"]))
    with pytest.raises(UserError, match="in use by another mlx process"):
        go("run", **SHORT)
    held.close()


def test_change_of_a_stage_repeats_it_and_what_follows(go, listed):
    go("run", **SHORT)
    second = go("run", **SHORT, meta_train__tasks=3)
    assert [len(listed(stage)) for stage in ("run", "transfer", "meta-train", "evaluate")] == [2, 1, 2, 4]
    third = go("run", **SHORT, transfer__seed=1)
    # nothing but the untrained row is kept: the same settings start from another checkpoint now
    assert [len(listed(stage)) for stage in ("run", "transfer", "meta-train", "evaluate")] == [3, 2, 3, 6]
    assert second["id"] != third["id"]


def test_interrupted_chain_goes_on_and_equals_the_uninterrupted(go, config, said, monkeypatch, listed, tmp_path):
    whole = go("run", **SHORT, runs_dir=str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop = 4
        patch.setattr(said, "advance", lambda s: os.kill(os.getpid(), signal.SIGINT) if s == stop else None)
        patch.setattr(stages.chain, "_evaluated", lambda *args: {})
        with pytest.raises(KeyboardInterrupt):
            go("run", **SHORT)
    (begun,) = listed("run")
    assert begun["status"] == "interrupted"
    assert [info["step"] for info in listed("transfer")] == [4]
    done = go("run", **SHORT)
    assert done["table"] == whole["table"]
    assert done["id"] == begun["id"] and done["status"] == "completed" and "error" not in done
    assert len(listed("transfer")) == 1


def test_both_protocols_and_the_gain_of_each(go, images):
    table = go("run", stages=["meta-train"], backbone=CONV4, meta_train__steps=2)["table"]
    assert [(row["after"], row["normalisation"], row["gain"] is None) for row in table] == [
        ("nothing", "transductive", True),
        ("nothing", "inductive", True),
        ("meta-train", "transductive", False),
        ("meta-train", "inductive", False),
    ]


def test_gain_of_regression_is_the_error_that_went_away(go):
    settings = {"stages": ["meta-train"], "data": SINUSOID, "way": 1, "shot": 5}
    table = go("run", **settings, algorithm={**MAML, "inner_lr": 0.01})["table"]
    assert [row["name"] for row in table] == ["test/mse"] * 2
    assert [row["learner"] for row in table] == ["FromScratch", "Maml"]
    assert table[1]["gain"] == pytest.approx(table[0]["value"] - table[1]["value"])


def test_untrained_row_is_scored_on_the_data_of_the_others(go, listed):
    """Also where evaluation has data of its own."""
    go("run", stages=["meta-train"], evaluate__data={**GAUSSIAN, "seed": 1})
    assert len({info["episodes_hash"] for info in listed("evaluate")}) == 1
    assert {info["data"]["spec"]["seed"] for info in listed("evaluate")} == {1}


def test_chain_starts_where_init_from_says(go, listed):
    first = go("transfer", seed=1)
    go("run", stages=["meta-train"], init_from="latest:transfer")
    assert listed("meta-train")[0]["parent"]["run"] == first["id"]


@pytest.mark.parametrize(("changes", "key", "told"), [
    ({"meta_train__train_way": 9}, "meta_train.train_way", "gaussian/train has 8 classes"),
    ({"meta_train__optimizer__lr": -1.0}, "meta_train.optimizer", "learning rate"),
    ({"evaluate__way": 3, "algorithm": MAML}, "evaluate.way", "must be 2, the outputs of the head"),
    ({"evaluate__query": 10}, "query", "gaussian/test has only 10 items"),
    ({"runtime__accelerator": "tpu"}, "runtime.accelerator", "tpu is not on this machine"),
    ({"init_from": "latest"}, "init_from", "no completed run of pretrain"),
])  # fmt: skip
def test_mistakes_of_any_stage_show_before_the_first_begins(refused, changes, key, told):
    found = refused("run", **changes)
    assert told in found[key]


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


def test_latest_means_the_same_when_a_chain_is_repeated(go, said):
    go("pretrain")
    chain = {"stages": ["pretrain", "transfer"], "init_from": "latest:pretrain"}
    first = go("run", **chain)
    said.steps.clear()
    again = go("run", **chain)  # by now the latest is its own
    assert said.steps == [] and again["table"] == first["table"]
    assert first["starts"].keys() == {"pretrain"}


def test_a_stage_whose_checkpoint_is_damaged_is_trained_again(go, said):
    first = go("run", **SHORT)
    best = next(Path(first["folder"]).parents[1].glob("transfer/*/checkpoints/*/model.safetensors"))
    best.write_bytes(best.read_bytes()[:-1] + b"?")
    second = go("run", **SHORT)
    assert any(note.startswith("transfer: ") and note.endswith("; it is trained again") for note in said.notes)
    assert [row["value"] for row in second["table"]] == [row["value"] for row in first["table"]]

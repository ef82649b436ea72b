"""Plain values to the settings of a stage and back; every problem at once, under the key the user knows."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import smallest

from metalearn_cli.core.config import (
    STAGES,
    ChainConfig,
    EvaluateConfig,
    MetaTrainConfig,
    Runtime,
    digest,
    parse,
    parse_chain,
    plain,
)
from metalearn_cli.core.errors import ConfigError

RUNTIME = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "threads": None}
RUNTIME |= {"task_batching": "auto", "task_chunk": None, "task_compile": False, "gradient_checkpointing": False}
RUNTIME |= {"tuned": False, "stop_on": [], "shard": False, "anomaly": False}
COMMON = {"seed": 0, "runs_dir": "runs", "tracker": [], "way": 5, "shot": 1, "query": 15, "runtime": RUNTIME}
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.001}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR"}
PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
BACKBONE = {"_target_": "metalearn_cli.backbones.mlp.Mlp"}
DATA = {"_target_": "metalearn_cli.data.gaussian.gaussian"}
TRAINED = {
    "steps": 3,
    "optimizer": ADAM,
    "scheduler": CONSTANT,
    "every": {"log": 1, "evaluate": 2, "save": 3},
    "keep": 1,
    "val_episodes": 2,
    "patience": None,
    "on_nonfinite": "stop",
    "nonfinite_limit": 1,
    "reinit": [],
}
META = {"tasks": 2, "train_way": None, "train_shot": None, "train_query": 5, "normalisation": "transductive"}
SHARED = {**COMMON, "backbone": BACKBONE, "algorithm": PROTONET}
META_TRAIN = {**SHARED, **TRAINED, **META, "data": DATA, "init_from": None}
EVALUATE = {"split": "test", "episodes": 10, "normalisation": ["inductive"], "weights_seed": None, "select": {}}
EVALUATE |= {"varying": False, "calibration": 0, "also_within": False}
CHAIN = {
    "wait": 0,
    **SHARED,
    "data": DATA,
    "init_from": None,
    "stages": ["meta-train"],
    "seeds": 1,
    "folds": None,
    "meta_train": {**TRAINED, **META},
    "evaluate": EVALUATE,
}


def problems(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return {problem.key: problem for problem in caught.value.problems}


def changed(values, **changes):
    """Return a copy in which dotted keys (a__b for a.b) have other values; `...` removes one."""
    values = copy.deepcopy(values)
    for key, value in changes.items():
        *groups, name = key.split("__")
        section = values
        for group in groups:
            section = section[group]
        if value is ...:
            del section[name]
        else:
            section[name] = value
    return values


def test_parse_and_back():
    config = parse(MetaTrainConfig, META_TRAIN)
    assert config.runtime == Runtime(**RUNTIME)
    assert config.every.evaluate == 2
    assert plain(config) == META_TRAIN
    assert parse(MetaTrainConfig, plain(config)) == config


def test_every_problem_at_once():
    values = changed(
        META_TRAIN, seed=-1, taskz=3, runtime__precision="8", every__save=..., algorithm__x=1, way=True, tasks=...
    )
    found = problems(parse, MetaTrainConfig, values)
    assert {key: (p.message, p.hint) for key, p in found.items()} == {
        "seed": ("must be a whole number from 0 to 4294967295, got -1", ""),
        "taskz": ("no such setting", "tasks"),
        "tasks": ("is missing", ""),
        "runtime.precision": ("must be one of 32-true, 64-true, bf16-mixed, bf16-true, 16-mixed, got '8'", ""),
        "every.save": ("is missing", ""),
        "algorithm.x": ("no such setting of ProtoNet", ""),
        "way": ("must be a whole number >= 1 or null, got True", ""),
    }


def test_group_that_is_none():
    assert (
        "must be a group of settings" in problems(parse, MetaTrainConfig, changed(META_TRAIN, every=3))["every"].message
    )


@pytest.mark.parametrize("devices", [1, 8, "auto", [3]])
def test_devices(devices):
    assert parse(MetaTrainConfig, changed(META_TRAIN, runtime__devices=devices)).runtime.devices == devices


@pytest.mark.parametrize("devices", [0, "1", [0.5], True])
def test_devices_refused(devices):
    found = problems(parse, MetaTrainConfig, changed(META_TRAIN, runtime__devices=devices))
    assert (
        found["runtime.devices"].message
        == f"must be auto or a whole number >= 1 or a list of a whole number, got {devices!r}"
    )


def test_optional_component():
    values = {**COMMON, **EVALUATE, "ckpt": "latest", "backbone": None, "data": None, "algorithm": None}
    assert parse(EvaluateConfig, values).algorithm is None
    assert parse(EvaluateConfig, {**values, "algorithm": MAML}).algorithm == MAML
    assert problems(parse, EvaluateConfig, {**values, "algorithm": "maml"})


def test_chain_gives_each_stage_its_settings():
    config = parse_chain(changed(CHAIN, meta_train__way=20))
    assert isinstance(config, ChainConfig)
    assert list(config.training) == ["meta-train"]
    assert config.training["meta-train"].way == 20  # the section's value
    assert config.evaluate.way == 5  # the top's value
    assert config.evaluate.ckpt is None
    assert config.evaluate.algorithm == PROTONET
    assert config.training["meta-train"].runs_dir == config.runs_dir == "runs"


def test_chain_reports_under_the_keys_of_the_chain():
    values = changed(
        CHAIN, way=0, sed=1, meta_train__tasks=0, meta_train__shot="x", evaluate__episodes=1, algorithm__x=1
    )
    found = problems(parse_chain, values)
    assert set(found) == {"way", "sed", "meta_train.tasks", "meta_train.shot", "evaluate.episodes", "algorithm.x"}
    assert found["sed"].hint == "seed"


@pytest.mark.parametrize(
    "stages", [[], ["evaluate"], "pretrain", 5, None, ["meta-train", "meta-train"], ["meta-train", "pretrain"]]
)
def test_chain_refuses_stages(stages):
    assert "in this order" in problems(parse_chain, changed(CHAIN, stages=stages))["stages"].message


def test_chain_tells_about_settings_without_effect():
    found = problems(parse_chain, changed(CHAIN, steps=3))
    assert "has no effect, because every stage has its own; set" in found["steps"].message
    assert "ckpt" in problems(parse_chain, changed(CHAIN, ckpt="latest"))
    assert "evaluate.ckpt" in problems(parse_chain, changed(CHAIN, evaluate__ckpt="latest"))


def test_chain_names_a_setting_without_effect_as_it_was_typed():
    found = problems(parse_chain, changed(CHAIN, optimizer={"lr": -1}))
    assert "set meta_train.optimizer.lr" in found["optimizer.lr"].message


def test_chain_checks_the_sections_of_all_stages():
    whole = smallest("run", Path("runs"))
    wrong = changed(whole, stages=["pretrian"], transfer__steps="x", meta_train__optimizer__lr=-1)
    assert set(problems(parse_chain, wrong)) == {"stages", "transfer.steps", "meta_train.optimizer.lr"}
    assert set(problems(parse_chain, changed(whole, stages=["pretrain"], transfer__steps="x"))) == {"transfer.steps"}


def test_a_stage_of_a_chain_changes_single_settings_of_a_shared_group():
    whole = smallest("run", Path("runs"))
    config = parse_chain(changed(whole, pretrain__runtime={"threads": 2}))
    everywhere = config.training["transfer"].runtime
    assert config.training["pretrain"].runtime == replace(everywhere, threads=2) != everywhere
    found = problems(parse_chain, changed(whole, pretrain__runtime={"threads": 0, "thread": 1}))
    assert set(found) == {"pretrain.runtime.threads", "pretrain.runtime.thread"}
    other = {"_target_": "metalearn_cli.backbones.conv4.Conv4"}
    assert parse_chain(changed(whole, meta_train__backbone=other)).training["meta-train"].backbone == other


def test_chain_without_a_section():
    assert (
        "must be the settings of meta-train"
        in problems(parse_chain, changed(CHAIN, meta_train=3))["meta_train"].message
    )


def test_digest_does_not_depend_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": 1.0})


@pytest.mark.parametrize("stage", ["meta-train", "run"])
def test_home_folder_in_every_path(settings, monkeypatch, stage):
    monkeypatch.setenv("HOME", "/home/me")
    values = settings(stage, data={"_target_": "metalearn_cli.data.omniglot.omniglot"})
    values["data"]["root"], values["runs_dir"], values["init_from"] = "~/data", "~/runs", "~"
    config = parse_chain(values) if stage == "run" else parse(STAGES[stage], values)
    found = config.training["pretrain"] if stage == "run" else config
    assert (config.runs_dir, found.init_from, found.data["root"]) == ("/home/me/runs", "/home/me", "/home/me/data")
    assert values["runs_dir"] == "~/runs"
    values["data"]["root"] = "~nobody-of-this-name/data"
    with pytest.raises(ConfigError) as caught:
        parse_chain(values) if stage == "run" else parse(STAGES[stage], values)
    (problem,) = caught.value.problems
    assert problem.key == "data.root" and "~nobody-of-this-name is no home folder" in problem.message

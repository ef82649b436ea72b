"""From settings to objects: only what is allowed, and every mistake before anything is built."""

import pytest
import torch

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.core.build import build, locate, problems_of
from metalearn_cli.core.errors import ConfigError, Problem

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 2, "first_order": False}


def test_locate():
    assert locate("metalearn_cli.algorithms.maml.Maml", "algorithm") is Maml
    assert locate("torch.optim.Adam", "optimizer") is torch.optim.Adam
    assert locate("torch.optim.lr_scheduler.StepLR", "scheduler") is torch.optim.lr_scheduler.StepLR


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("os.system", "may not be built from a config; allowed is metalearn_cli.algorithms.NAME.Name"),
        ("torch.load", "may not be built"),
        ("torch.optim.Adam", "may not be built"),  # of another group
        ("metalearn_cli", "may not be built"),
        ("metalearn_cli.algorithms", "may not be built"),
        ("metalearn_cli.records.runs.os.system", "may not be built"),
        ("metalearn_cli.records.runs.create", "may not be built"),  # defined there, but no component
        ("metalearn_cli.algorithms.maml.torch.load", "may not be built"),
        ("metalearn_cli.algorithms.maml.Maml.__init__.__globals__", "may not be built"),
        ("metalearn_cli.algorithms.maml.__builtins__", "may not be built"),
        ("metalearn_cli.algorithms.__init__.os", "may not be built"),
        ("metalearn_cli.algorithms._private.Private", "may not be built"),
        ("metalearn_cli.backbones.conv4.Conv4", "may not be built"),
        ("metalearn_cli.algorithms..maml.Maml", "may not be built"),
        (" metalearn_cli.algorithms.maml.Maml", "may not be built"),
        ("metalearn_cli.algorithms.protonet.torch", "is not a valid algorithm"),  # a module
        ("metalearn_cli.algorithms.maml.task_loss", "is not a valid algorithm"),  # a foreign function
        (
            "metalearn_cli.algorithms.nearest_centroid.ProtoNet",
            "is not a valid algorithm",
        ),  # another module's component
        (
            "metalearn_cli.algorithms.maml.Mamll",
            "is not a valid algorithm; allowed is metalearn_cli.algorithms.NAME.Name",
        ),
        ("metalearn_cli.algorithms.maml.maml", "does not exist"),
        ("metalearn_cli.algorithms.nothing.Nothing", "does not exist"),
        ("metalearn_cli.algorithms.maml.", "is not a valid algorithm"),
        ("metalearn_cli.algorithms.ma\x00ml.Maml", "may not be built|is not a valid algorithm|does not exist"),
    ],
)
def test_locate_refuses(target, told):
    with pytest.raises(ValueError, match=told):
        locate(target, "algorithm")
    assert problems_of({"_target_": target}, "algorithm")[0].key == "algorithm._target_"


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("torch.optim.Optimizer", "optimizer"),  # abstract
        ("torch.optim.lr_scheduler.LRScheduler", "scheduler"),
        ("torch.optim.lr_scheduler", "optimizer"),  # a module
        ("torch.optim.lr_scheduler.StepLR", "optimizer"),
        ("torch.optim.swa_utils.AveragedModel", "optimizer"),
        ("torch.optim.adam.Adam", "optimizer"),
        ("torch.optim.optimizer.warnings", "optimizer"),
        ("torch.optim.lr_scheduler.partial", "scheduler"),
        ("torch.optim.lr_scheduler.Optimizer", "scheduler"),
        ("metalearn_cli.data.common.cache.cached", "data"),
        ("metalearn_cli.data.common.dataset.Dataset", "data"),
        ("metalearn_cli.data.omniglot.Path", "data"),
        ("metalearn_cli.data.omniglot.cached", "data"),
        ("metalearn_cli.data.sinusoid.CurveSampler", "data"),
        ("metalearn_cli.backbones.conv4.Block", "backbone"),  # a part of a component
    ],
)
def test_parts_and_tools_of_an_allowed_module_are_no_components(target, key):
    with pytest.raises(ValueError, match=r"may not be built from a config|is not a valid "):
        locate(target, key)


@pytest.mark.parametrize(
    ("spec", "key", "told"),
    [
        ({"_target_": "torch.optim.Adam", "betas": [0.9]}, "optimizer.betas", "a list of 2: a number, a number"),
        ({"_target_": "torch.optim.Adam", "betas": 0.9}, "optimizer.betas", "a list of 2: a number, a number"),
        ({"_target_": "torch.optim.Adam", "lr": "fast"}, "optimizer.lr", "must be a number >= 0, got 'fast'"),
        ({"_target_": "torch.optim.Adam", "lr": [1]}, "optimizer.lr", "must be a number >= 0, got [1]"),
        ({"_target_": "torch.optim.Adam", "lr": float("inf")}, "optimizer.lr", "must be a number >= 0, got inf"),
        ({"_target_": "torch.optim.Adam", "foreach": True}, "optimizer", "cannot be used with these"),
        (
            {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": "os.system"},
            "scheduler.lr_lambda",
            "function",
        ),
        ({"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [1, "x"]}, "scheduler.milestones", "list"),
        (
            {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": ["x"], "milestones": []},
            "scheduler.",
            "",
        ),
    ],
)
def test_values_that_torch_would_stumble_over(spec, key, told):
    objects = {"params": [torch.nn.Parameter(torch.zeros(1))], "fused": True}
    with pytest.raises(ConfigError) as caught:
        build(spec, key.split(".")[0], **objects)
    assert caught.value.problems[0].key.startswith(key)
    assert told in caught.value.problems[0].message


def test_memory_that_is_not_there_is_a_problem_of_the_settings():
    spec = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 2**60}
    with pytest.raises(ConfigError, match="Mlp cannot be used with these settings"):
        build(spec, "backbone", shape=(4,))


def test_problems_are_found_all_at_once():
    spec = {**MAML, "inner_lr": "fast", "inner_stepz": 3, "first_order": 1}
    assert problems_of(spec, "algorithm") == [
        Problem("algorithm.inner_lr", "must be a number > 0, got 'fast'"),
        Problem("algorithm.first_order", "must be true or false, got 1"),
        Problem("algorithm.inner_stepz", "no such setting of Maml", "inner_steps"),
    ]


@pytest.mark.parametrize("spec", [None, 3, "maml", [], {}, {"_target_": 3}])
def test_something_that_names_nothing(spec):
    (problem,) = problems_of(spec, "algorithm")
    assert "must name its class in `_target_`" in problem.message


def test_settings_that_stages_pass_in_are_not_the_users():
    spec = {"_target_": "torch.optim.SGD", "lr": 0.1, "params": []}
    assert [p.key for p in problems_of(spec, "optimizer")] == ["optimizer.params"]
    assert problems_of({"_target_": "torch.optim.SGD", "lr": 0.1}, "optimizer") == []


def test_setting_without_a_default():
    spec = {"_target_": "torch.optim.lr_scheduler.StepLR"}
    assert problems_of(spec, "scheduler") == [Problem("scheduler.step_size", "StepLR needs this setting")]


def test_build_passes_only_what_the_constructor_takes():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build({"_target_": "torch.optim.SGD", "lr": 0.5}, "optimizer", params=[parameter], shape=(1,))
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert build(MAML, "algorithm", backbone=None).inner_steps == 2


def test_what_a_constructor_refuses_is_a_problem_of_that_setting():
    with pytest.raises(ConfigError) as caught:
        build({**MAML, "inner_lr": -1.0}, "algorithm")
    (problem,) = caught.value.problems
    assert problem.key == "algorithm.inner_lr"
    assert problem.message == "must be a number > 0, got -1.0"
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "torch.optim.SGD", "lr": -1.0}, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    assert caught.value.problems == (Problem("optimizer.lr", "must be a number >= 0, got -1.0"),)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"weight_decay": -1.0}, "optimizer.weight_decay"),
        ({"betas": [2.0, 0.9]}, "optimizer.betas"),  # torch says "beta parameter"
        ({"eps": -1.0}, "optimizer.eps"),  # torch says "epsilon"
    ],
)
def test_a_setting_that_torch_refuses_in_its_own_words_is_named(settings, key):
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "torch.optim.Adam", **settings}, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    assert caught.value.problems[0].key == key

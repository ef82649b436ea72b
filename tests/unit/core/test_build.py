"""From settings to objects: only what is allowed, and every mistake before anything is built."""

import pytest
import torch

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.core.build import build, locate, problems_of
from metalearn_cli.core.errors import ConfigError, Problem

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 2, "first_order": False}


def test_locate():
    assert locate("metalearn_cli.algorithms.maml.Maml") is Maml
    assert locate("torch.optim.Adam") is torch.optim.Adam


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("os.system", "may not be built from a config"),
        ("torch.load", "may not be built from a config"),
        ("metalearn_cli", "may not be built from a config"),
        ("metalearn_cli.engine.runs.os", "is not a class or function"),  # a module
        ("metalearn_cli.engine.runs.Path", "is not a class or function"),  # allowed module, foreign object
        ("metalearn_cli.core.build.importlib.import_module", "does not exist"),  # no way through a module's imports
        ("metalearn_cli.algorithms.maml.Mamll", "does not exist"),
        ("metalearn_cli.nothing.Maml", "does not exist"),
        ("metalearn_cli.algorithms.maml.", "does not exist"),
        ("torch.optim..Adam", "does not exist"),
    ],
)
def test_locate_refuses(target, told):
    with pytest.raises(ValueError, match=told):
        locate(target)
    assert problems_of({"_target_": target}, "algorithm")[0].key == "algorithm._target_"


def test_problems_are_found_all_at_once():
    spec = {**MAML, "inner_lr": "fast", "inner_stepz": 3, "first_order": 1}
    assert problems_of(spec, "algorithm") == [
        Problem("algorithm.inner_lr", "must be a number, got 'fast'"),
        Problem("algorithm.first_order", "must be true or false, got 1"),
        Problem("algorithm.inner_stepz", "no such setting of Maml", "inner_steps"),
    ]


@pytest.mark.parametrize("spec", [None, 3, "maml", [], {}, {"_target_": 3}, {"inner_lr": 1}])
def test_something_that_names_nothing(spec):
    (problem,) = problems_of(spec, "algorithm")
    assert "must name what to build by `_target_`" in problem.message


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
    assert "inner_lr must be > 0, got -1.0" in problem.message
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "torch.optim.SGD", "lr": -1.0}, "optimizer", params=[torch.nn.Parameter(torch.zeros(1))])
    assert caught.value.problems[0].key == "optimizer"  # torch does not begin with the argument's name

"""Configs as files of one's own: `mlx cat`, `mlx cp` and `mlx schema`."""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path

import pytest

from metalearn_cli.cli.composing import Composer
from metalearn_cli.cli.schema import schema
from metalearn_cli.cli.words import STAGES
from metalearn_cli.core.places import config_dir

SHIPPED = ("", "experiment=smoke")


def test_cat_prints_the_file_as_it_is(mlx):
    assert mlx("cat", "experiment/smoke").out == (config_dir() / "experiment" / "smoke.yaml").read_text()
    assert json.loads(mlx("cat", "algorithm/maml.yaml", "--json").out)["text"].startswith("# MAML: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cat", "smoke"], "did you mean experiment/smoke?"),
        (["cat", "experiment/smok"], "there is no experiment 'smok'; did you mean smoke?; see: mlx ls experiment"),
        (["cat", "algoritm/maml"], "did you mean algorithm?"),
        (["cp", "experiment/smoke"], "as in: mlx cp experiment/smoke mine/my_smoke.yaml"),
        (["cp", "experiment/smoke", "mine"], "ends in .yaml, got 'mine'"),
        (["cp", "experiment/smoke", "mine/a b.yaml"], "ends in .yaml, got 'mine/a b.yaml'"),
        (["cp", "experiment/smoke", "mine/smoke.yaml"], "there is experiment=smoke already; name the copy otherwise"),
        (["schema", "algoritm"], "there is no schema of 'algoritm'"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(mlx, tmp_path, words, told):
    answer = mlx(*words)
    assert answer.code == 2 and told in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_a_copied_experiment_means_what_it_did_and_tells_its_command(mlx):
    wrote, told = mlx("cp", "experiment/smoke", "mine/my_smoke.yaml").out.splitlines()
    command = "mlx run --config-dir mine experiment=my_smoke"
    assert (wrote, told) == ("wrote mine/experiment/my_smoke.yaml", f"run it with: {command}")
    text = Path("mine/experiment/my_smoke.yaml").read_text()
    assert text.startswith("# @package _global_\n# yaml-language-server: $schema=experiment.schema.json\n# The whole")
    assert f"#   command:  {command}\n" in text
    same = [Composer("run", own).compose([name]).values for own, name in (("mine", "experiment=my_smoke"), SHIPPED)]
    assert same[0] == same[1]
    assert "The whole chain at its smallest size" in mlx("ls", "experiment", "my_smoke", "-cd", "mine").out
    assert "yaml-language-server" not in mlx("ls", "experiment", "my_smoke", "-cd", "mine").out


@pytest.mark.medium
def test_a_copy_is_never_written_over(mlx):
    assert mlx("cp", "experiment/smoke", "mine/my_smoke.yaml").code == 0
    own = Path("mine/experiment/my_smoke.yaml")
    own.write_text(own.read_text().replace("steps: 20", "steps: 30"))
    answer = mlx("cp", "experiment/smoke", "mine/experiment/my_smoke.yaml")
    assert answer.code == 2 and "there is experiment=my_smoke already" not in answer.err
    assert "mine/experiment/my_smoke.yaml exists already; name the copy otherwise" in answer.err
    assert "steps: 30" in own.read_text()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("algorithm/fomaml", "mlx meta-train --config-dir mine algorithm=my_own"),
        ("method/gradual", "mlx transfer --config-dir mine method=my_own"),
        ("model/vae", "mlx pretrain --config-dir mine model=my_own"),
        ("backbone/conv4", "mlx run --config-dir mine backbone=my_own"),
        ("runtime/cpu", "mlx run --config-dir mine runtime=my_own"),
    ],
)
def test_a_copied_component_means_what_it_did(mlx, name, command):
    copied = json.loads(mlx("cp", name, "mine/my_own.yaml", "--json").out)
    assert copied["command"] == command
    _, stage, _, _, chosen = shlex.split(command)
    group, _, choice = name.partition("/")
    own = Composer(stage, "mine").compose([chosen]).values[group]
    assert own == Composer(stage).compose([f"{group}={choice}"]).values[group]
    assert json.loads(Path(copied["schema"]).read_text())["title"] == f"mlx {group}"


def test_a_schema_says_what_is_allowed_and_why(mlx):
    found = json.loads(mlx("schema", "meta-train").out)
    tasks = found["properties"]["tasks"]
    assert tasks["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert tasks["description"] == "episodes per step (the meta-batch), >= 1; usually 4"
    inner_lr = found["definitions"]["metalearn_cli.algorithms.maml.Maml"]["properties"]["inner_lr"]
    assert inner_lr["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0}
    assert inner_lr["description"].startswith("step size of the adaptation, > 0")
    assert "conv4" in str(found["properties"]["defaults"])
    precision = found["properties"]["runtime"]["properties"]["precision"]
    assert "bf16-mixed" in precision["anyOf"][0]["enum"]


@pytest.mark.medium
def test_a_schema_describes_every_setting():
    def undescribed(found, path):
        for name, own in found.get("properties", {}).items():
            if "properties" in own:
                yield from undescribed(own, f"{path}{name}.")
            elif not {"description", "$ref"} & own.keys() and "$ref" not in str(own) and not path.startswith("tiers."):
                yield path + name

    for stage in STAGES:
        assert list(undescribed(schema(stage), "")) == [], stage


@pytest.mark.medium
def test_a_schema_knows_ones_own_choices(mlx):
    mlx("cp", "algorithm/maml", "mine/my_maml.yaml")
    assert "my_maml" in mlx("schema", "run", "--config-dir", "mine").out
    assert "my_maml" not in mlx("schema", "run").out


@cache
def validator(name):
    """Return a function that gives the faults of values by a schema, each by its dotted key."""
    draft = pytest.importorskip("jsonschema").Draft7Validator
    found = schema(name)
    draft.check_schema(found)
    return lambda values: [".".join(map(str, e.absolute_path)) or e.message for e in draft(found).iter_errors(values)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.medium
def test_the_defaults_of_every_stage_fit_its_schema(stage):
    assert validator(stage)(Composer(stage).compose([]).values) == []


@pytest.mark.parametrize("group", sorted({path.parent.name for path in config_dir().glob("*/*.yaml")} - {"stage"}))
def test_every_shipped_file_fits_its_schema(group):
    from omegaconf import OmegaConf

    faults = validator(group)
    files = sorted((config_dir() / group).glob("*.yaml"))
    assert files
    for path in files:
        assert faults(OmegaConf.to_container(OmegaConf.load(path), resolve=False)) == [], path


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"meta_train": {"steps": 0}}, "meta_train.steps"),
        ({"meta_train": {"stepz": 1}}, "meta_train"),
        ({"algorithm": {"inner_lr": -1}}, "algorithm.inner_lr"),
        ({"algorithm": {"inner_lrr": 1}}, "algorithm"),
        ({"algorithm": {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet", "inner_lr": 0.1}}, "algorithm"),
        ({"defaults": [{"override /algorithm": "mamal"}]}, "defaults.0"),
        ({"way": "five"}, "way"),
        ({"stages": ["meta_train"]}, "stages.0"),
        ({"tiers": {"smoke": {"minute": 1}}}, "tiers.smoke"),
        ({"evaluate": {"ckpt": "latest"}}, "evaluate"),
    ],
)
def test_a_mistake_does_not_fit(values, key):
    assert validator("experiment")(values) == [key]


def test_a_reference_to_another_setting_fits():
    assert validator("experiment")({"way": "${shot}", "meta_train": {"steps": "${transfer.steps}"}}) == []

"""The table of stages agrees with the settings, with the code that runs them and with itself."""

from __future__ import annotations

import shlex
from dataclasses import fields

import pytest

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, Runtime
from metalearn_cli.core.stages import TABLE, TRAINING

EACH = pytest.mark.parametrize("stage", TABLE.values(), ids=list(TABLE))


def settings(name: str) -> set[str]:
    return {field.name for field in fields(STAGES[name])}


def test_every_stage_has_settings_and_code():
    assert list(TABLE) == list(STAGES)
    assert list(TRAINING) == list(stages.JOBS) == list(TABLE)[:-1]


@EACH
def test_names(stage):
    assert TABLE[stage.name] is stage
    assert stage.section.isidentifier() and stage.section.replace("_", "-") == stage.name


@EACH
def test_what_it_depends_on_are_settings_of_it(stage):
    runtime = {f"runtime.{field.name}" for field in fields(Runtime)}
    assert {*stage.memory} <= settings(stage.name) | runtime
    assert stage.fixed <= settings(stage.name)


@EACH
def test_stages_hand_on_to_those_that_accept_them(stage):
    assert {*stage.accepts} <= TABLE.keys()
    if not stage.then:
        return
    following, setting = stage.then.split()
    assert stage.name in TABLE[following].accepts
    assert setting in settings(following)


@EACH
def test_examples_call_the_stage_with_settings_that_it_has(stage):
    known = settings(stage.name) | {"optimizer", "scheduler"}
    for example in stage.examples:
        mlx, *words = shlex.split(example)
        assert mlx == "mlx" and stage.name in words
        keys = [word.split("=")[0].split(".")[0] for word in words if "=" in word]
        assert keys == [] or {*keys} <= known

"""`select` on the command line: how it is typed, what is printed, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metalearn_cli.cli import views

SMALL = ["ckpt=null", "backbone=mlp", "backbone.hidden=4", "data=gaussian", "way=2", "query=2", "runtime=cpu"]
SCRATCH = [*SMALL, "episodes=4", "algorithm=from_scratch", "algorithm.steps=1"]


def test_the_choice_and_the_test_are_printed(mlx: Any) -> None:
    code, out, err = mlx("evaluate", *SCRATCH, "select={algorithm.lr: [0.1, 1], algorithm.steps: [2]}")
    assert code == 0, err
    first, columns, _, *rows = out.splitlines()
    assert first.startswith("select: 2-way 1-shot 2-query on 4 episodes of val classes, gaussian")
    assert columns.split()[:3] == ["algorithm.lr", "algorithm.steps", "accuracy"]
    assert [row.split()[:2] for row in rows[:2]] == [["0.1", "2"], ["1", "2"]]
    assert [row.endswith("chosen") for row in rows[:2]].count(True) == 1
    assert rows[3].startswith("+- is the half-width of a 95 % interval over 4 episodes")
    assert rows[6].startswith("2-way 1-shot 2-query on 4 episodes of test classes, gaussian")
    assert "select: algorithm.lr=" in err


def test_the_table_names_the_protocol_that_chooses(capsys: Any) -> None:
    score = {"name": "test/accuracy", "way": 5, "shot": 1, "value": 0.5, "interval": 0.1}
    result = {**score, "learner": "maml", "normalisation": "inductive", "interval_classes": None}
    row = {**result, "name": "val/accuracy", "values": {"algorithm.lr": 1}, "chosen": True}
    views.evaluation({"results": [result], "selected": [row], "data": {"name": "glyphs"}})
    title = "select: 5-way 1-shot on 0 episodes of val classes, glyphs, inductive\n"
    assert capsys.readouterr().out.startswith(title)
    views.lineage([{"id": "a1", "stage": "evaluate", "metric": result, "selected": [row], "data": {"name": "glyphs"}}])
    assert title in capsys.readouterr().out


def test_it_may_be_typed_without_braces(mlx: Any) -> None:
    code, out, err = mlx("evaluate", *SCRATCH, "select.algorithm.lr=[0.1, 1]", "--json")
    assert code == 0, err
    assert [row["values"] for row in json.loads(out)["selected"]] == [{"algorithm.lr": 0.1}, {"algorithm.lr": 1}]


@pytest.mark.medium
def test_an_evaluation_is_not_resumed_but_its_command_told(mlx: Any) -> None:
    run = json.loads(mlx("evaluate", *SCRATCH, "select={algorithm.lr: [0.1, 1]}", "runs_dir=there", "--json").out)
    code, _, err = mlx("resume", run["id"], "--runs-dir", "there")
    assert code == 2 and f"{run['id']} is an evaluation, which begins anew: mlx evaluate " in err
    for word in ("algorithm=from_scratch", "'select.algorithm.lr=[0.1, 1]'", "episodes=4", "runs_dir=there"):
        assert word in err


@pytest.mark.medium
def test_a_list_is_no_group_of_settings(mlx: Any) -> None:
    code, _, err = mlx("evaluate", *SCRATCH, "select=[algorithm.lr]")
    assert code == 2
    assert "select  must be a group of settings, got ['algorithm.lr']   (from the command line)" in err


def test_all_that_is_wrong_is_told_at_once(mlx: Any) -> None:
    code, _, err = mlx("evaluate", *SCRATCH, "split=val", "select={algorithm.rl: [1], algorithm.steps: 2}")
    assert code == 2
    assert "algorithm.rl: no such setting of FromScratch" in err
    assert "algorithm.steps: must be a list of one or more values, got 2" in err
    assert "must be test with select" in err

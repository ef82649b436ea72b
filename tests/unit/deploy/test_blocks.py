"""The parts of a network: their shapes, their numbers of parameters, and when they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainings import CONV4, GRAY, meta_trained

from metalearn_cli.deploy.blocks import blocks
from metalearn_cli.deploy.trained import of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint, read_tensors


@pytest.mark.medium
def test_the_blocks_of_conv4(tmp_path: Path):
    checkpoint = open_checkpoint(meta_trained("images", tmp_path, GRAY))
    found = blocks(of_checkpoint(checkpoint))
    assert (found["backbone"], found["learner"], found["input"]) == ("Conv4", "ProtoNet", [1, 16, 16])
    assert [row["output"] for row in found["blocks"]] == [[4, 8, 8], [4, 4, 4], [4, 2, 2], [4, 1, 1]]
    assert {row["layers"] for row in found["blocks"]} == {"Conv2d, BatchNormReluPool"}
    assert all(row["learn"] == ["in training"] for row in found["blocks"])
    assert found["parameters"] == sum(t.numel() for t in read_tensors(checkpoint).values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of_backbone"), [("maml", ["from examples"]), ("anil", [])])
def test_what_an_algorithm_adapts_learns_from_examples(tmp_path: Path, name: str, of_backbone: list[str]):
    algorithm = {"_target_": f"metalearn_cli.algorithms.{name}.{name.capitalize()}", "inner_steps": 1}
    checkpoint = meta_trained("images", tmp_path, GRAY, algorithm=algorithm, way=2, steps=2)
    *rows, head = blocks(of_checkpoint(open_checkpoint(checkpoint)))["blocks"]
    assert head["layers"] == "head: Linear" and head["output"] == [2] and head["parameters"] == 2 * 4 + 2
    assert head["learn"] == ["in training", "from examples"]
    assert [row["learn"] for row in rows] == [["in training", *of_backbone]] * 4


@pytest.mark.medium
def test_frozen_blocks_never_learn_and_own_tensors_do(tmp_path: Path):
    r2d2 = {"_target_": "metalearn_cli.algorithms.r2d2.R2d2"}
    backbone = {**CONV4, "train": "last:1"}
    checkpoint = meta_trained("images", tmp_path, GRAY, algorithm=r2d2, backbone=backbone)
    *rows, last, own = blocks(of_checkpoint(open_checkpoint(checkpoint)))["blocks"]
    assert [row["learn"] for row in rows] == [[]] * 3 and last["learn"] == own["learn"] == ["in training"]
    assert own["layers"] == "R2d2: log_penalty, log_scale, shift" and own["output"] is None and own["parameters"] == 3

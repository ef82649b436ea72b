from __future__ import annotations

from importlib import import_module

import pytest
import torch
from conftest import on_cpu

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.items import Facts
from metalearn_cli.stages.learner import fresh_network

FINETUNE = "metalearn_cli.methods.finetune.Finetune"
PROBE = {"_target_": "metalearn_cli.methods.linear_probe.LinearProbe"}
BACKBONE = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "layers": 3}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2}
WEIGHTS = [f"backbone.blocks.{block}.weight" for block in range(3)]


def start() -> dict[str, torch.Tensor]:
    """Return the tensors that transfer begins with: those of the seed."""
    return fresh_network(BACKBONE, Facts("vector", (6,), "real", 8), 8, seed=0, runtime=on_cpu()).params


def test_everything_learns(go, tensors, said):
    done = go("transfer")
    before, after = start(), tensors(done)
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert done["metric"]["name"] == "val/accuracy"
    evaluated = [values for _, values in said.measured if "val/accuracy" in values]
    assert evaluated[0].keys() == {"val/label_accuracy", "val/accuracy", "val/accuracy_interval"}
    assert said.steps == [1, 2, 3, 4, 5]
    assert said.finished[0]["status"] == "completed"


@pytest.mark.parametrize(
    ("method", "frozen"),
    [(PROBE, 3), ({"_target_": FINETUNE, "blocks": 1}, 2), ({"_target_": FINETUNE, "blocks": 2}, 1)],
)
def test_what_does_not_learn_stays_bit_for_bit(go, tensors, method, frozen):
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.1}  # decay would show on what is held
    before, after = start(), tensors(go("transfer", method=method, optimizer=optimizer))
    for block in range(3):
        for name in (f"backbone.blocks.{block}.weight", f"backbone.blocks.{block}.bias"):
            assert torch.equal(before[name], after[name]) == (block < frozen), name
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_blocks_learn_at_their_rates(ready):
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1}
    constant = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
    moved = {}
    for decay in (1.0, 0.5):
        method = {"_target_": FINETUNE, "decay": decay}
        prepared = ready("transfer", method=method, optimizer=sgd, scheduler=constant)
        params, job = prepared.job.params, prepared.job
        optimizer, _ = prepared.optimizer()
        params["head.weight"].data.fill_(0.1).view(-1)[::3] = -0.2  # from a head of zeros no gradient comes down
        before = {name: p.detach().clone() for name, p in params.items()}
        job.gradients(params, job.batches(0), 0)
        optimizer.step()
        moved[decay] = [(params[name] - before[name]).detach() for name in [*WEIGHTS, "head.weight"]]
    for even, slower, factor in zip(moved[1.0], moved[0.5], [0.125, 0.25, 0.5, 1.0], strict=True):
        assert even.abs().max() > 1e-4
        torch.testing.assert_close(slower, even * factor)


def test_frozen_tensors_cost_no_gradient(ready):
    prepared = ready("transfer", method=PROBE)
    prepared.optimizer()
    params = prepared.job.params
    assert {name for name, p in params.items() if p.requires_grad} == {"head.weight", "head.bias"}


def test_logged_rate_is_that_of_the_head(go, said):
    go("transfer", method={"_target_": FINETUNE, "decay": 0.5})
    rates = [values["train/lr"] for _, values in said.measured if "train/lr" in values]
    assert 0.005 < rates[0] <= 0.01


def test_more_blocks_than_there_are(refused):
    found = refused("transfer", method={"_target_": FINETUNE, "blocks": 4})
    assert found == {"method.blocks": "blocks must be at most 3, the backbone's number of blocks, got 4"}


def test_same_backbone_in_every_stage(ready):
    """The untrained row of the chain's table and each stage without init_from start from the same tensors."""
    jobs = [ready(stage).job for stage in ("transfer", "meta-train")]
    for name in WEIGHTS:
        assert torch.equal(*(job.params[name] for job in jobs))
        assert torch.equal(jobs[0].params[name], start()[name])


def test_held_out_items_are_scored_in_equal_parts(ready, images, monkeypatch):
    monkeypatch.setattr(import_module("metalearn_cli.stages.transfer"), "_CHUNK", 11)
    job = ready("transfer", backbone=CONV4).job
    sizes, forward = [], Conv4.forward
    monkeypatch.setattr(Conv4, "forward", lambda self, x, **kw: sizes.append(len(x)) or forward(self, x, **kw))
    assert 0 <= job.evaluate(job.params)["val/label_accuracy"] <= 1
    assert sizes[:2] == [6, 6]  # of 12 items; a last part of one would be its own mean


@pytest.mark.parametrize("optimizer", [{"lr": -1.0}, {"lr": None}, {"lr": "fast"}, {"lr": 0.1, "momentum": -1.0}])
def test_optimizer_that_cannot_be_is_refused_before_any_work(refused, optimizer):
    found = refused("transfer", optimizer={"_target_": "torch.optim.SGD", **optimizer})
    assert next(iter(found)).startswith("optimizer")


def test_initial_tensors_come_from_the_checkpoint(go, tensors, manifest, said):
    first = go("transfer")
    said.notes.clear()
    second = go("transfer", init_from="latest:transfer", method=PROBE)
    for name in WEIGHTS:
        assert torch.equal(tensors(second)[name], tensors(first)[name])
    assert any(note.startswith("loaded 6/6 tensors, 100.0 % of the backbone, from ") for note in said.notes)
    assert any(note.startswith(f"init_from latest:transfer -> {first['checkpoint']} (val/") for note in said.notes)
    assert second["parent"] == manifest(second)["parent"]
    assert second["parent"]["run"] == first["id"]
    assert second["parent"]["checkpoint"] == first["checkpoint"]


def test_reinit_of_a_block(go, tensors):
    first = go("transfer")
    last = {"_target_": FINETUNE, "blocks": 1}
    second = go("transfer", init_from=first["id"], reinit=["backbone.blocks.0"], method=last)
    assert torch.equal(tensors(second)[WEIGHTS[0]], start()[WEIGHTS[0]])
    assert torch.equal(tensors(second)[WEIGHTS[1]], tensors(first)[WEIGHTS[1]])


def test_other_architecture_is_refused(go, refused):
    done = go("transfer")
    found = refused("transfer", init_from=done["id"], backbone={**BACKBONE, "hidden": 9})
    assert found.keys() == {"init_from"}
    assert "backbone.blocks.0.bias (here [9], there [8])" in found["init_from"]


def test_problems_of_start_and_data_come_together(refused):
    found = refused("transfer", init_from="latest", runtime__devices=[3])
    assert found.keys() == {"init_from", "runtime.devices"}
    assert "no completed run of pretrain or transfer" in found["init_from"]

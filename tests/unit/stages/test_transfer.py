from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import on_cpu
from torch.nn.functional import cross_entropy, mse_loss

from metalearn_cli import stages
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import network
from metalearn_cli.methods.l2_sp import L2Sp
from metalearn_cli.methods.linear_probe import LinearProbe
from metalearn_cli.records.checkpoint import open_checkpoint, read_resume
from metalearn_cli.stages.learner import fresh_network
from metalearn_cli.stages.transfer import method_loss

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


RUNNING = {"_target_": "probes.backbones.running.Running"}
LOW_RANK = {"_target_": "metalearn_cli.methods.lora.Lora"}
STATISTICS = [[f"backbone.layers.{layer}.1.running_{what}" for what in ("mean", "var")] for layer in range(2)]


@pytest.mark.parametrize(
    ("method", "written"),
    [({"_target_": FINETUNE}, [0, 1]), ({"_target_": FINETUNE, "blocks": 1}, [1]), (PROBE, []), (LOW_RANK, [])],
    ids=["all", "last block", "probe", "factors"],
)
def test_running_statistics_of_blocks_that_learn_are_written(go, probes, tensors, ready, method, written):
    before = ready("transfer", backbone=RUNNING, method=method).job.params
    after = tensors(go("transfer", backbone=RUNNING, method=method))
    for layer, names in enumerate(STATISTICS):
        for name in names:
            assert torch.equal(before[name], after[name]) is (layer not in written), name


def test_running_statistics_are_those_that_are_handed_on_and_scored(go, probes, tensors):
    first = go("transfer", backbone=RUNNING, optimizer__lr=0.1)
    second = go("transfer", backbone=RUNNING, method=PROBE, init_from="latest", steps=1)
    for name in (name for names in STATISTICS for name in names):
        assert torch.equal(tensors(first)[name], tensors(second)[name])
    again = go("evaluate", ckpt=first["id"], split="val", episodes=4)["results"][0]
    assert again["value"] == first["metric"]["value"]


def test_factors_are_merged_into_the_backbone_that_is_handed_on(go, probes, tensors, ready):
    before = ready("transfer", method=LOW_RANK).job.params
    done = go("transfer", method=LOW_RANK, optimizer__lr=0.1, steps=3)
    last = Path(done["folder"]) / "checkpoints" / done["last"]
    after = tensors(last)
    for name in WEIGHTS:
        factors = after[f"method.{name}.b"] @ after[f"method.{name}.a"]
        assert factors.abs().max() > 1e-3
        torch.testing.assert_close(after[name], before[name].detach() + factors)
    for block in range(3):
        assert torch.equal(after[f"backbone.blocks.{block}.bias"], before[f"backbone.blocks.{block}.bias"])
    again = go("evaluate", ckpt=str(last), split="val", episodes=4)["results"][0]  # which knows nothing of factors
    assert again["value"] == done["trained"]["value"]


HARMFUL = {"optimizer__lr": 1.0}


def test_what_is_better_before_transfer_is_handed_on(go, tensors, said):
    parent = go("transfer", steps=20)
    done = go("transfer", init_from=parent["id"], **HARMFUL)
    before, after = done["baseline"], done["trained"]
    assert before["value"] > after["value"] and after["step"] > 0
    assert done["metric"] == before and before["step"] == 0 and done["best"] == "step-000000"
    told = f"val/accuracy was {before['value']:.4f} before training and at best {after['value']:.4f} after it"
    assert said.notes[-1] == f"transfer brought no improvement, so step 0, its start, is handed on: {told}"
    scored = go("evaluate", ckpt=parent["id"], split="val", episodes=4)["results"][0]
    assert (scored["value"], scored["interval"]) == (before["value"], before["interval"])
    assert all(torch.equal(tensors(done)[name], tensors(parent)[name]) for name in WEIGHTS)
    assert go("meta-train", init_from="latest:transfer")["parent"]["checkpoint"] == done["checkpoint"]


def test_what_is_better_after_transfer_is_handed_on(go, said):
    done = go("transfer", steps=30)
    assert done["metric"] == done["trained"] != done["baseline"]
    assert done["trained"]["value"] > done["baseline"]["value"]
    assert not any("no improvement" in note for note in said.notes)
    assert not (Path(done["folder"]) / "checkpoints" / "step-000000").exists()
    assert "baseline" not in go("meta-train", steps=1)


def test_of_two_equally_good_ones_the_trained_one_is_handed_on(go, tensors):
    """The features of a probe never change, but its classifier is what a teacher needs."""
    done = go("transfer", method=PROBE)
    assert done["trained"]["value"] == done["baseline"]["value"]
    assert done["metric"]["step"] == 3 and tensors(done)["head.weight"].any()


@pytest.mark.medium
def test_an_untrained_classifier_is_no_teacher(go, refused):
    parent = go("transfer", steps=20)
    done = go("transfer", init_from=parent["id"], **HARMFUL)
    found = refused("transfer", method=DISTILL, teacher=done["id"])["teacher"]
    last = Path(done["folder"]) / "checkpoints" / done["last"]
    assert found.endswith(f"as transfer brought no improvement; name a later one, as in teacher={last}")
    assert go("transfer", method=DISTILL, teacher=str(last))["teacher"]["step"] == 5


def test_resume_goes_on_from_the_factors_not_from_what_they_merged_into(go, probes, tensors):
    """What is saved for it is the frozen backbone; merged weights would be merged once more."""
    done = go("transfer", method=LOW_RANK, optimizer__lr=0.1)
    folder = Path(done["folder"]) / "checkpoints" / done["last"]
    state, stored = read_resume(open_checkpoint(folder)), tensors(folder)
    assert state["unmerged"].keys() == {*WEIGHTS}
    for name in WEIGHTS:
        factors = stored[f"method.{name}.b"] @ stored[f"method.{name}.a"]
        torch.testing.assert_close(state["unmerged"][name] + factors, stored[name])
    plain = go("transfer")
    assert "unmerged" not in read_resume(open_checkpoint(Path(plain["folder"]) / "checkpoints" / plain["last"]))


def test_factors_do_not_move_on(go, probes, tensors):
    first = go("transfer", method=LOW_RANK, optimizer__lr=0.1)
    second = go("transfer", method=LOW_RANK, init_from="latest", optimizer__lr=0.0, steps=1)
    for name in WEIGHTS:
        assert torch.equal(tensors(first)[name], tensors(second)[name])
        assert tensors(second)[f"method.{name}.b"].abs().max() == 0


class Distilled:
    """A loss of its own, towards the network as transfer began; as training goes on, it counts for more."""

    def __init__(self, progress: float = 0.0) -> None:
        self.progress = progress

    def at(self, progress: float) -> Distilled:
        return Distilled(progress)

    def rates(self, net: Any) -> dict[str, float]:
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Any, own: Any, start: Any, batch: Any) -> Any:
        logits = net.output(net.params, batch["x"])
        return self.progress * mse_loss(logits, net.output(start, batch["x"])), logits


def test_a_methods_own_loss_knows_where_it_began():
    net = fresh_network(BACKBONE, Facts("vector", (6,), "real", 8), 8, seed=0, runtime=on_cpu())
    batch = {"x": torch.randn(4, 6), "y": torch.arange(4)}
    moved = {name: p.detach() + 0.5 for name, p in net.params.items()}
    loss, logits = method_loss(Distilled(), net, moved, net.params, batch)
    assert loss == 0 and logits.shape == (4, 8)
    whole, half = (method_loss(Distilled().at(p), net, moved, net.params, batch)[0] for p in (1.0, 0.5))
    expected = mse_loss(net.output(moved, batch["x"]), net.output(net.params, batch["x"]))
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(half, expected / 2)
    assert method_loss(Distilled(1.0), net, net.params, net.params, batch)[0] == 0


def test_what_is_trained_is_the_cross_entropy_where_a_method_says_nothing_else():
    net = fresh_network(BACKBONE, Facts("vector", (6,), "real", 8), 8, seed=0, runtime=on_cpu())
    batch = {"x": torch.randn(4, 6), "y": torch.arange(4)}
    loss, _ = method_loss(LinearProbe(), net, net.params, net.params, batch)
    torch.testing.assert_close(loss, cross_entropy(net.output(net.params, batch["x"]), batch["y"]))
    (head, *none) = torch.autograd.grad(
        loss, [net.params["head.weight"], *(net.params[name] for name in WEIGHTS)], allow_unused=True
    )
    assert head.abs().max() > 0 and none == [None] * 3


DISTILL = {"_target_": "metalearn_cli.methods.distill.Distill", "temperature": 2.0, "weight": 1.0}
CORAL = {"_target_": "metalearn_cli.methods.coral.Coral", "weight": 1.0}
OTHER = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16, "seed": 1}


@pytest.mark.medium
def test_a_teacher_is_learnt_from_and_recorded(go, probes, manifest, tensors, ready):
    teacher = go("transfer", steps=20)
    taught = go("transfer", method=DISTILL, teacher="latest:transfer", seed=3, steps=20)
    assert taught["teacher"] == manifest(taught)["teacher"]
    assert taught["teacher"]["run"] == teacher["id"]
    assert taught["teacher"]["checkpoint"] == teacher["checkpoint"]
    prepared = ready("transfer", method=DISTILL, teacher=taught["id"], seed=3, steps=20)
    assert prepared.key != taught["key"]  # another teacher is other work
    job = ready("transfer", method=DISTILL, teacher=teacher["id"], seed=3).job
    x, y = job.batches(0)["x"], job.batches(0)["y"]
    net = network(Mlp((6,), 8, 3), 8).of(tensors(teacher))
    meant = (net.output(net.params, x) / 2).log_softmax(-1)
    loss = job.gradients(job.params, {"x": x, "y": y}, 0)["loss"]
    uniform = torch.full_like(meant, 1 / 8).log()  # what a head of zeros says
    assert loss.item() == pytest.approx(4 * (meant.exp() * (meant - uniform)).sum(-1).mean().item(), rel=1e-5)


def test_a_teacher_of_another_split_is_told(go, ready):
    teacher = go("transfer")["folder"]
    hints = {**DISTILL, "weight": 0.0, "features": 1.0}  # of features alone, which any data may teach
    assert "it was trained" not in " ".join(ready("transfer", method=hints, teacher=teacher, seed=3).notes)
    told = " ".join(ready("transfer", method=hints, teacher=teacher, data=OTHER).notes)
    assert "it was trained on other data of this name (another split or other settings)" in told


def test_a_run_that_is_taught_resumes_from_the_same_teacher(go, probes, tensors, said):
    teacher = go("transfer")
    half = go("transfer", method=DISTILL, teacher="latest", seed=3, steps=3, scheduler__T_max=6)
    whole = go("transfer", method=DISTILL, teacher=teacher["id"], seed=3, steps=6, scheduler__T_max=6)
    again = stages.resume(half["folder"], said, {"steps": 6})  # when another is the latest
    assert again["teacher"]["run"] == teacher["id"]
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensors(again)[name], tensor)


def test_a_teacher_without_a_classifier_of_these_classes_is_refused(go, refused, probes):
    pretrained = go("pretrain", model={"_target_": "probes.models.teacher.Teacher"})
    found = refused("transfer", method=DISTILL, teacher=pretrained["id"])
    assert found["teacher"].endswith("has no classifier; name a run of transfer")
    other = go("transfer", data={**OTHER, "classes": 20})
    found = refused("transfer", method=DISTILL, teacher=other["id"])
    told = "is a classifier of other classes than those that this gaussian trains on; "
    assert found["teacher"].endswith(f"{told}type data.classes=20 data.seed=1, or name a run of transfer on this data")
    assert "there is no run 'nope'" in refused("transfer", method=DISTILL, teacher="nope")["teacher"]


def test_a_teacher_of_the_same_number_of_other_classes_is_refused(go, refused, ready, tmp_path):
    """Names tell classes apart where a file has them; a generator gives others by another seed."""
    generated = go("transfer", data={**OTHER, "seed": 2})["folder"]
    found = refused("transfer", method=DISTILL, teacher=generated, data=OTHER)["teacher"]
    assert "other classes" in found and "; type data.seed=2, or name a run of transfer on this data" in found
    y = np.repeat([f"bird{k}" for k in range(12)], 20)
    x = np.random.default_rng(0).normal(size=(len(y), 6)).astype("f4")
    for name, power in {"one": 1, "other": 3}.items():
        np.savez(tmp_path / f"{name}.npz", x=x**power, y=y)
    birds = {"_target_": "metalearn_cli.data.arrays.arrays", "root": str(tmp_path / "one.npz"), "seed": 0, "fold": None}
    teacher = go("transfer", data=birds)["folder"]
    found = refused("transfer", method=DISTILL, teacher=teacher, data={**birds, "seed": 1})["teacher"]
    assert "; type data.seed=0, or name" in found
    found = refused("transfer", method=DISTILL, teacher=teacher, data={**birds, "fold": "1/3"})["teacher"]
    assert "; type data.fold=null, or name" in found
    more = {**birds, "root": str(tmp_path / "other.npz")}
    assert "other data of this name" in " ".join(ready("transfer", method=DISTILL, teacher=teacher, data=more).notes)


def test_a_teacher_of_another_data_set_is_refused(go, refused, images, monkeypatch):
    conv = go("transfer", backbone=CONV4)
    monkeypatch.undo()
    found = refused("transfer", method=DISTILL, teacher=conv["id"])
    assert found["teacher"].endswith("has no backbone for items of the shape of gaussian; name another run")


def test_a_teacher_has_a_backbone_of_its_own(go, ready, tensors):
    """A wide teacher's features and logits, for a student of another kind."""
    wide = {**BACKBONE, "hidden": 11, "layers": 1}
    teacher = go("transfer", backbone=wide)
    fitnets = {**DISTILL, "features": 0.5}
    job = ready("transfer", method=fitnets, teacher=teacher["id"]).job
    assert job.params["method.map.weight"].shape == (11, 8)
    batch, theirs, ours = job.batches(0), tensors(teacher), job.params
    net = network(Mlp((6,), 11, 1), 8).of(theirs)
    z = net.features(net.params, batch["x"])
    mapped = network(Mlp((6,), 8, 3)).of(ours).features(ours, batch["x"]) @ ours["method.map.weight"].T
    soft = ready("transfer", method=DISTILL, teacher=teacher["id"]).job.gradients(ours, batch, 0)["loss"]
    found = job.gradients(ours, batch, 0)["loss"]
    torch.testing.assert_close(found, (soft + 0.5 * mse_loss(mapped, z)).detach())


def test_features_can_be_learnt_from_a_teacher_without_a_classifier(go, tensors, probes):
    pretrained = go("pretrain", backbone={**BACKBONE, "hidden": 5})
    done = go("transfer", method={**DISTILL, "weight": 0.0, "features": 1.0}, teacher=pretrained["id"])
    assert tensors(done)["method.map.weight"].shape == (5, 8)
    assert done["teacher"]["run"] == pretrained["id"]


def test_what_a_method_asks_for_and_what_it_gets(refused, probes):
    assert refused("transfer", method=DISTILL) == {
        "teacher": "Distill learns from a second checkpoint; name it with teacher=RUN"
    }
    assert refused("transfer", method=CORAL) == {
        "also.unlabelled": "Coral needs more data; choose it with data@also.unlabelled=NAME"
    }
    assert refused("transfer", also={"unlabelled": OTHER}) == {
        "also.unlabelled": "has no effect: Finetune does not ask for it"
    }
    other = {**OTHER, "features": 7}
    assert refused("transfer", method=CORAL, also={"unlabelled": other}) == {
        "also.unlabelled": "gaussian must have items of the same shape as gaussian, [6]"
    }


def test_more_data_comes_with_each_batch_and_is_recorded(go, ready, probes):
    done = go("transfer", method=CORAL, also={"unlabelled": OTHER})
    assert done["data"]["also"]["unlabelled"]["fingerprint"] != done["data"]["fingerprint"]
    job = ready("transfer", method=CORAL, also={"unlabelled": OTHER}).job
    batch = job.batches(0)
    assert batch["unlabelled"].shape == batch["x"].shape
    same = ready("transfer", method=CORAL, also={"unlabelled": {**OTHER, "seed": 0}}).job.batches(0)
    assert not torch.equal(same["unlabelled"], same["x"])  # of the same data, drawn for themselves


MULTITASK = {"_target_": "metalearn_cli.methods.multitask.Multitask"}


def test_every_other_data_set_comes_with_its_labels(ready, tensors, go):
    also = {"one": {**OTHER, "classes": 20}, "two": OTHER}
    job = ready("transfer", method=MULTITASK, also=also).job
    batch = job.batches(0)
    assert {name: (x.shape, y.shape) for name, (x, y) in batch["also"].items()} == dict.fromkeys(also, ((8, 6), (8,)))
    assert {name: job.params[f"method.{name}.weight"].shape for name in also} == {"one": (10, 8), "two": (8, 8)}
    assert batch["also"]["one"][1].max() < 10 and batch.keys() == {"x", "y", "also"}
    loss = job.gradients(job.params, batch, 0)["loss"]
    assert loss.item() == pytest.approx(2 * math.log(8) + math.log(10), rel=1e-5)  # three heads of zeros
    done = go("transfer", method=MULTITASK, also=also)
    assert tensors(done)["method.one.bias"].any()
    assert done["data"]["also"].keys() == {"one", "two"}


def test_a_task_more_needs_labelled_data(refused):
    assert refused("transfer", method=MULTITASK) == {
        "also": "Multitask needs one or more labelled data sets; choose each with data@also.ANY_WORD=NAME"
    }
    curves = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
    found = refused("transfer", method=MULTITASK, also={"one": curves})
    assert found == {"also.one": "sinusoid is a regression; choose data with classes"}


L2_SP = {"_target_": "metalearn_cli.methods.l2_sp.L2Sp"}


def test_a_methods_start_is_the_checkpoint_that_transfer_began_from(go, ready, tensors, monkeypatch, said):
    first, seen, loss = go("transfer"), [], L2Sp.loss
    monkeypatch.setattr(
        L2Sp,
        "loss",
        lambda self, net, own, start, batch: seen.append(dict(start)) or loss(self, net, own, start, batch),
    )
    half = go("transfer", init_from=first["id"], method=L2_SP, steps=2, scheduler__T_max=4)
    stages.resume(half["folder"], said, {"steps": 4})
    assert len(seen) == 4
    for start_of_step in seen:  # and of the steps after it was resumed
        for name in WEIGHTS:
            assert torch.equal(start_of_step[name], tensors(first)[name])


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"backbon.weight": 1.0}, "gives a rate to backbon.weight, but neither the network nor method has it"),
        ({"head.bias": -1.0}, "gives head.bias the rate -1.0; it must be a number >= 0"),
        ({"head.bias": float("nan")}, "gives head.bias the rate nan; it must be a number >= 0"),
        ({"head.bias": 0.0}, "lets no tensor learn: all rates are 0, or there are none"),
        ({}, "lets no tensor learn: all rates are 0, or there are none"),
    ],
)
def test_rates_that_nothing_can_learn_at_are_refused(refused, monkeypatch, rates, said):
    monkeypatch.setattr(LinearProbe, "rates", lambda self, net: rates)
    assert refused("transfer", method=PROBE) == {"method": said}


def test_frozen_parameters_of_a_backbone_stay_as_they_are(go, tensors, monkeypatch):
    make = Mlp.__init__

    def make_and_freeze(self, shape, hidden=40, layers=2):
        make(self, shape, hidden, layers)
        self.blocks[0].weight.requires_grad_(False)

    monkeypatch.setattr(Mlp, "__init__", make_and_freeze)
    for stage in ("pretrain", "transfer", "meta-train"):
        found = tensors(go(stage, steps=2))
        assert torch.equal(found[WEIGHTS[0]], start_of_mlp()[WEIGHTS[0]])
        assert not torch.equal(found[WEIGHTS[1]], start_of_mlp()[WEIGHTS[1]])


def start_of_mlp():
    net = fresh_network(BACKBONE, Facts("vector", (6,), "real", 8), 8, seed=0, runtime=on_cpu())
    return net.params | net.constants


def warnings(ready, **changes):
    return [note for note in ready("transfer", **changes).notes if note.startswith("warning: ")]


@pytest.mark.parametrize("method", [PROBE, L2_SP, LOW_RANK], ids=["probe", "l2_sp", "lora"])
def test_a_method_that_keeps_to_random_weights_is_warned_of(go, ready, method):
    (warning,) = warnings(ready, method=method)
    assert "these are random" in warning and "init_from=RUN" in warning
    assert not warnings(ready, method=method, init_from=go("transfer", steps=1)["id"])
    assert not warnings(ready)


def test_a_chain_says_so_of_its_first_stage_alone(config, said):
    told = "these are random"
    assert any(told in note for note in stages.check("run", config("run", stages=["transfer"], transfer__method=PROBE)))
    assert not any(told in note for note in stages.check("run", config("run", transfer__method=PROBE)))


def test_the_same_data_twice_is_warned_of(ready):
    (warning,) = warnings(ready, method=CORAL, also={"unlabelled": {**OTHER, "seed": 0}})
    assert warning == (
        "warning: also.unlabelled is the same data as data, so that coral learns nothing new from it; choose other data"
        " with data@also.unlabelled=NAME"
    )
    assert not warnings(ready, method=CORAL, also={"unlabelled": OTHER})
    (warning,) = warnings(ready, method=MULTITASK, also={"one": OTHER, "two": OTHER})
    assert "also.two is the same data as also.one, so that multitask" in warning

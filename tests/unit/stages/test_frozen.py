"""Backbones that learn in part or not at all, and the features that are then computed once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from conftest import on_cpu
from faults.folders import metrics

from metalearn_cli import stages
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import network
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split
from metalearn_cli.data.gaussian import gaussian
from metalearn_cli.engine.episodes import answered
from metalearn_cli.records import runs
from metalearn_cli.stages import frozen
from metalearn_cli.stages.frozen import featured, let_learn
from metalearn_cli.stages.learner import fresh_backbone, fresh_learner
from metalearn_cli.stages.scores import Scores

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 2}
PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
NEAREST = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
OF_MAPS = {"_target_": "probes.algorithms.of_maps.OfMaps"}
DISTILLATION = {"_target_": "metalearn_cli.methods.distill.Distill"}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "layers": 3}
RUNNING = {"_target_": "probes.backbones.running.Running"}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2, "norm": "group"}
FROZEN = {**MLP, "train": "none"}
NAMES = {f"blocks.{i}.{part}.{kind}" for i in range(4) for part in ("conv", "norm") for kind in ("weight", "bias")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the cache folder, an empty one."""
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plain(monkeypatch):
    """Return a function that runs something without stored features."""

    def call(function, *args, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(frozen, "has_features", lambda *args: False)
            return function(*args, **changes)

    return call


@pytest.fixture
def computed(monkeypatch):
    """Return the list of the data sets whose features were computed."""
    found, large = [], frozen.large
    monkeypatch.setattr(frozen, "large", lambda *shape, **how: found.append(shape) or large(*shape, **how))
    return found


def learning(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("all", NAMES),
        ("none", set()),
        ("last:1", {n for n in NAMES if n.startswith("blocks.3")}),
        ("last:4", NAMES),
        ("norm", {n for n in NAMES if ".norm." in n}),
        ("blocks.3.*", {n for n in NAMES if n.startswith("blocks.3")}),
        ("blocks.3", {n for n in NAMES if n.startswith("blocks.3")}),
        ("*.bias", {n for n in NAMES if n.endswith("bias")}),
        ("blocks.[01].conv.weight", {"blocks.0.conv.weight", "blocks.1.conv.weight"}),
    ],
)
def test_what_learns(train, expected):
    backbone = Conv4((1, 16, 16), hidden=2, norm="group")
    let_learn(backbone, train)
    assert learning(backbone) == expected


def test_the_layers_of_batch_statistics_are_normalisation_too():
    backbone = Conv4((1, 16, 16), hidden=2)
    let_learn(backbone, "norm")
    assert learning(backbone) == {n for n in NAMES if ".norm." in n}


@pytest.mark.parametrize("train", ["all", "last:2", "*"])
def test_what_a_backbone_has_frozen_itself_stays_so(train):
    backbone = Mlp((6,), hidden=2, layers=2)
    name, first = next(backbone.named_parameters())
    first.requires_grad_(False)
    let_learn(backbone, train)
    assert name not in learning(backbone) and learning(backbone)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("last:0", "last:N takes a number of blocks from 1 to 2, got 'last:0'"),
        ("last:3", "last:N takes a number of blocks from 1 to 2, got 'last:3'"),
        ("last:", "last:N takes a number of blocks from 1 to 2, got 'last:'"),
        ("last:two", "last:N takes a number of blocks from 1 to 2, got 'last:two'"),
        ("norm", "norm: this backbone has no normalisation layer with tensors; there are {}"),
        ("blocks.7.*", "must be all, none, last:N, norm, or a pattern that fits the name of a tensor, got {!r}"),
        ("None", "must be all, none, last:N, norm, or a pattern that fits the name of a tensor, got {!r}"),
    ],
)
def test_what_names_nothing_is_refused(refused, train, told):
    backbone = Mlp((6,), hidden=8, layers=2)
    names = ", ".join(learning(backbone) and [n for n, _ in backbone.named_parameters()])
    told = told.format(train) + f"; there are {names}" if "{!r}" in told else told.format(names)
    assert refused("transfer", backbone={**MLP, "layers": 2, "train": train}) == {"backbone.train": told}


def test_of_many_names_some_are_told():
    with pytest.raises(ConfigError) as caught:
        let_learn(Mlp((6,), hidden=2, layers=30), "head.*")
    assert ", ..., " in str(caught.value) and len(str(caught.value)) < 500


def test_a_setting_of_another_type_is_told_with_the_others(config):
    with pytest.raises(ConfigError) as caught:
        config("transfer", backbone={**MLP, "train": 3}, batch_size=0)
    assert {problem.key for problem in caught.value.problems} == {"backbone.train", "batch_size"}


@pytest.mark.parametrize(
    ("stage", "train"),
    [("pretrain", "last:1"), *((stage, train) for stage in ("transfer", "meta-train") for train in ("none", "last:1"))],
)
def test_only_what_learns_changes_and_all_is_handed_on(go, tensors, stage, train):
    algorithm = {"algorithm": MAML} if stage == "meta-train" else {}
    first = go("transfer")
    found = go(stage, init_from=None, backbone={**MLP, "train": train}, **algorithm)
    before = fresh_backbone(MLP, gaussian(160, 6, 16).facts, 0).state_dict()
    after = {n.removeprefix("backbone."): t for n, t in tensors(found).items() if n.startswith("backbone.")}
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert after.keys() == before.keys()
    assert changed == ({name for name in before if name.startswith("blocks.2.")} if train == "last:1" else set())
    assert tensors(first).keys() >= {f"backbone.{name}" for name in before}


def test_a_checkpoint_is_taken_up_by_a_stage_that_trains_something_else(go, tensors, manifest):
    part = go("transfer", backbone={**MLP, "train": "last:1"})
    rest = go("transfer", init_from="latest:transfer", backbone={**MLP, "train": "none"})
    whole = go("meta-train", init_from="latest:transfer")
    backbone = [{n: t for n, t in tensors(run).items() if n.startswith("backbone.")} for run in (part, rest, whole)]
    assert all(torch.equal(t, backbone[1][name]) for name, t in backbone[0].items())
    assert not any(torch.equal(t, backbone[2][name]) for name, t in backbone[0].items())
    assert manifest(part)["model"]["backbone"]["train"] == "last:1"
    assert go("evaluate", ckpt=part["id"])["parent"]["run"] == part["id"]


@pytest.mark.parametrize(("stage", "train"), [("transfer", "none"), ("pretrain", "last:1")])
def test_running_statistics_of_frozen_blocks_do_not_change(go, tensors, probes, stage, train):
    found = tensors(go(stage, backbone={**RUNNING, "train": train}))
    still = {name: bool((t == 0).all()) for name, t in found.items() if name.endswith("running_mean")}
    assert still == {"backbone.layers.0.1.running_mean": True, "backbone.layers.1.1.running_mean": train == "none"}


def test_a_learner_without_tensors_has_nothing_to_learn_on_a_frozen_backbone(refused, go):
    told = "ProtoNet has no tensors besides the backbone's, so with 'none' there is nothing to meta-train"
    assert refused("meta-train", algorithm=PROTONET, backbone=FROZEN) == {
        "backbone.train": f"{told}; score it with: mlx evaluate ckpt=null, or let blocks learn: backbone.train=last:1"
    }
    done = go("evaluate", ckpt=None, data=GAUSSIAN, algorithm=PROTONET, backbone=FROZEN)
    assert done["results"][0]["learner"] == "protonet"


@pytest.mark.parametrize("spec", [MLP, RUNNING], ids=["mlp", "running statistics"])
@pytest.mark.parametrize("algorithm", [NEAREST, PROTONET, MAML], ids=["nearest", "protonet", "maml"])
def test_evaluation_on_features_gives_the_scores_of_the_items(go, plain, computed, probes, algorithm, spec):
    settings = {"ckpt": None, "data": GAUSSIAN, "algorithm": algorithm, "backbone": {**spec, "train": "none"}}
    slow = plain(go, "evaluate", **settings)
    assert not computed
    quick = go("evaluate", **settings)
    assert len(computed) == 1
    of = [Scores.read(Path(run["folder"]), 6) for run in (slow, quick)]
    assert torch.equal(of[0].protocols["none"], of[1].protocols["none"]) and of[0].classes == of[1].classes
    same = ("results", "episodes_hash", "key", "data", "metric")
    assert {name: slow[name] for name in same} == {name: quick[name] for name in same}


@pytest.mark.parametrize("algorithm", [PROTONET, MAML], ids=["protonet", "maml"])
def test_answers_on_features_are_those_of_the_items(images, algorithm):
    runtime = on_cpu()
    net = network(fresh_backbone({**CONV4, "train": "none"}, images.facts, 0), 2 if algorithm is MAML else None)
    learner = fresh_learner(build(algorithm, "algorithm"), net, 2, None, 0)
    vectors = featured(images, ["val"], net, CONV4, runtime)
    one, two = (d.episodes("val", 2, 1, 3, 0).batch(0, 1).map(itemgetter(0)) for d in (images, vectors))
    assert two.support_x.shape == (2, net.out_dim) and torch.equal(one.query_y, two.query_y)
    items, features = (
        answered(x, e.support_x, e.support_y, e.query_x)
        for x, e in ((learner, one), (learner._replace(net=net.on_features()), two))
    )
    assert torch.allclose(items, features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stage", "changes"), [("meta-train", {"algorithm": MAML}), ("transfer", {})])
@pytest.mark.medium
def test_training_on_features_is_that_on_items(go, plain, computed, tensors, said, stage, changes):
    settings = {"backbone": FROZEN, "init_from": go("pretrain")["id"], **changes}
    slow = plain(go, stage, **settings)
    assert not computed and "the backbone is frozen, but runs in every step" in said.notes
    quick = go(stage, **settings)
    assert len(computed) == 2 and "the features of each item are computed once" in said.notes
    for one, two in zip(metrics(Path(slow["folder"])), metrics(Path(quick["folder"])), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
    found = tensors(quick)
    assert found.keys() == tensors(slow).keys()
    assert all(torch.allclose(t, found[name], rtol=1e-4, atol=1e-6) for name, t in tensors(slow).items())
    assert slow["key"] == quick["key"]
    go("evaluate", ckpt=quick["id"])
    assert len(computed) == 3  # of the test classes, for a learner with a head of its own, too


@pytest.mark.parametrize("kind", ["all classes", "within groups", "fixed", "regression"])
def test_episodes_of_features_are_those_of_the_items(kind):
    names = tuple(f"{group}/{k}" for group in "ab" for k in range(3))
    torch.manual_seed(0)
    targets = torch.randn(24, 2) if kind == "regression" else None
    splits = {s: Split(torch.randn(24, 6), torch.full((6,), 4), tuple(s + n for n in names), targets) for s in SPLITS}
    data = Dataset.of("any", "any", splits, "vector")
    if kind == "within groups":
        data = data.within_groups("groups")
    if kind == "fixed":
        data = replace(data, fixed={"val": EpisodeShape(2, 1, 3), "test": EpisodeShape(2, 1, 3)})
    net = network(fresh_backbone(FROZEN, data.facts, 0))
    one, two = (
        d.episodes("test", 1 if targets is not None else 2, 1, 3, 0)
        for d in (data, featured(data, ["test"], net, FROZEN, on_cpu()))
    )
    assert (one.hash(5), one.classes(5), one.count) == (two.hash(5), two.classes(5), two.count)
    for step in range(5):
        x, z = one.batch(step, 1), two.batch(step, 1)
        assert torch.equal(x.support_y, z.support_y) and torch.equal(x.query_y, z.query_y)
        assert torch.allclose(net.features(net.params, x.query_x[0]), z.query_x[0], rtol=1e-5, atol=1e-6)


def test_the_gradient_through_the_adaptation_is_of_second_order(ready, folder):
    losses = {}
    for name, order in (("second", False), ("first", True)):
        job = ready("meta-train", algorithm={**MAML, "first_order": order}, backbone=FROZEN).job
        job = job.on_features(job.params)
        with torch.no_grad():
            for tensor in (job.params["head.weight"], job.params["head.bias"]):
                tensor.add_(torch.linspace(-1, 1, tensor.numel()).view_as(tensor))
        job.gradients(job.params, job.batches(0), 0)
        losses[name] = job.params["head.weight"].grad.clone()
    assert not torch.allclose(losses["first"], losses["second"], rtol=1e-2)


@pytest.mark.parametrize("how", ["as it was", "another seed", "its start is gone"])
def test_resumed_equals_uninterrupted_whatever_the_fresh_backbone_would_be(go, config, said, tensors, monkeypatch, how):
    seen, original = [], frozen.featured
    monkeypatch.setattr(
        frozen, "featured", lambda *args: seen.append({**args[2].params, **args[2].constants}) or original(*args)
    )
    start = go("transfer") if how == "its start is gone" else None
    settings = {"algorithm": MAML, "backbone": FROZEN, "init_from": start and start["id"]}
    whole = go("meta-train", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(said, "advance", lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None)
        go("meta-train", **settings)
    folder = runs.list_runs(str(Path(whole["folder"]).parents[1]))[0]["folder"]
    if start:
        shutil.rmtree(start["folder"])
    done = stages.resume(folder, said, {"seed": 1} if how == "another seed" else {})
    backbone = {n: t for n, t in tensors(whole).items() if n.startswith("backbone.")}
    assert all(torch.equal(t, tensors(done)[name]) for name, t in backbone.items())
    assert how == "another seed" or metrics(Path(folder)) == metrics(Path(whole["folder"]))
    assert len(seen) == 3 and all(torch.equal(t, seen[-1][name]) for name, t in backbone.items())


@pytest.mark.medium
def test_batch_statistics_are_never_stored(go, images, computed, said):
    backbone = {**CONV4, "norm": "batch", "train": "none"}
    go("meta-train", algorithm=MAML, backbone=backbone, steps=1)
    assert "the backbone is frozen, but runs in every step: its features depend on the whole batch" in said.notes
    go("evaluate", algorithm=NEAREST, episodes=100)
    assert not computed


def test_maps_streams_and_64_bits_run_as_before(go, images, computed, probes):
    frozen = {**CONV4, "train": "none"}
    go("evaluate", ckpt=None, data=GAUSSIAN, backbone=frozen, algorithm=OF_MAPS)
    go("evaluate", ckpt=None, data=GAUSSIAN, backbone=frozen, runtime__precision="64-true")
    assert not computed


def test_a_stream_of_tasks_has_no_items_to_compute(go, computed):
    go("meta-train", data=SINUSOID, way=1, algorithm=MAML, backbone=FROZEN, steps=1)
    assert not computed


def test_methods_that_need_items_get_them(go, computed, probes):
    teacher = go("transfer")["id"]
    go("transfer", method=DISTILLATION, teacher=teacher, backbone=FROZEN, steps=1)
    assert not computed


def test_an_evaluation_of_a_backbone_that_learns_stores_nothing_and_computes_no_more_than_it_uses(
    go, plain, computed, folder
):
    go("transfer")
    settings = {"algorithm": PROTONET, "episodes": 10}
    slow, quick = plain(go, "evaluate", **settings), go("evaluate", **settings)
    assert slow["results"] == quick["results"] and len(computed) == 1
    assert not list(folder.glob("features-*"))
    go("evaluate", **{**settings, "episodes": 2})  # fewer items than the split has
    go("evaluate", algorithm=MAML, episodes=10)  # it adapts the backbone
    assert len(computed) == 1


def test_stored_features_are_used_again_by_any_learner_and_run(go, computed, folder):
    settings = {"ckpt": None, "data": GAUSSIAN, "backbone": FROZEN}
    for algorithm in (NEAREST, PROTONET, MAML):
        go("evaluate", **settings, algorithm=algorithm)
    go("evaluate", **settings, seed=1, weights_seed=0)
    assert len(computed) == 1 and len(list(folder.glob("features-*"))) == 1
    go("evaluate", **settings, weights_seed=1)  # other tensors
    go("evaluate", **{**settings, "data": {**GAUSSIAN, "seed": 1}})
    go("evaluate", **settings, runtime__precision="bf16-mixed")
    go("evaluate", **settings, split="val")
    assert len(computed) == 5


def test_features_of_other_code_are_not_used(go, computed, monkeypatch):
    settings = {"ckpt": None, "data": GAUSSIAN, "backbone": FROZEN}
    go("evaluate", **settings)
    forward = Mlp.forward
    monkeypatch.setattr(Mlp, "forward", lambda self, x: 2 * forward(self, x))
    go("evaluate", **settings)
    assert len(computed) == 2


def test_a_damaged_file_is_computed_again(go, computed, folder, caplog):
    settings = {"ckpt": None, "data": GAUSSIAN, "backbone": FROZEN}
    first = go("evaluate", **settings)
    (file,) = folder.glob("features-*")
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, "metalearn_cli"):
        again = go("evaluate", **settings)
    assert len(computed) == 2 and "damaged" in caplog.text
    assert again["results"] == first["results"]


def test_without_a_cache_folder_they_are_computed_in_each_run(go, computed, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    settings = {"ckpt": None, "data": GAUSSIAN, "backbone": FROZEN}
    first, second = go("evaluate", **settings), go("evaluate", **settings)
    assert first["results"] == second["results"] and len(computed) == 2
    assert "set MLX_CACHE_DIR to a folder that is writable" in caplog.text


def test_nothing_is_computed_before_a_run_begins(config, computed):
    stages.check("meta-train", config("meta-train", algorithm=MAML, backbone=FROZEN))
    stages.check("evaluate", config("evaluate", ckpt=None, data=GAUSSIAN, backbone=FROZEN))
    assert not computed


def test_pretraining_that_can_change_nothing_is_refused(refused, config):
    found = refused("pretrain", backbone=FROZEN)
    assert list(found) == ["backbone.train"]
    assert "pretraining would change nothing" in found["backbone.train"]
    assert "'stages=[meta-train]' algorithm=maml" in found["backbone.train"]
    stages.check("run", config("run", stages=["meta-train"], backbone=FROZEN, meta_train__algorithm=MAML))


@pytest.mark.medium
def test_a_chain_with_a_frozen_part(go, manifest):
    done = go(
        "run", meta_train__algorithm=MAML, meta_train__backbone={"train": "none"}, backbone={**MLP, "train": "all"}
    )
    assert manifest(done)["model"]["backbone"] == FROZEN
    assert json.loads((Path(done["folder"]) / "run.json").read_text())["status"] == "completed"


def test_advice_on_another_architecture_names_no_choice_of_what_learns(go, refused):
    go("transfer", backbone=FROZEN)
    assert "backbone.train" not in refused("meta-train", init_from="latest", backbone={**MLP, "hidden": 4})["init_from"]

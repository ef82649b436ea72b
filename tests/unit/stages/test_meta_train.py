from __future__ import annotations

from pathlib import Path

import pytest
import torch
from faults.folders import metrics
from PIL import Image

from metalearn_cli import stages
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import NonFiniteError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.random import seeded
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split
from metalearn_cli.records import runs
from metalearn_cli.records.log import logging_runs
from metalearn_cli.stages import curves, session, training
from metalearn_cli.stages.learner import check_learner
from metalearn_cli.stages.session import Session

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
FOMAML = {**MAML, "first_order": True}
PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
NEAREST = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
SCRATCH = {"_target_": "metalearn_cli.algorithms.from_scratch.FromScratch"}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2}


@pytest.mark.parametrize("algorithm", [MAML, FOMAML, PROTONET], ids=["maml", "fomaml", "protonet"])
def test_learns(ready, algorithm):
    prepared = ready("meta-train", algorithm=algorithm, tasks=4)
    job, losses = prepared.job, []
    optimizer, _ = prepared.optimizer()
    for _ in range(30):  # the same batch again and again: its loss has to fall
        optimizer.zero_grad()
        losses.append(job.gradients(job.params, job.batches(0), 0)["loss"].item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_run_and_what_it_leaves_behind(go, manifest, said):
    done = go("meta-train", algorithm=MAML)
    assert done["metric"]["name"] == "val/accuracy" and 0 <= done["metric"]["value"] <= 1
    assert manifest(done)["model"] == {
        "backbone": {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8, "layers": 3},
        "shape": [6],
        "facts": {
            "kind": "vector",
            "values": "real",
            "classes": 8,
            "outputs": 0,
            "vocabulary": 0,
            "tokenizer": "",
        },
        "algorithm": MAML,
        "way": 2,
        "episode": {"way": 2, "shot": 1},
        "val_episode": {"way": 2, "shot": 1},
        "normalisation": "transductive",
    }
    assert manifest(done)["data"]["spec"]["items"] == 160
    assert manifest(done)["config_hash"] == done["key"]
    assert _lines(done) == [{"step": step, **values} for step, values in said.measured]
    assert "pid" in done and done["seconds"] > 0
    assert (Path(done["folder"]) / "mlx.log").is_file()
    assert runs.read_config(Path(done["folder"]))["algorithm"] == MAML
    assert said.notes == [
        "meta-train: cpu, 1 thread, 32-true; data gaussian (directions)",
        "2 tasks a step, 1 task at once (loop)",
    ]


@pytest.mark.parametrize("floor", [NEAREST, SCRATCH])
def test_floors_have_nothing_to_learn(refused, floor):
    name = floor["_target_"].rpartition(".")[2]
    assert refused("meta-train", algorithm=floor) == {
        "algorithm": f"{name} has nothing to meta-train; score it with: mlx evaluate algorithm=..."
    }


def test_train_way_needs_no_head(go, refused, manifest):
    found = refused("meta-train", algorithm=MAML, train_way=3)
    assert found == {"train_way": "must equal way (2) or be null: the head has one output per way, got 3"}
    assert manifest(go("meta-train", train_way=3, steps=1))["model"]["way"] is None


def test_a_learner_with_an_output_per_class_needs_the_same_way(refused):
    cavia = {"_target_": "metalearn_cli.algorithms.cavia.Cavia", "context": 2, "hidden": 3}
    found = refused("meta-train", algorithm=cavia, train_way=3)
    assert found == {"algorithm": "is Cavia, which gives answers of shape [6, 3]; expected is [6, 2]"}


def test_training_episodes_have_their_own_size(ready):
    episodes = ready("meta-train", train_way=4, train_shot=3, train_query=5).job.batches(0)
    assert episodes.support_x.shape == (2, 12, 6)
    assert episodes.query_x.shape == (2, 20, 6)
    assert ready("meta-train", shot=2).job.batches(0).support_x.shape == (2, 4, 6)


def test_impossible_episodes_of_both_splits_at_once(refused):
    found = refused("meta-train", train_way=9, way=5, train_query=11, query=12)
    assert found == {
        "train_way": "gaussian/train has 8 classes; way must be from 2 to 8",
        "train_query": "a class of gaussian/train has only 10 items; shot + query must be <= 10, got 1 + 11",
        "way": "gaussian/val has 4 classes; way must be from 2 to 4",
        "query": "a class of gaussian/val has only 10 items; shot + query must be <= 10, got 1 + 12",
    }
    assert refused("meta-train", way=9).keys() == {"way"}
    found = refused("meta-train", train_shot=8)
    assert found == {"train_shot": "a class of gaussian/train has only 10 items; shot + query must be <= 10, got 8 + 3"}


def test_16_bit_with_inner_gradients_is_refused():
    (problem,) = check_learner(build(MAML, "algorithm"), Facts("vector", (6,), "real", 2), "16-mixed")
    assert problem.key == "runtime.precision" and "use bf16-mixed or 32-true" in problem.message


def test_regression_needs_a_learner_of_numbers(refused):
    found = refused("meta-train", data=SINUSOID, way=1)
    assert found == {"algorithm": "ProtoNet classifies, but this data's targets are numbers; use maml"}


def test_regression_needs_one_way(refused):
    assert "way must be 1" in refused("meta-train", data=SINUSOID, algorithm=MAML)["way"]


def test_other_stages_refuse_regression(refused):
    assert "which transfer learns" in refused("transfer", data=SINUSOID, way=1)["data"]


def test_regression(go, manifest):
    done = go("meta-train", data=SINUSOID, algorithm={**MAML, "inner_lr": 0.01}, way=1, shot=5)
    assert done["metric"]["name"] == "val/mse"
    best = min(line["val/mse"] for line in _lines(done) if "val/mse" in line)
    assert done["metric"]["value"] == manifest(done)["metrics"]["val/mse"] == best


@pytest.fixture
def lines(monkeypatch):
    """Give every stage tasks of two numbers that are linear in three others."""
    made = {}
    for split in SPLITS:
        with seeded(0, split):
            x, weights = torch.randn(6, 8, 3), torch.randn(6, 3, 2)
        names = tuple(f"{split}{k}" for k in range(6))
        made[split] = Split(x.flatten(0, 1), torch.full((6,), 8), names, (x @ weights).flatten(0, 1))
    data = Dataset.of("lines", "by hand", made, "vector")
    monkeypatch.setattr(session, "_loaded", lambda spec: data)


def test_regression_of_several_numbers(lines, go, manifest, tensors):
    settings = {"way": 1, "shot": 3, "query": 4}
    done = go("meta-train", algorithm={**MAML, "inner_lr": 0.01}, **settings)
    assert manifest(done)["model"]["way"] == 1
    assert [t.shape for name, t in tensors(done).items() if name == "head.bias"] == [(2,)]
    scored = go("evaluate", episodes=12, **settings)
    assert scored["results"][0]["name"] == "test/mse"
    assert scored["results"][0]["over"]["tasks"] <= 6 and scored["results"][0]["interval_classes"] > 0
    assert go("evaluate", ckpt=done["id"], algorithm=SCRATCH, **settings)["results"][0]["learner"] == "from_scratch"


def _lines(done):
    return metrics(Path(done["folder"]))


@pytest.mark.parametrize(("precision", "stored"), [
    ("64-true", "float64"),
    ("bf16-mixed", "float32"),
    ("bf16-true", "bfloat16"),
])  # fmt: skip
@pytest.mark.parametrize("algorithm", [MAML, PROTONET], ids=["maml", "protonet"])
def test_precision(go, tensors, algorithm, precision, stored):
    done = go("meta-train", algorithm=algorithm, runtime__precision=precision)
    assert {str(t.dtype) for t in tensors(done).values()} == {f"torch.{stored}"}
    assert go("evaluate", runtime__precision=precision)["results"][0]["over"]["episodes"] == 6


def test_double_precision_survives_the_hand_off(go, tensors):
    first = go("transfer", runtime__precision="64-true")
    second = go("meta-train", init_from="latest", runtime__precision="64-true", optimizer__lr=0.0)
    for name, tensor in tensors(second).items():
        assert torch.equal(tensor, tensors(first)[name])
    assert not torch.equal(tensor, tensor.float().double())


def test_a_curve_is_drawn_before_and_after_adaptation(go, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "curve_picture", lambda *args: drawn.append(args))
    go("meta-train", data=SINUSOID, way=1, algorithm=MAML, steps=1)
    (((curve,), title, path),) = drawn
    assert (title, path.name) == ("a validation episode", "episode.png")
    assert not torch.equal(curve.fit.before, curve.fit.after)
    assert curve.fit.spread is None


@pytest.mark.parametrize("normalisation", ["transductive", "inductive"])
@pytest.mark.parametrize("algorithm", [MAML, PROTONET], ids=["maml", "protonet"])
def test_images_under_both_protocols(go, images, algorithm, normalisation):
    done = go("meta-train", backbone=CONV4, algorithm=algorithm, normalisation=normalisation, steps=3)
    assert done["metric"]["normalisation"] == normalisation


@pytest.mark.medium
def test_an_episode_of_images_and_the_learning_curves_are_drawn(go, images, pictures):
    done = go("meta-train", backbone=CONV4, steps=1)
    for name in ("episode", "learning_curves"):
        with Image.open(Path(done["folder"]) / "plots" / f"{name}.png") as picture:
            assert picture.format == "PNG"


def test_protocol_changes_the_training(ready, images):
    losses = []
    for normalisation in ("transductive", "inductive"):
        job = ready("meta-train", backbone=CONV4, normalisation=normalisation).job
        losses.append(job.gradients(job.params, job.batches(0), 0)["loss"].item())
    assert losses[0] != losses[1]


def test_diverging_run_fails_in_words_and_keeps_its_last_good_checkpoint(go, tmp_path, said):
    step = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gamma": 1e30}
    with pytest.raises(NonFiniteError, match="nothing was updated"):
        go("meta-train", scheduler=step, steps=9, optimizer={"_target_": "torch.optim.SGD", "lr": 0.1})
    (info,) = runs.list_runs(str(tmp_path / "runs"))
    assert info["status"] == "failed" and "NonFiniteError" in info["error"]
    assert info["step"] >= 3
    log = (Path(info["folder"]) / "mlx.log").read_text()
    assert "nothing was updated" in log and "Traceback" not in log
    assert said.finished == []


def test_crash_leaves_its_traceback_in_the_log(ready, said, tmp_path, monkeypatch):
    prepared = ready("meta-train")
    monkeypatch.setattr(training, "fit", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError), logging_runs():
        training.train(prepared, Session(), said)
    (info,) = runs.list_runs(str(tmp_path / "runs"))
    assert (info["status"], info["error"]) == ("failed", "ZeroDivisionError: division by zero")
    assert "Traceback" in (Path(info["folder"]) / "mlx.log").read_text()
    runs.reopen(Path(info["folder"])).close()  # the lock was given back


def test_facts_of_the_command_line_are_recorded(config, said):
    done = stages.run("meta-train", config("meta-train", steps=1), said, sweep="s1")
    assert done["sweep"] == "s1"


def test_same_seed_same_numbers(go, tensors):
    torch.manual_seed(1)
    one = go("meta-train", algorithm=MAML)
    torch.manual_seed(2)
    two, other = go("meta-train", algorithm=MAML), go("meta-train", algorithm=MAML, seed=1)
    assert _lines(one) == _lines(two) != _lines(other)
    assert all(torch.equal(t, tensors(two)[name]) for name, t in tensors(one).items())
    assert one["key"] == two["key"] != other["key"]


SCALED = {"_target_": "probes.algorithms.scaled.Scaled"}
RESCALED = {"_target_": "probes.algorithms.rescaled.Rescaled"}
TOGETHER = {"_target_": "probes.algorithms.together.Together"}
RUNNING = {"_target_": "probes.backbones.running.Running"}


def test_own_tensors_learn_and_are_saved(go, probes, tensors, ready):
    before = ready("meta-train", algorithm=SCALED).job.params["learner.scale"]
    after = tensors(go("meta-train", algorithm=SCALED))["learner.scale"]
    assert not torch.equal(before, after)
    frozen = {**SCALED, "rate": 0.0}
    assert torch.equal(tensors(go("meta-train", algorithm=frozen))["learner.scale"], before)


def test_own_tensors_learn_at_their_rates(go, probes, tensors, ready):
    settings = {"steps": 1, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}
    before = ready("meta-train", algorithm=SCALED).job.params
    moved = {}
    for rate in (1.0, 0.5):
        after = tensors(go("meta-train", algorithm={**SCALED, "rate": rate}, **settings))
        moved[rate] = {name: after[name] - before[name].detach() for name in after}
    assert moved[1.0]["learner.scale"].abs().max() > 1e-4
    torch.testing.assert_close(moved[0.5]["learner.scale"], 0.5 * moved[1.0]["learner.scale"], rtol=1e-3, atol=1e-7)
    assert torch.equal(moved[0.5]["backbone.blocks.0.weight"], moved[1.0]["backbone.blocks.0.weight"])


def test_own_tensors_move_on_to_the_same_learner(go, probes, tensors, said):
    first = go("meta-train", algorithm=SCALED)
    second = go("meta-train", algorithm=SCALED, init_from="latest", optimizer__lr=0.0, steps=1)
    assert torch.equal(tensors(second)["learner.scale"], tensors(first)["learner.scale"])
    assert any("of the backbone and learner, from" in note for note in said.notes)


def test_own_tensors_do_not_move_on_to_another_learner(go, probes, tensors, ready):
    """Though they are of the same names and shapes."""
    go("meta-train", algorithm=SCALED)
    second = go("meta-train", algorithm=RESCALED, init_from="latest", optimizer__lr=0.0, steps=1)
    fresh = ready("meta-train", algorithm=RESCALED).job.params["learner.scale"]
    assert torch.equal(tensors(second)["learner.scale"], fresh)
    third = go("meta-train", init_from="latest", optimizer__lr=0.0, steps=1)  # one that has none
    assert "learner.scale" not in tensors(third)
    assert torch.equal(tensors(third)["backbone.blocks.0.weight"], tensors(second)["backbone.blocks.0.weight"])


def test_own_tensors_are_those_that_are_evaluated(go, probes):
    trained = go("meta-train", algorithm=SCALED, optimizer__lr=0.1)
    again = go("evaluate", split="val", episodes=4)["results"][0]
    assert (again["learner"], again["value"]) == ("Scaled", trained["metric"]["value"])


def test_a_learner_that_uses_queries_is_transductive(refused, go, probes):
    found = refused("meta-train", algorithm=TOGETHER, normalisation="inductive")
    assert found == {"normalisation": "Together learns from the queries together; it must be transductive"}
    assert go("meta-train", algorithm=TOGETHER)["status"] == "completed"
    assert refused("evaluate", normalisation=["inductive"]) == found
    chained = refused("run", stages=["meta-train"], algorithm=TOGETHER, evaluate__normalisation=["inductive"])
    assert chained == {"evaluate.normalisation": found["normalisation"]}
    results = go("evaluate", normalisation=["inductive", "transductive"])["results"]
    assert [result["normalisation"] for result in results] == ["transductive"]


def test_a_learner_that_anneals(ready, probes, go, refused):
    annealed = {"_target_": "probes.algorithms.annealed.Annealed"}
    job = ready("meta-train", algorithm=annealed, train_query=3, steps=4).job
    losses = [job.gradients(job.params, job.batches(0), step)["loss"].item() for step in range(4)]
    assert losses[0] == pytest.approx(torch.tensor(2.0).log().item())  # at 0 all logits are 0
    assert len(set(losses)) == 4
    trained = go("meta-train", algorithm=annealed)
    again = go("evaluate", split="val", episodes=4)["results"][0]
    assert again["value"] == trained["metric"]["value"] != 0.5  # with logits of 0 it would be chance
    plain, whole = (go("evaluate", algorithm=a)["metric"]["value"] for a in (PROTONET, annealed))
    assert plain == whole  # in evaluation it is what it comes to
    found = refused("meta-train", algorithm=annealed, runtime__task_compile=True)
    assert found == {"runtime.task_compile": "Annealed changes from step to step; set it to false"}


@pytest.mark.parametrize("batching", ["loop", "threads", "vmap"])
@pytest.mark.parametrize("algorithm", [PROTONET, MAML], ids=["protonet", "maml"])
def test_running_statistics_stay_as_they_are(go, probes, tensors, algorithm, batching):
    go("pretrain", backbone=RUNNING)
    done = go(
        "meta-train",
        backbone=RUNNING,
        init_from="latest",
        algorithm=algorithm,
        optimizer__lr=0.1,
        runtime__task_batching=batching,
    )
    before, after = tensors(done["parent"]["checkpoint"]), tensors(done)
    statistics = {name for name in after if "running" in name}
    assert len(statistics) == 4 and statistics < before.keys()
    assert all(torch.equal(before[name], after[name]) for name in statistics)
    assert not torch.equal(before["backbone.layers.0.0.weight"], after["backbone.layers.0.0.weight"])


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        *(("meta-train", {"runtime__task_batching": batching}) for batching in ("loop", "threads", "vmap")),
        ("pretrain", {}),
        ("transfer", {}),
        ("evaluate", {"ckpt": None, "data": {"_target_": "metalearn_cli.data.gaussian.gaussian"}}),
    ],
)
def test_a_network_that_writes_a_buffer_in_an_episode_is_refused(refused, probes, stage, changes):
    found = refused(stage, backbone={**RUNNING, "stubborn": True}, **changes)
    names = "backbone.layers.0.1.running_mean, backbone.layers.0.1.running_var, backbone.layers.1.1.running_mean"
    told = f"the network writes its buffers {names} and 1 more within an episode; in eval mode it must not"
    assert found == {"backbone": told}


@pytest.mark.parametrize("normalisation", ["transductive", "inductive"])
def test_a_learner_of_maps(go, images, probes, normalisation):
    of_maps = {"_target_": "probes.algorithms.of_maps.OfMaps"}
    done = go("meta-train", backbone=CONV4, algorithm=of_maps, normalisation=normalisation, steps=2)
    assert done["status"] == "completed"
    assert {result["learner"] for result in go("evaluate")["results"]} == {"OfMaps"}


def test_a_learner_of_maps_needs_a_backbone_that_has_them(refused, probes):
    of_maps = {"_target_": "probes.algorithms.of_maps.OfMaps"}
    told = {"algorithm": "OfMaps compares feature maps, which only images have; use protonet, which takes any items"}
    assert refused("meta-train", algorithm=of_maps) == told  # on vectors
    mlp, data = "metalearn_cli.backbones.mlp.Mlp", "metalearn_cli.data.gaussian.gaussian"
    untrained = {"ckpt": None, "backbone": {"_target_": mlp}, "data": {"_target_": data}}
    assert refused("evaluate", **untrained, algorithm=of_maps) == told

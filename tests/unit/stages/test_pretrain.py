from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from metalearn_cli.core.errors import UserError
from metalearn_cli.models.classifier import Classifier
from metalearn_cli.stages.pretrain import _different

MODELS = {
    "autoencoder": {"_target_": "metalearn_cli.models.autoencoder.Autoencoder", "hidden": 16},
    "gan": {"_target_": "metalearn_cli.models.gan.Gan", "latent": 4, "hidden": 16},
    "classifier": {"_target_": "metalearn_cli.models.classifier.Classifier"},
}
PICTURES = {"autoencoder": {"reconstructions.png"}, "gan": {"samples.png"}, "classifier": set()}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2}
SINUSOID = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}


@pytest.mark.parametrize("model", MODELS)
def test_vectors(go, tensors, model, said):
    done = go("pretrain", model=MODELS[model], optimizer__lr=0.001)
    assert done["metric"]["name"] == "val/accuracy"
    assert all("train/loss" in values for _, values in said.measured if "train/lr" in values)
    names = {name.split(".")[0] for name in tensors(done)}
    assert "backbone" in names and len(names) > 1
    followed = go("meta-train", init_from="latest:pretrain", optimizer__lr=0.0, steps=1)
    for name, tensor in tensors(followed).items():
        assert torch.equal(tensor, tensors(done)[name])


@pytest.mark.parametrize("model", MODELS)
def test_images(go, images, model):
    done = go("pretrain", model=MODELS[model], backbone=CONV4, steps=2)
    plots = Path(done["folder"]) / "plots"
    assert {path.name for path in plots.glob("*")} == PICTURES[model]
    for name in PICTURES[model]:
        with Image.open(plots / name) as picture:
            assert picture.format == "PNG" and picture.width > 200


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("64-true", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_precision(go, images, model, precision):
    done = go("pretrain", model=MODELS[model], backbone=CONV4, steps=1, runtime__precision=precision)
    assert done["status"] == "completed"


def test_backbone_is_that_of_the_other_stages(ready):
    jobs = [ready(stage).job for stage in ("pretrain", "meta-train")]
    for name in jobs[1].params:
        assert torch.equal(*(job.params[name] for job in jobs))


@pytest.mark.parametrize(("changes", "key", "told"), [
    ({"model": {**MODELS["autoencoder"], "decoder": "conv"}}, "model.decoder", "decoder conv"),
    ({"data": SINUSOID, "way": 1}, "data", "has no classes, on which pretraining is validated; for a regression"),
    ({"backbone": CONV4}, "backbone", "is not an image"),
    ({"way": 5}, "way", "gaussian/val has 4 classes"),
])  # fmt: skip
def test_refused(refused, changes, key, told):
    assert told in refused("pretrain", **changes)[key]


RUNNING = {"_target_": "probes.backbones.running.Running"}
TEACHER = {"_target_": "probes.models.teacher.Teacher"}


@pytest.mark.parametrize("model", [*MODELS, "teacher"])
def test_running_statistics_are_trained_saved_and_scored(go, probes, images, tensors, ready, model):
    settings = {"model": {**MODELS, "teacher": TEACHER}[model], "backbone": RUNNING}
    before = ready("pretrain", **settings).job.params
    done = go("pretrain", **settings)
    after = tensors(done)
    statistics = [name for name in after if name.startswith("backbone.") and "running" in name]
    assert len(statistics) == 4
    assert not any(torch.equal(before[name], after[name]) for name in statistics)
    assert not any("num_batches_tracked" in name for name in after)
    again = go("evaluate", split="val", episodes=4)["results"][0]
    assert again["value"] == done["metric"]["value"]


def test_a_follower_is_not_trained_but_moved(go, probes, tensors, ready):
    """With a rate of 0 the student stays, and its teacher comes to be what it is."""
    job = ready("pretrain", model=TEACHER).job
    assert {name.split(".")[0] for name in job.rates} == {"backbone"}
    led = tensors(go("pretrain", model=TEACHER, optimizer__lr=0.1))
    pairs = {name: f"teacher.{name.removeprefix('backbone.')}" for name in led if name.startswith("backbone.")}
    assert {*pairs.values(), *pairs} == led.keys() and len(pairs) == 6
    for own, theirs in pairs.items():
        assert not torch.equal(led[own], job.params[own])
        assert not torch.equal(led[theirs], job.params[theirs])
        assert not torch.equal(led[own], led[theirs])
    still = tensors(go("pretrain", model=TEACHER, optimizer__lr=0.0))
    assert all(torch.allclose(still[own], still[theirs]) for own, theirs in pairs.items())


def test_a_model_without_pictures_draws_none(go, probes, images):
    done = go("pretrain", model=TEACHER, steps=1)
    assert list((Path(done["folder"]) / "plots").glob("*.png")) == []


def test_a_model_that_hides_the_backbone_is_refused(refused, monkeypatch):
    make = Classifier.__init__

    def make_and_hide(self, backbone, classes, smoothing=0.0):
        make(self, backbone, classes, smoothing)
        self.trunk = self._modules.pop("backbone")

    monkeypatch.setattr(Classifier, "__init__", make_and_hide)
    assert refused("pretrain") == {"model": "Classifier must store the backbone that it gets as self.backbone"}


def test_a_loss_that_is_no_scalar_and_a_metric_that_is_a_number(go, monkeypatch):
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, x, y: (forward(self, x, y)[0], {"half": 0.5}))
    lines = (Path(go("pretrain")["folder"]) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["train/half"] == 0.5
    monkeypatch.setattr(Classifier, "forward", lambda self, x, y: (forward(self, x, y)[0][None], {}))
    with pytest.raises(UserError, match=r"^Classifier must return a loss of shape \[\], got \[1\]$"):
        go("pretrain")


def test_pictures_that_fail_do_not_lose_the_run(go, monkeypatch, caplog):
    monkeypatch.setattr(Classifier, "pictures", lambda self, x: 1 / 0, raising=False)
    done = go("pretrain")
    assert done["status"] == "completed"
    assert "the pictures could not be drawn (ZeroDivisionError: division by zero)" in caplog.text
    assert "test_pretrain.py" in (Path(done["folder"]) / "mlx.log").read_text()  # where


def test_items_of_a_picture_are_different():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
    assert torch.equal(_different(x), x[[0, 1, 3]])


@pytest.mark.parametrize("stage", ["pretrain", "transfer", "meta-train"])
def test_a_validation_names_its_protocol(go, images, said, stage):
    mine = {"normalisation": "inductive"} if stage == "meta-train" else {}
    done = go(stage, backbone=CONV4, steps=1, **mine)
    protocol = mine.get("normalisation", "transductive")
    assert done["metric"]["normalisation"] == protocol
    assert f"the validation accuracy is {protocol}" in said.notes


def test_a_validation_without_batch_statistics_has_no_protocol(go, said):
    assert go("pretrain")["metric"]["normalisation"] == "none"
    assert not any(note.startswith("the validation") for note in said.notes)

"""Each kind of items through the whole chain: pretraining, transfer, meta-training by second-order MAML, evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from metalearn_cli.core.build import build
from metalearn_cli.core.items import Items, Kind
from metalearn_cli.core.random import seeded

AUTOENCODER = {"_target_": "metalearn_cli.models.autoencoder.Autoencoder", "hidden": 4}
CLASSIFIER = {"_target_": "metalearn_cli.models.classifier.Classifier"}
BYOL = {"_target_": "metalearn_cli.models.byol.Byol", "hidden": 4}
MASKED = {"_target_": "metalearn_cli.models.masked_autoencoder.MaskedAutoencoder", "hidden": 4}
SIMCLR = {"_target_": "metalearn_cli.models.simclr.Simclr", "hidden": 4}
VAE = {"_target_": "metalearn_cli.models.vae.Vae", "hidden": 4}
VICREG = {"_target_": "metalearn_cli.models.vicreg.Vicreg", "hidden": 4}
GAN = {"_target_": "metalearn_cli.models.gan.Gan", "latent": 2, "hidden": 4}
NEAREST = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 1, "first_order": False}


class Case(NamedTuple):
    """A backbone, and random items that it takes."""

    backbone: dict[str, Any]
    items: Items
    kind: Kind
    vocabulary: int | dict[str, int] = 0
    model: dict[str, Any] = AUTOENCODER


def backbone(name: str, **settings: Any) -> dict[str, Any]:
    built = name if name.startswith("resnet1") else name.capitalize()
    return {"_target_": f"metalearn_cli.backbones.{name}.{built}", **settings}


with seeded(0):
    TEXT = torch.randint(0, 9, (180, 5))
    SERIES = torch.randn(180, 2, 12)
    IMAGES = torch.randint(0, 256, (180, 1, 16, 16), dtype=torch.uint8)
CASES = {
    "text": Case(backbone("transformer", hidden=4, layers=1), TEXT, "text", 9, MASKED),
    "bags of words": Case(backbone("transformer", hidden=4, layers=0), TEXT, "text", 9, VICREG),
    "series": Case(backbone("cnn1d", hidden=4, layers=1, norm="running"), SERIES, "vector", model=BYOL),
    "log-mels": Case(backbone("vit", hidden=4, layers=1, patch=8), torch.randn(180, 1, 8, 16), "audio", model=VAE),
    "pairs": Case(backbone("mixed"), {"text": TEXT, "sound": SERIES}, "mixed", {"text": 9, "sound": 0}, SIMCLR),
    "images": Case(backbone("resnet18", hidden=2, norm="running"), IMAGES, "image", model=GAN),
}


@pytest.mark.parametrize("name", [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("bags of words", "series", "log-mels")),
    "text", "pairs", "images",
])  # fmt: skip
@pytest.mark.medium
def test_goes_through_the_whole_chain(name: str, go: Any, given: Any) -> None:
    case = CASES[name]
    given(case.items, case.kind, case.vocabulary)
    own = {"backbone": case.backbone, "steps": 1, "optimizer__lr": 0.001}
    first = go("pretrain", model=case.model, **own)
    second = go("transfer", init_from=first["folder"], **own)
    third = go("meta-train", algorithm=MAML, init_from=second["folder"], **own)
    assert third["parent"]["run"] == second["id"]
    done = go("evaluate", ckpt=third["folder"])
    assert 0 <= done["metric"]["value"] <= 1
    assert go("evaluate", ckpt=third["folder"])["metric"] == done["metric"]


def test_a_gan_cannot_make_text(refused: Any, given: Any) -> None:
    given(TEXT, "text", 9)
    told = refused("pretrain", model=GAN, backbone=CASES["text"].backbone)
    assert told == {"model": "gan makes numbers, but the items are text (ids); use model=autoencoder"}


def test_a_backbone_for_numbers_cannot_read_text(refused: Any, given: Any) -> None:
    given(TEXT, "text", 9)
    told = refused("meta-train", backbone=backbone("mlp"))
    assert told == {
        "backbone": "Mlp takes numbers, but the items are text (ids of shape [5]); use backbone=transformer"
    }


@pytest.mark.medium
def test_weights_from_a_file_are_what_every_stage_starts_from(go: Any, given: Any, tensors: Any, tmp_path: Any) -> None:
    """What is in the file is part of a run's key, where it lies is not; a checkpoint does not need the file."""
    given(IMAGES, "image")
    plain = backbone("resnet18", hidden=2, norm="running")
    with seeded(7):
        stored = build(plain, "backbone", shape=(1, 16, 16)).state_dict()
    path, moved = tmp_path / "w.safetensors", tmp_path / "elsewhere.safetensors"
    save_file(stored, path)
    spec = plain | {"weights": str(path)}
    own = {"steps": 1, "optimizer__lr": 0.0, "model": CLASSIFIER}

    untrained = {"ckpt": None, "algorithm": NEAREST, "data": {"_target_": "metalearn_cli.data.glyphs.glyphs"}}
    scored = go("evaluate", backbone=spec, **untrained)
    assert scored["metric"] != go("evaluate", backbone=plain, **untrained)["metric"]
    first = go("pretrain", backbone=spec, **own)
    for name, tensor in tensors(first).items():
        if name.startswith("backbone.") and "running" not in name:
            assert torch.equal(tensor, stored[name.removeprefix("backbone.")])

    path.rename(moved)
    assert 0 <= go("evaluate", ckpt=first["folder"])["metric"]["value"] <= 1
    second = go("pretrain", backbone=plain | {"weights": str(moved)}, **own)
    assert second["key"] == first["key"]
    save_file({name: tensor + 1 for name, tensor in stored.items()}, moved)
    third = go("pretrain", backbone=plain | {"weights": str(moved)}, **own)
    assert third["key"] != first["key"]


def test_a_stage_says_where_its_weights_are_from(go: Any, given: Any, said: Any, tmp_path: Any) -> None:
    given(SERIES, "vector")
    plain = backbone("cnn1d", hidden=4, layers=1)
    path = tmp_path / "w.safetensors"
    save_file(build(plain, "backbone", shape=(2, 12)).state_dict(), path)
    own = {"backbone": plain | {"weights": str(path)}, "steps": 1}
    first = go("pretrain", **own)
    assert f"backbone.weights {path}: all tensors are from this file" in said.notes
    go("transfer", init_from=first["folder"], **own)
    assert f"backbone.weights {path}: not used, as init_from has all tensors" in said.notes

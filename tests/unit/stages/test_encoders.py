"""Encoders that are not trained here, and a ResNet with running statistics, through the whole chain.

Pretraining, transfer, meta-training by second-order MAML, resuming, evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import WORDS, encoder_into, weights_into
from faults.folders import metrics

from metalearn_cli import stages
from metalearn_cli.core.random import seeded

AUTOENCODER = {"_target_": "metalearn_cli.models.autoencoder.Autoencoder", "hidden": 4}
MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.01, "inner_steps": 1, "first_order": False}
RESNET = {"_target_": "metalearn_cli.backbones.resnet18.resnet18", "hidden": 2, "norm": "running"}


@pytest.fixture(params=["vmap", pytest.param("loop", marks=pytest.mark.slow)])
def through_the_chain(
    request: pytest.FixtureRequest, go: Any, interrupted: Any, said: Any, tensors: Any
) -> Callable[[dict[str, Any]], None]:
    """Return a function that takes a backbone through all stages, with tasks batched in one way."""

    def run(backbone: dict[str, Any]) -> None:
        own = {"backbone": backbone, "optimizer__lr": 0.001}
        first = go("pretrain", model=AUTOENCODER, steps=1, **own)
        second = go("transfer", init_from=first["folder"], steps=1, **own)
        third = own | {"algorithm": MAML, "init_from": second["folder"], "runtime__task_batching": request.param}
        whole = go("meta-train", steps=2, **third)
        folder = interrupted("meta-train", stop=1, steps=2, **third)
        torch.manual_seed(7)
        done = stages.resume(folder, said, {})
        assert (done["status"], done["step"], done["parent"]["run"]) == ("completed", 2, second["id"])
        assert metrics(Path(folder)) == metrics(Path(whole["folder"]))
        one, two, before = tensors(whole), tensors(done), tensors(second)
        assert one.keys() == two.keys()
        assert all(torch.equal(t, two[name]) for name, t in one.items())
        assert any(name.startswith("backbone.") and not torch.equal(t, before[name]) for name, t in one.items())
        assert 0 <= go("evaluate", ckpt=done["folder"])["metric"]["value"] <= 1

    return run


@pytest.mark.slow
def test_a_resnet_with_running_statistics(images: Any, through_the_chain: Any) -> None:
    through_the_chain(RESNET)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_network_of_timm(name: str, images: Any, through_the_chain: Any, tmp_path: Path) -> None:
    weights = weights_into(tmp_path, name)
    through_the_chain({"_target_": "metalearn_cli.backbones.timm.Timm", "name": name, "weights": str(weights)})


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("transformers"), reason="transformers is not installed")
@pytest.mark.parametrize("kind", ["text", "image", "audio"])
def test_an_encoder_of_transformers(kind: str, given: Any, through_the_chain: Any, tmp_path: Path) -> None:
    with seeded(0):
        items = {
            "text": torch.randint(1, 1 + len(WORDS), (180, 7)),
            "image": torch.randint(0, 256, (180, 3, 16, 16), dtype=torch.uint8),
            "audio": torch.rand(180, 1, 300),
        }
    folder = encoder_into(tmp_path / "encoder", kind)
    if kind == "text":
        own = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        given(items[kind], kind, 1 + len(WORDS), own)
    else:
        given(items[kind], kind)
    through_the_chain({"_target_": "metalearn_cli.backbones.hf.Hf", "path": str(folder)})

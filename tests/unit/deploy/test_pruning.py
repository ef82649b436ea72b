"""A pruned network computes what the whole one does with the channels silenced that it has not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.components import specs

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.random import seeded
from metalearn_cli.deploy.pruning import narrower, pruned
from metalearn_cli.stages.learner import fresh_backbone

IMAGES = Facts("image", (3, 33, 35), "unit", 3)
SERIES = Facts("audio", (1, 80), "real", 3)
CHAINS: dict[str, tuple[str, dict[str, Any], Facts]] = {
    "conv4": ("conv4", {"hidden": 6}, IMAGES),
    "conv4 with strides": ("conv4", {"hidden": 6, "pool": "stride"}, IMAGES),
    "conv4 without norm": ("conv4", {"hidden": 6, "norm": "none"}, IMAGES),
    "cnn1d": ("cnn1d", {"hidden": 6}, SERIES),
    "cnn1d with running statistics": ("cnn1d", {"hidden": 6, "norm": "running"}, SERIES),
    "mlp": ("mlp", {"hidden": 6, "layers": 3}, Facts("vector", (5,), "real", 3)),
}


def trained(spec: dict[str, Any], facts: Facts) -> torch.nn.Module:
    """Return a backbone in eval mode whose tensors are all random, also those that start as ones or zeros."""
    module = fresh_backbone(spec, facts, seed=0).eval()
    with seeded(0, "tensors"), torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim == 1:
                tensor.copy_(torch.randn_like(tensor) if name.endswith("weight") else torch.rand_like(tensor) + 0.1)
    return module


def silence(module: torch.nn.Module, kept: list[torch.Tensor]) -> None:
    """Let all other channels of each block be zero."""
    for block, channels in zip(module.blocks, kept, strict=True):
        others = [channel for channel in range(6) if channel not in channels]
        norm = getattr(block, "norm", None)
        last = norm if getattr(norm, "weight", None) is not None else getattr(block, "conv", block)
        for name, tensor in last.named_parameters():
            assert name in ("weight", "bias")
            tensor[others] = 0.0


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_left_computes_what_it_did(name):
    kind, settings, facts = CHAINS[name]
    spec = specs("backbone")[kind] | settings
    module, narrow = trained(spec, facts), fresh_backbone(narrower(spec, 0.5), facts, seed=1).eval()
    tensors = pruned(module, narrow)
    narrow.load_state_dict(tensors)
    found = dict(module.state_dict())
    kept = []
    for index in range(len(module.blocks)):
        own = (t for n, t in found.items() if n.startswith(f"blocks.{index}.") and t.ndim > 1)
        kept.append(next(own).flatten(1).norm(dim=1).sort(descending=True).indices[:3].sort().values)
    with torch.no_grad():
        silence(module, kept)
        x = torch.rand(7, *facts.shape)
        whole, left = module(x), narrow(x)
    of_channels = whole.unflatten(1, (6, -1))
    assert torch.allclose(of_channels[:, kept[-1]].flatten(1), left, atol=1e-5 * float(whole.abs().max()))
    assert left.abs().max() > 0.01


def test_groups_of_channels_are_made_anew():
    spec = specs("backbone")["conv4"] | {"hidden": 16, "norm": "group"}
    narrow = fresh_backbone(narrower(spec, 0.75), IMAGES, seed=0)
    narrow.load_state_dict(pruned(trained(spec, IMAGES), narrow))
    assert narrow.blocks[0].norm.num_groups == 4


@pytest.mark.parametrize(
    ("kind", "settings", "facts"),
    [
        ("resnet12", {"hidden": 4}, IMAGES),
        ("resnet18", {"hidden": 4}, IMAGES),
        ("vit", {"hidden": 16}, Facts("image", (3, 32, 32), "unit", 3)),
        ("transformer", {"hidden": 16, "layers": 1}, Facts("text", (5,), "ids", 3, vocabulary=9)),
        ("transformer", {"hidden": 16, "layers": 0}, Facts("text", (5,), "ids", 3, vocabulary=9)),
    ],
)
def test_other_networks_are_to_be_distilled(kind, settings, facts):
    spec = specs("backbone")[kind] | settings
    narrow = fresh_backbone(narrower(spec, 0.5), facts, seed=0)
    with pytest.raises(UserError, match=r"is no plain chain of layers, so that its channels .*; type method=distill"):
        pruned(fresh_backbone(spec, facts, seed=0), narrow)


def test_a_narrower_form_has_fewer_channels():
    spec = specs("backbone")["conv4"] | {"hidden": 16}
    assert [narrower(spec, amount)["hidden"] for amount in (0.1, 0.5, 0.99)] == [14, 8, 1]
    assert narrower(spec, 0.5) == {**spec, "hidden": 8}
    assert narrower({**spec, "hidden": 12, "heads": 4}, 0.5)["hidden"] == 8  # each head has as many
    with pytest.raises(UserError, match=r"amount=0\.01 of 16 channels is none; take a larger amount"):
        narrower(spec, 0.01)
    with pytest.raises(UserError, match=r"Hf has no setting hidden.*type method=distill .* backbone=conv4"):
        narrower({"_target_": "metalearn_cli.backbones.hf.Hf", "path": "encoder"}, 0.5)

"""What every model must be: one finite loss with a gradient for each of its tensors, a function of tensors and seed.

The models are found by listing configs/model, so that a new one is tested by being there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded

FOLDER = Path(__file__).parents[2] / "configs" / "model"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CLASSES = 4
ITEMS: dict[str, Any] = {
    "images": {"shape": (1, 18, 17), "value_range": "unit", "backbone": Conv4},
    "colour images": {"shape": (3, 8, 8), "value_range": "unit", "backbone": Mlp},
    "standardised images": {"shape": (1, 16, 16), "value_range": "real", "backbone": Conv4},
    "vectors": {"shape": (6,), "value_range": "real", "backbone": Mlp},
}


def make(name: str, kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model as configured, on a narrow backbone, with a batch of well separated classes."""
    facts = ITEMS[kind]
    settings = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    with seeded(0, name, kind):
        backbone = facts["backbone"](facts["shape"], hidden=8)
        model = build(settings, "model", **(facts | {"backbone": backbone, "classes": CLASSES}))
        y = torch.arange(16) % CLASSES
        x = torch.randn(CLASSES, *facts["shape"])[y] + 0.1 * torch.randn(16, *facts["shape"])
    return model, (2 * x).sigmoid() if facts["value_range"] == "unit" else x, y


@pytest.fixture(params=[(name, kind) for name in NAMES for kind in ITEMS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    return make(*request.param)


Case = tuple[nn.Module, Tensor, Tensor]


def test_wraps_the_backbone_and_keeps_no_hidden_state(case: Case) -> None:
    model, _, _ = case
    _, params = pure(model)  # refuses hidden state
    trunk = {name for name in params if name.startswith("backbone.")}
    assert trunk == {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}


def test_loss_is_a_finite_scalar_with_a_gradient_for_every_tensor(case: Case) -> None:
    model, x, y = case
    apply, params = pure(model)
    with seeded(0, "step"):
        loss, metrics = apply(params, x, y)
    assert loss.shape == () and torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    silent = [
        n for n, g in zip(params, gradients, strict=True) if g is None or not torch.isfinite(g).all() or not g.any()
    ]
    assert silent == []
    for value in metrics.values():
        assert value.shape == () and torch.isfinite(value) and not value.requires_grad


def test_is_a_function_of_tensors_batch_and_seed(case: Case) -> None:
    model, x, y = case
    apply, params = pure(model)
    before = {name: p.detach().clone() for name, p in params.items()}
    losses = []
    for _ in range(2):
        with seeded(0, "step"):
            losses.append(apply(params, x, y)[0])
    assert torch.equal(*losses)
    assert all(torch.equal(before[name], p) for name, p in params.items())


def test_pictures_are_images_in_unit_range(case: Case) -> None:
    model, x, _ = case
    with torch.no_grad():
        pictures = model.pictures(x)
    if x.ndim != 4:
        assert pictures == {}
    for images in pictures.values():
        assert images.shape[1:] == x.shape[1:]
        assert images.min() >= 0 and images.max() <= 1


def test_learns_in_half_precision_too(case: Case) -> None:
    model, x, y = case
    loss, _ = model.bfloat16()(x.bfloat16(), y)
    loss.backward()
    assert torch.isfinite(loss)

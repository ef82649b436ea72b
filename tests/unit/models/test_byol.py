"""Against equation 2 in loops, and the teacher against a moving average by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import pure
from metalearn_cli.core.views import view
from metalearn_cli.models.byol import Byol


def byol() -> Byol:
    torch.manual_seed(0)
    model = Byol(Mlp((6,), hidden=8), hidden=8, outputs=4, momentum=0.9).double()
    with torch.no_grad():
        for tensor in model.teacher.parameters():  # as after some steps
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def test_the_loss_and_its_gradient_are_those_of_equation_2_both_ways_round() -> None:
    model, x = byol(), torch.randn(5, 6, dtype=torch.float64)
    torch.manual_seed(1)
    loss, _ = model(x, torch.zeros(5))

    torch.manual_seed(1)
    views = view(x, 0.25), view(x, 0.25)
    expected = torch.zeros((), dtype=torch.float64)
    said = model.predictor(model.projector(model.backbone(torch.cat(views))))
    taught = model.teacher["projector"](model.teacher["backbone"](torch.cat(views))).detach()
    for told, meant in zip(said, taught.roll(5, 0), strict=True):  # of the other view
        expected = expected + (told / told.norm() - meant / meant.norm()).square().sum() / 5
    torch.testing.assert_close(loss, expected)
    learning = {n: p for n, p in model.named_parameters() if not n.startswith("teacher.")}
    for one, two in zip(
        torch.autograd.grad(loss, list(learning.values())),
        torch.autograd.grad(expected, list(learning.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_teacher_follows_more_and_more_slowly(progress: float) -> None:
    model = byol()
    _, tensors = pure(model)
    share = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    followed = model.follow(tensors, progress)
    assert followed.keys() == {n for n in tensors if n.startswith("teacher.")}
    for name, tensor in followed.items():
        own = tensors[name.removeprefix("teacher.")]
        torch.testing.assert_close(tensor, share * tensors[name] + (1 - share) * own)


def test_running_statistics_are_followed_and_tables_of_indices_are_not() -> None:
    backbone = Mlp((6,), hidden=8)
    backbone.register_buffer("mean", torch.ones(3))
    backbone.register_buffer("places", torch.arange(3))
    model = Byol(backbone, hidden=8, outputs=4)
    followed = model.follow(pure(model)[1], 0.5)
    assert "teacher.backbone.mean" in followed and "teacher.backbone.places" not in followed


@pytest.mark.medium
def test_items_do_not_collapse_into_one() -> None:
    torch.manual_seed(0)
    model = Byol(Conv4((1, 16, 16), hidden=8), hidden=16, outputs=8)
    x = (torch.rand(32, 1, 4, 4) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    apply, tensors = pure(model, training=True)
    led = model.follow(tensors, 0.0)
    optimizer = torch.optim.Adam([p for n, p in tensors.items() if n not in led], lr=1e-3)
    for step in range(30):
        optimizer.zero_grad()
        loss, metrics = apply(tensors, x, None)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, tensor in model.follow(tensors, step / 30).items():
                tensors[name].copy_(tensor)
    assert metrics["spread"] > 0.2
    nn.init.zeros_(model.teacher["projector"][-1].weight)
    assert model(x, None)[1]["spread"] == 0


@pytest.mark.parametrize(("name", "value"), [("hidden", 0), ("outputs", 1), ("momentum", 1.0), ("strength", 0.0)])
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        build({"_target_": "metalearn_cli.models.byol.Byol", name: value}, "model", backbone=Mlp((3,)))

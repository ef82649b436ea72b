"""Against the paper's algorithm 1 in loops over dimensions."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.views import view
from metalearn_cli.models.vicreg import Vicreg


def test_the_loss_and_its_gradient_are_those_of_algorithm_1() -> None:
    torch.manual_seed(0)
    model = Vicreg(Mlp((6,), hidden=8), hidden=8, outputs=4, invariance=3.0, variance=5.0, covariance=2.0).double()
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.manual_seed(1)
    loss, _ = model(x, torch.zeros(7))

    torch.manual_seed(1)
    one, two = model.projector(model.backbone(torch.cat([view(x, 0.25), view(x, 0.25)]))).chunk(2)
    expected = 3.0 * ((one - two) ** 2).mean()
    for z in (one, two):
        columns = z.unbind(1)
        lacking = [torch.clamp(1 - torch.sqrt(c.var() + 1e-4), min=0) for c in columns]
        covariances = [
            ((a - a.mean()) * (b - b.mean())).sum() / 6
            for i, a in enumerate(columns)
            for j, b in enumerate(columns)
            if i != j
        ]
        expected = expected + 5.0 * sum(lacking) / 4 / 2 + 2.0 * sum(c**2 for c in covariances) / 4
    torch.testing.assert_close(loss, expected)
    tensors = list(model.parameters())
    for first, second in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", 0), ("outputs", 1), ("invariance", -1.0), ("variance", -1.0), ("covariance", -1.0), ("strength", 1.0)],
)
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        build({"_target_": "metalearn_cli.models.vicreg.Vicreg", name: value}, "model", backbone=Mlp((3,)))

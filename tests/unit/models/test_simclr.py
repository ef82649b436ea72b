"""Against equation 1 in loops."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.views import view
from metalearn_cli.models.simclr import Simclr


def test_the_loss_and_its_gradient_are_those_of_equation_1() -> None:
    torch.manual_seed(0)
    model = Simclr(Mlp((6,), hidden=8), hidden=8, outputs=4, temperature=0.5).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.manual_seed(1)
    loss, metrics = model(x, torch.zeros(5))

    torch.manual_seed(1)
    views = torch.cat([view(x, 0.25), view(x, 0.25)])
    z = model.projector(model.backbone(views))
    similarity = [[torch.dot(a, b) / (a.norm() * b.norm()) / 0.5 for b in z] for a in z]
    terms, found = [], 0
    for i in range(10):
        j = (i + 5) % 10
        others = [similarity[i][k] for k in range(10) if k != i]
        terms.append(-similarity[i][j] + torch.stack(others).exp().sum().log())
        found += similarity[i][j] == max(others)
    expected = sum(terms) / 10
    torch.testing.assert_close(loss, expected)
    assert metrics["found"].item() == pytest.approx(found / 10)
    tensors = list(model.parameters())
    for one, two in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(("name", "value"), [("hidden", 0), ("outputs", 1), ("temperature", 0.0), ("strength", 1.0)])
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        build({"_target_": "metalearn_cli.models.simclr.Simclr", name: value}, "model", backbone=Mlp((3,)))

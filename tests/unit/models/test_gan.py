from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import network, pure
from metalearn_cli.models import gan
from metalearn_cli.models.gan import Gan


def model_and_items(gamma: float = 0.5) -> tuple[Gan, torch.Tensor]:
    torch.manual_seed(0)
    model = Gan(Mlp((3,), hidden=16), (3,), "real", latent=2, hidden=8, gamma=gamma).double()
    return model, torch.randn(48, 3, dtype=torch.float64)


def score(model: Gan, x: torch.Tensor) -> torch.Tensor:
    return model.critic(model.backbone(x))[:, 0]


def test_the_gradient_is_each_players_own() -> None:
    model, x = model_and_items(gamma=0.0)
    apply, params = pure(model)
    torch.manual_seed(1)
    loss, metrics = apply(params, x, None)
    learning = {name: p for name, p in params.items() if name not in model.follow(params, 0.0)}
    gradients = dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))

    torch.manual_seed(1)
    x = x[:12]  # a quarter of the batch
    fake = model._made(model.generator, x)
    for own, player_loss in (
        (("backbone.", "critic."), softplus(score(model, fake.detach()) - score(model, x)).mean()),
        (("generator.",), softplus(score(model, x) - score(model, fake)).mean()),
    ):
        tensors = {name: p for name, p in model.named_parameters() if name.startswith(own)}
        for name, expected in zip(tensors, torch.autograd.grad(player_loss, list(tensors.values())), strict=True):
            torch.testing.assert_close(gradients[name], expected)
        assert any(metric == player_loss for metric in metrics.values())


def test_the_loss_is_the_discriminators_with_its_penalty() -> None:
    model, x = model_and_items(gamma=0.5)
    loss, metrics = model(x, None)
    assert loss.item() == pytest.approx((metrics["discriminator"] + 0.25 * metrics["penalty"]).item())


def test_the_penalty_estimates_the_squared_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "SIGMA", 1e-4)
    model, _ = model_and_items()
    x = torch.randn(20_000, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(score(model, x).sum(), x)
    _, estimate = model._score(x.detach(), len(x))
    assert estimate.mean().item() == pytest.approx(gradient.square().sum(1).mean().item(), rel=0.05)


@pytest.mark.medium
def test_the_penalty_is_near_the_exact_one_at_its_own_sigma() -> None:
    # R1 of a score whose batch statistics are held fixed, by autograd in float64; the estimate in float32, as trained
    for seed in range(3):
        torch.manual_seed(seed)
        model = Gan(Conv4((1, 16, 16), hidden=8), (1, 16, 16), "unit")
        x = (torch.rand(64, 1, 4, 4) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
        estimates = torch.stack([model._score(x, len(x))[1].mean() for _ in range(20)])
        exact, copy = model.double(), x.double().requires_grad_()
        net = network(exact.backbone, None)
        features = net.features(net.params, torch.cat([x.double(), copy]), reference=len(x))[len(x) :]
        (slope,) = torch.autograd.grad(exact.critic(features).sum(), copy)
        ratio = estimates.mean().item() / slope.square().flatten(1).sum(1).mean().item()
        assert 0.8 < ratio < 1.25, ratio


def test_items_are_scored_by_the_statistics_of_the_real_ones_alone() -> None:
    torch.manual_seed(0)
    model = Gan(Conv4((1, 16, 16), hidden=8), (1, 16, 16), "unit").double()
    real, made = torch.rand(2, 6, 1, 16, 16, dtype=torch.float64)
    scores = model._score(torch.cat([real, made]), 6)[0]
    torch.testing.assert_close(scores[:6], score(model, real))
    torch.testing.assert_close(scores[6:7], model._score(torch.cat([real, made[:1]]), 6)[0][6:])


def test_the_mean_generator_moves_a_fiftieth_of_the_way_to_the_generator() -> None:
    model, _ = model_and_items()
    _, params = pure(model)
    before = {name: torch.zeros_like(p) if name.startswith("mean_") else p for name, p in params.items()}
    followed = model.follow(before, 0.5)
    assert {name for name in params if name.startswith("mean_generator.")} == followed.keys()
    for name, tensor in followed.items():
        torch.testing.assert_close(tensor, params[name.removeprefix("mean_")] / 50)


@pytest.mark.medium
def test_learns_where_the_items_lie() -> None:
    torch.manual_seed(0)
    model = Gan(Mlp((2,), hidden=32), (2,), "real", latent=4, hidden=32, gamma=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))
    centre = torch.tensor([2.0, -1.0])
    for _ in range(300):
        optimizer.zero_grad()
        model(centre + 0.2 * torch.randn(256, 2), None)[0].backward()
        optimizer.step()
        model.load_state_dict(model.follow(dict(model.named_parameters()), 0.0), strict=False)
    assert (model.generate(torch.zeros(500, 2)).mean(0) - centre).norm() < 0.3


@pytest.mark.parametrize(("name", "value"), [("latent", 0), ("hidden", 0), ("gamma", -1.0)])
def test_refuses(name: str, value: float) -> None:
    spec = {"_target_": "metalearn_cli.models.gan.Gan", name: value}
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        build(spec, "model", backbone=Mlp((3,)), shape=(3,), value_range="real")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"shape": (3,), "value_range": "ids"}, r"gan makes numbers, but the items are text .*; use model=autoencoder"),
        ({"shape": {"a": (3,), "b": (2,)}, "value_range": {"a": "real", "b": "real"}}, "use model=classifier"),
    ],
)
def test_items_that_it_cannot_make_are_refused_with_a_model_for_them(facts: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "metalearn_cli.models.gan.Gan"}, "model", backbone=Mlp((3,)), **facts)

"""Against torch's own distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.backbones.transformer import Transformer
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.models.vae import Vae

IMAGE = (1, 4, 5)


def vae(shape: tuple[int, ...], values: str, **settings: object) -> Vae:
    torch.manual_seed(0)
    return Vae(Mlp(shape, hidden=8), shape, values, latent=3, hidden=8, **settings).double()


def plain(model: Vae, x: torch.Tensor) -> torch.Tensor:
    """Return minus the bound per value: an item at a time, by distributions."""
    torch.manual_seed(1)
    noise = torch.randn(len(x), 3, dtype=x.dtype)
    total = torch.zeros((), dtype=x.dtype)
    for item, own in zip(x, noise, strict=True):
        z = model.moments(model.backbone(item[None]))[0]
        code = Normal(z[:3], (z[3:] / 2).exp())
        made = model.decoder((code.mean + code.stddev * own)[None])[0]
        if model.values == "unit":
            likelihood = Bernoulli(logits=made, validate_args=False).log_prob(item).sum()
        else:  # without the constant of a normal distribution
            likelihood = (Normal(made, 0.5**0.5).log_prob(item) + 0.5 * torch.log(torch.tensor(torch.pi))).sum()
        divergence = kl_divergence(code, Normal(torch.zeros(3).double(), 1.0)).sum()
        total = total + (model.beta * divergence - likelihood) / item.numel()
    return total / len(x)


@pytest.mark.parametrize(("shape", "values"), [(IMAGE, "unit"), ((6,), "real")])
def test_the_loss_is_minus_the_bound_and_so_is_its_gradient(shape: tuple[int, ...], values: str) -> None:
    model, x = vae(shape, values, beta=0.5), torch.rand(5, *shape, dtype=torch.float64)
    expected = plain(model, x)
    torch.manual_seed(1)
    loss, _ = model(x, torch.zeros(5))
    torch.testing.assert_close(loss, expected)
    tensors = list(model.parameters())
    for one, two in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, two)


def test_of_a_text_the_divergence_is_shared_by_its_tokens() -> None:
    torch.manual_seed(0)
    backbone = Transformer(Facts("text", (5,), "ids", 2, vocabulary=7), hidden=8, layers=0)
    model = Vae(backbone, (5,), "ids", vocabulary=7, latent=3, hidden=8).double()
    x = torch.tensor([[2, 2, 6, 0, 0], [1, 3, 3, 3, 2], [0, 0, 0, 0, 0]])
    _, metrics = model(x, torch.zeros(3))
    mean, log_variance = model.moments(model.backbone(x)).chunk(2, 1)
    each = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0)).sum(1)
    torch.testing.assert_close(metrics["divergence"], (each / torch.tensor([3, 5, 1])).mean().detach())
    assert model.pictures(x) == {} and set(model.measures(x)) == {"perplexity"}


def test_draws_samples_and_reconstructions() -> None:
    model, x = vae(IMAGE, "unit"), torch.rand(6, *IMAGE, dtype=torch.float64)
    with torch.no_grad():
        drawn = model.pictures(x)
    assert drawn["samples"].shape == x.shape
    assert torch.equal(drawn["reconstructions"]["image"], x)
    torch.testing.assert_close((drawn["reconstructions"]["rebuilt"] - x).square().mean(), model.measures(x)["mse"])


@pytest.mark.parametrize(("name", "value"), [("latent", 0), ("hidden", 0), ("beta", -1.0)])
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        spec = {"_target_": "metalearn_cli.models.vae.Vae", name: value}
        build(spec, "model", backbone=Mlp((3,)), shape=(3,), value_range="real")

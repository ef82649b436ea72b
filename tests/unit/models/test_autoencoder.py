from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, mse_loss

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.backbones.transformer import Transformer
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.models.autoencoder import Autoencoder

IMAGE = (1, 9, 9)


def autoencoder(shape: tuple[int, ...], value_range: str, **settings: object) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(Mlp(shape, hidden=8), shape, value_range, hidden=8, **settings)


def test_unit_values_are_scored_by_cross_entropy() -> None:
    model, x = autoencoder(IMAGE, "unit", jitter=0.0), torch.rand(4, *IMAGE)
    loss, metrics = model(x, torch.zeros(4))
    rebuilt = model.decoder(model.backbone(x)).sigmoid()
    torch.testing.assert_close(loss, binary_cross_entropy(rebuilt, x))
    torch.testing.assert_close(metrics["mse"], mse_loss(rebuilt, x).detach())


def test_real_values_are_scored_by_squared_error() -> None:
    model, x = autoencoder((6,), "real"), 10 * torch.randn(4, 6)
    loss, _ = model(x, torch.zeros(4))
    torch.testing.assert_close(loss, mse_loss(model.decoder(model.backbone(x)), x))


def seen_by_backbone(model: Autoencoder, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x, torch.zeros(len(x)))
    return seen[0]


def test_noise_has_the_standard_deviation_it_says() -> None:
    x = torch.zeros(500, 6)
    assert (seen_by_backbone(autoencoder((6,), "real", noise=0.5), x) - x).std() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(seen_by_backbone(autoencoder((6,), "real"), x), x)


def test_jitter_moves_each_image_in_its_own_way_and_the_target_stays() -> None:
    x = torch.zeros(2, *IMAGE)
    x[:, :, 3:6, 3:6] = 1.0
    model = autoencoder(IMAGE, "unit", jitter=0.3)
    seen = seen_by_backbone(model, x)
    assert not torch.allclose(seen[0], seen[1], atol=0.05)
    assert not torch.allclose(seen[0], x[0], atol=0.05)
    torch.testing.assert_close(seen_by_backbone(autoencoder(IMAGE, "unit", jitter=1e-6), x), x, atol=1e-4, rtol=0)

    class Perfect(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return 100 * (2 * x - 1)

    model.decoder = Perfect()
    assert model(x, torch.zeros(2))[0] == pytest.approx(0, abs=1e-6)


def text_autoencoder(**settings: object) -> Autoencoder:
    torch.manual_seed(0)
    backbone = Transformer(Facts("text", (5,), "ids", 2, vocabulary=7), hidden=8, layers=0)
    return Autoencoder(backbone, (5,), "ids", vocabulary=7, hidden=8, **settings)


def test_a_text_is_scored_by_the_cross_entropy_with_the_frequencies_of_its_tokens() -> None:
    model, x = text_autoencoder(token_dropout=0.0), torch.tensor([[2, 2, 6, 0, 0], [1, 3, 3, 3, 2], [0, 0, 0, 0, 0]])
    loss, metrics = model(x, torch.zeros(3))
    logits = model.decoder(model.backbone(x))
    wanted = torch.tensor([[0, 2, 0, 0, 0, 1], [1, 1, 3, 0, 0, 0]]) / torch.tensor([[3], [5]])
    torch.testing.assert_close(loss, cross_entropy(logits[:2], wanted) * 2 / 3)  # the text without tokens adds none
    torch.testing.assert_close(metrics["perplexity"], loss.detach().exp())
    assert model.pictures(x) == {}


def test_token_dropout_hides_its_share_of_the_tokens() -> None:
    x = torch.randint(1, 7, (500, 5))
    seen = seen_by_backbone(text_autoencoder(token_dropout=0.4), x)
    assert ((seen == x) | (seen == 0)).all()
    assert (seen == 0).float().mean() == pytest.approx(0.4, abs=0.03)
    assert torch.equal(seen_by_backbone(text_autoencoder(token_dropout=0.0), x), x)


def test_pictures_show_images_and_what_is_rebuilt() -> None:
    model, x = autoencoder(IMAGE, "unit"), torch.rand(16, *IMAGE)
    with torch.no_grad():
        images = model.pictures(x)["reconstructions"]
        rebuilt = model.decoder(model.backbone(x)).sigmoid()
    assert list(images) == ["original", "rebuilt"]
    assert torch.equal(images["original"], x) and torch.equal(images["rebuilt"], rebuilt)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((6,), {"decoder": "conv"}, r"^model\.decoder: decoder conv draws images"),
        ((6,), {"decoder": "linear"}, r"^model\.decoder: must be one of auto, conv, dense, got 'linear'"),
        (IMAGE, {"hidden": 0}, r"^model\.hidden: must be a whole number >= 1, got 0"),
        (IMAGE, {"noise": -1.0}, r"^model\.noise: must be a number >= 0"),
        (IMAGE, {"jitter": float("nan")}, r"^model\.jitter: must be a number >= 0"),
        ((6,), {"token_dropout": 1.0}, r"^model\.token_dropout: must be a number >= 0 and < 1"),
    ],
)
def test_refuses(shape: tuple[int, ...], settings: dict, message: str) -> None:
    spec = {"_target_": "metalearn_cli.models.autoencoder.Autoencoder", **settings}
    with pytest.raises(ConfigError, match=message):
        build(spec, "model", backbone=Mlp(shape, hidden=8), shape=shape, value_range="unit")


def test_items_of_several_parts_are_refused_with_a_model_that_takes_them() -> None:
    with pytest.raises(ConfigError, match=r"items of one part, and these have several \(a, b\); use model=classifier"):
        spec = {"_target_": "metalearn_cli.models.autoencoder.Autoencoder"}
        parts = {"shape": {"a": (2,), "b": (3,)}, "value_range": {"a": "real", "b": "real"}}
        build(spec, "model", backbone=Mlp((2,)), **parts)


@pytest.mark.parametrize(("shape", "value_range"), [(IMAGE, "unit"), ((6,), "real")])
def test_learns_to_rebuild(shape: tuple[int, ...], value_range: str) -> None:
    model = autoencoder(shape, value_range)
    x = torch.rand(4, *shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, metrics = model(x, torch.zeros(4))
        loss.backward()
        optimizer.step()
        errors.append(metrics["mse"].item())
    assert errors[-1] < 0.5 * errors[0]

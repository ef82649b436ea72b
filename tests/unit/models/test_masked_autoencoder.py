"""What is hidden is what counts; the losses against loops over values."""

from __future__ import annotations

import math

import pytest
import torch

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.backbones.transformer import Transformer
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.models.masked_autoencoder import MaskedAutoencoder

SHAPES = {"image": (2, 7, 10), "series": (2, 11), "vector": (9,)}


def masked(shape: tuple[int, ...], values: str, **settings: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(Mlp(shape, hidden=8), shape, values, hidden=8, **settings).double()


@pytest.mark.parametrize("values", ["unit", "real"])
@pytest.mark.parametrize("kind", SHAPES)
def test_only_hidden_values_count_and_the_backbone_sees_the_others(kind: str, values: str) -> None:
    shape = SHAPES[kind]
    model, x = masked(shape, values, patch=3), torch.rand(4, *shape, dtype=torch.float64) + 0.01
    seen: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    loss, _ = model(x, torch.zeros(4))
    rebuilt = model.decoder(model.backbone(seen[0]))
    expected = torch.zeros((), dtype=torch.float64)
    for made, shown, item in zip(rebuilt.flatten(1), seen[0].flatten(1), x.flatten(1), strict=True):
        terms = []
        for m, s, value in zip(made, shown, item, strict=True):
            assert s in (0, value)
            if s == 0:
                p = m.sigmoid()
                likelihood = value * p.log() + (1 - value) * (1 - p).log()
                terms.append(-likelihood if values == "unit" else (m - value) ** 2)
        expected = expected + sum(terms) / max(len(terms), 1) / 4
    torch.testing.assert_close(loss, expected)
    tensors = list(model.parameters())
    for one, two in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, two)


def test_hides_whole_patches_of_all_channels_and_its_share() -> None:
    model = masked((3, 8, 6), "unit", patch=3, share=0.3)
    hidden = model._drawn(torch.rand(300, 3, 8, 6))
    assert hidden.shape == (300, 1, 8, 6)
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.04)
    for rows, columns in ((slice(0, 3), slice(3, 6)), (slice(6, 8), slice(0, 3))):
        patch = hidden[:, :, rows, columns].flatten(1)
        assert torch.equal(patch.all(1), patch.any(1))
    assert (hidden[:, :, 2] != hidden[:, :, 3]).any()


def test_of_a_text_the_bag_of_the_hidden_tokens_is_rebuilt() -> None:
    torch.manual_seed(0)
    backbone = Transformer(Facts("text", (5,), "ids", 2, vocabulary=7), hidden=8, layers=0)
    model = MaskedAutoencoder(backbone, (5,), "ids", vocabulary=7, hidden=8).double()
    x = torch.tensor([[2, 2, 6, 0, 0], [1, 3, 3, 3, 2], [0, 0, 0, 0, 0]])
    hidden = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()
    model._drawn = lambda x: hidden  # type: ignore[method-assign]
    loss, _ = model(x, torch.zeros(3))
    likely = model.decoder(model.backbone(x * ~hidden)).log_softmax(1)
    expected = -((likely[0, 1] + likely[0, 5]) / 2 + likely[1, 2]) / 3  # the text without tokens adds none
    torch.testing.assert_close(loss, expected)
    assert model.pictures(x) == {} and set(model.measures(x)) == {"perplexity"}


def test_pictures_show_what_is_seen() -> None:
    model, x = masked((1, 8, 8), "unit", share=0.5), torch.rand(16, 1, 8, 8, dtype=torch.float64) + 0.01
    with torch.no_grad():
        images = model.pictures(x)["reconstructions"]
    assert list(images) == ["image", "seen", "rebuilt"]
    assert ((images["seen"] == x) | (images["seen"] == 0)).all()
    assert (images["seen"] == 0).float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert math.isfinite(model.measures(x)["mse"])


@pytest.mark.parametrize(("name", "value"), [("hidden", 0), ("share", 0.0), ("share", 1.0), ("patch", 0)])
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.{name}: must be .* got {value}"):
        spec = {"_target_": "metalearn_cli.models.masked_autoencoder.MaskedAutoencoder", name: value}
        build(spec, "model", backbone=Mlp((3,)), shape=(3,), value_range="real")

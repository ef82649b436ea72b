from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.transformer import Transformer
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.random import seeded
from metalearn_cli.stages.learner import fresh_backbone

TEXT = Facts("text", (6,), "ids", 4, vocabulary=9)
SPEC = {"_target_": "metalearn_cli.backbones.transformer.Transformer"}


def made(**settings: int) -> Transformer:
    with seeded(0, "backbone"):
        return Transformer(TEXT, **{"hidden": 8, **settings}).double()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_padding_does_not_count(layers: int) -> None:
    network = made(layers=layers)
    ids = torch.tensor([[3, 1, 4, 0, 0, 0]])
    with torch.no_grad():
        padded = network(ids)
        network.embedding.tokens[0] = 100.0  # the row of padding
        assert torch.equal(network(ids), padded)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_text_without_tokens_has_the_features_zero_and_finite_gradients(layers: int) -> None:
    network = made(layers=layers)
    z = network(torch.tensor([[0] * 6, [1] * 6]))
    assert torch.equal(z[0], torch.zeros(8).double()) and z[1].any()
    z.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_without_layers_it_is_the_mean_of_normalised_embeddings() -> None:
    network = made(layers=0)
    rows = network.norm(network.embedding.tokens[[3, 1, 3]])
    torch.testing.assert_close(network(torch.tensor([[3, 1, 3, 0, 0, 0]]))[0], rows.mean(0))


def test_the_order_of_tokens_matters_with_layers_alone() -> None:
    one, other = torch.tensor([[1, 2, 3, 0, 0, 0]]), torch.tensor([[3, 2, 1, 0, 0, 0]])
    for layers in (0, 1):
        network = made(layers=layers)
        assert torch.allclose(network(one), network(other)) is (layers == 0)


def test_attention_is_that_of_torch() -> None:
    network = made(layers=1)
    block, x = network.layers[0], torch.randn(2, 6, 8).double()
    mask = torch.tensor([[0.0] * 6, [0.0] * 3 + [-1e4] * 3]).double()[:, None, None]
    q, k, v = (t.unflatten(2, (4, 2)).transpose(1, 2) for t in block.qkv(x).chunk(3, -1))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = block.proj(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(block._attended(x, mask), expected)


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        (Facts("image", (1, 8, 8), "unit", 4), "use backbone=conv4"),
        (Facts("vector", (8,), "real", 4), "use backbone=mlp, or cnn1d for series"),
        (Facts("vector", (2, 8), "real", 4), "use backbone=cnn1d"),
        (Facts("mixed", {"a": (2,), "b": (3,)}, {"a": "ids", "b": "real"}, 4, 0, {"a": 3, "b": 0}), "backbone=mixed"),
    ],
)
def test_items_that_are_no_text_are_refused_with_what_takes_them(facts: Facts, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"needs text \(ids \[L\]\); .*{advice}$"):
        fresh_backbone(SPEC, facts, 0)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^backbone\.heads: heads 3 must divide hidden 64"):
        fresh_backbone(SPEC | {"heads": 3}, TEXT, 0)


@pytest.mark.medium
def test_the_gradient_of_embeddings_is_the_same_each_time_with_two_threads() -> None:
    network = Transformer(Facts("text", (32,), "ids", 4, vocabulary=300), hidden=64, layers=1)
    ids, found = torch.randint(0, 300, (128, 32), generator=torch.Generator().manual_seed(0)), []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(20):
            network.zero_grad()
            network(ids).square().sum().backward()
            assert network.embedding.tokens.grad is not None
            found.append(network.embedding.tokens.grad.clone())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(grad, found[0]) for grad in found)

"""Fine-tuning at test against a module that torch trains, and its views."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from metalearn_cli.algorithms import finetune_at_test
from metalearn_cli.algorithms.finetune_at_test import FinetuneAtTest, _view
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.engine.episodes import Learner, answered

Y = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture
def backbone() -> Mlp:
    with seeded(0, "finetune_at_test"):
        return Mlp((4,), hidden=8, layers=3).double()


@pytest.fixture
def items() -> tuple[Tensor, Tensor]:
    with seeded(0, "items"):
        return torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)


def distances(z: Tensor, support: Tensor) -> Tensor:
    """Return the squared distance of each item to the mean of each class."""
    means = torch.stack([support[Y == k].mean(0) for k in range(3)])
    return torch.cdist(z, means).square()


def test_equals_a_plain_training_of_the_backbone(backbone: Mlp, items: tuple[Tensor, Tensor]) -> None:
    x, queries = items
    learner = Learner(FinetuneAtTest(lr=0.05, steps=4, spread=0.3), network(backbone), {}, 3, "transductive")
    found = answered(learner, x, Y, queries)
    plain = copy.deepcopy(backbone)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    generator = Generator().manual_seed(0)
    for _ in range(4):
        view = x + 0.3 * torch.randn(1, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        cross_entropy(-distances(plain(view), plain(x)), Y).backward()
        optimizer.step()
    torch.testing.assert_close(found.detach(), -distances(plain(queries), plain(x)).detach())
    before = answered(learner._replace(algorithm=ProtoNet()), x, Y, queries)
    assert (found - before).abs().max() > 0.01


def test_without_a_step_size_it_is_protonet_and_takes_no_step(
    backbone: Mlp, items: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_at_test, "descend", None)
    learner = Learner(FinetuneAtTest(lr=0.0), network(backbone), {}, 3, "transductive")
    x, queries = items
    expected = answered(learner._replace(algorithm=ProtoNet()), x, Y, queries)
    assert torch.equal(answered(learner, x, Y, queries), expected)


def test_only_the_last_blocks_change(backbone: Mlp, items: tuple[Tensor, Tensor]) -> None:
    net = network(backbone)
    state = FinetuneAtTest(blocks=1).adapt(net, {}, items[0], Y, 3)
    assert state.keys() == {*net.blocks[-1], "prototypes", "counts"}
    assert all(not torch.equal(state[name], net.params[name]) for name in net.blocks[-1])


def test_blocks_that_are_not_there_are_refused(backbone: Mlp) -> None:
    with pytest.raises(ConfigError, match=r"^algorithm\.blocks: must be at most 3, the backbone's .*, got 4$"):
        FinetuneAtTest(blocks=4).init(network(backbone), 3)


def test_a_frozen_backbone_is_refused(backbone: Mlp) -> None:
    with pytest.raises(ConfigError, match="nothing to fine-tune: the backbone is frozen; use protonet"):
        FinetuneAtTest().init(network(backbone.requires_grad_(False)), 3)


def images() -> Tensor:
    with seeded(0, "images"):
        return torch.rand(3, 2, 8, 8)


@pytest.mark.parametrize("x", [images(), torch.ones(3, 20, dtype=torch.long), torch.ones(3, 1, 20)])
def test_a_view_changes_all_items_in_the_same_way(x: Tensor) -> None:
    views = [_view(part, 0.3, Generator().manual_seed(1)) for part in (x, x.flip(0))]
    assert views[0].dtype == x.dtype and views[0].shape == x.shape
    assert not torch.equal(views[0], x)
    torch.testing.assert_close(views[0].flip(0), views[1])
    assert torch.equal(_view(x, 0.3, Generator().manual_seed(1)), views[0])
    assert not torch.equal(_view(x, 0.3, Generator().manual_seed(2)), views[0])

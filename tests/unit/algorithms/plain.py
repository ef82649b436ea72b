"""What the tests of learners share: a learner on a small network in float64, its tasks, and the comparison with others.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.items import Items
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Algorithm, Episode
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.stages.learner import fresh_learner

WAY, SHOT, QUERY, OUTPUTS, SIZE = 3, 2, 2, 2, 5


def learner_of(algorithm: Algorithm, way: int = WAY, backbone: nn.Module | None = None, hidden: int = 8) -> Learner:
    """Return a learner on a backbone, an MLP without another one, whose own tensors are not those it starts with."""
    with seeded(0, "network"):
        net = network(backbone or Mlp((SIZE,), hidden=hidden))
        learner = fresh_learner(algorithm, net, way, "inductive", seed=0)
        own = {f"learner.{n}": t.detach() + 0.1 * torch.randn_like(t) for n, t in learner.own.items()}
    tensors = learner.tensors | own
    return learner.of({n: t.detach().double().requires_grad_() for n, t in tensors.items()})


def classes(*shape: int) -> Episode:
    """Return a task of telling classes apart, its items in no order."""
    with seeded(0, "classes"):
        items = [torch.randn(WAY * n, *(shape or (SIZE,)), dtype=torch.float64) for n in (SHOT, QUERY)]
        labels = [torch.randperm(WAY * n) % WAY for n in (SHOT, QUERY)]
    return Episode(items[0], labels[0], items[1], labels[1])


def numbers(support: int = 6) -> Episode:
    """Return a task of regression."""
    with seeded(0, "numbers"):
        x, y = torch.randn(2, support + 4, SIZE, dtype=torch.float64)
        y = y[:, :OUTPUTS] + x[:, :OUTPUTS]
    return Episode(x[:support], y[:support], x[support:], y[support:])


def features(learner: Learner, x: Items) -> Tensor:
    """Return the network's features [B, D]."""
    return learner.net.features(learner.net.params, x)


def assert_trains_on(learner: Learner, episode: Episode, loss: Tensor) -> None:
    """Check that a learner's loss and its gradients by all tensors are those of another formulation."""
    tensors = learner.tensors
    found = trained(learner, episode).loss
    torch.testing.assert_close(found, loss)
    pairs = [torch.autograd.grad(value, list(tensors.values()), materialize_grads=True) for value in (found, loss)]
    for name, ours, plain in zip(tensors, *pairs, strict=True):
        torch.testing.assert_close(ours, plain, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]
    assert any(gradient.abs().max() > 1e-4 for gradient in pairs[1])

"""A small network and its tasks, and the same network written down once more, without anything of ours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, mse_loss, relu

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.network import Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Algorithm, Episode
from metalearn_cli.engine.episodes import OWN, Learner, trained
from metalearn_cli.stages.learner import fresh_learner

WAY, QUERY, SIZE, HIDDEN = 3, 4, 4, 5


def learner_of(algorithm: Algorithm) -> Learner:
    """Return a learner in float64, with a head that is not zero."""
    with seeded(0, "plain"):
        net = network(Mlp((SIZE,), hidden=HIDDEN), WAY if algorithm.traits.head else None)
        for name in net.head_names:
            torch.nn.init.normal_(net.params[name].data, std=0.5)
    learner = fresh_learner(algorithm, net, WAY, None, seed=0)
    return learner.of({name: p.detach().double().requires_grad_() for name, p in learner.tensors.items()})


def task(numbers: bool = False, shot: int = 2, seed: int = 0) -> Episode:
    """Return a task of classes, or of WAY numbers, whose classes are in random order."""
    with seeded(seed, "task"):
        x = torch.randn(WAY * (shot + QUERY), SIZE, dtype=torch.float64)
        y = torch.cat([torch.randperm(WAY * n) % WAY for n in (shot, QUERY)])
        y = torch.randn(len(x), WAY, dtype=torch.float64) if numbers else y
    n = WAY * shot
    return Episode(x[:n], y[:n], x[n:], y[n:])


def features(p: Params, x: Tensor) -> Tensor:
    for i in range(2):
        x = relu(linear(x, p[f"backbone.blocks.{i}.weight"], p[f"backbone.blocks.{i}.bias"]))
    return x


def output(p: Params, x: Tensor) -> Tensor:
    return linear(features(p, x), p["head.weight"], p["head.bias"])


def loss_of(out: Tensor, y: Tensor) -> Tensor:
    return mse_loss(out, y) if y.is_floating_point() else cross_entropy(out, y)


def slopes(loss: Tensor, params: Params, keep: bool = True) -> Params:
    """Return the gradient of a loss, with its graph."""
    found = torch.autograd.grad(loss, list(params.values()), create_graph=keep)
    return dict(zip(params, found, strict=True))


def own_of(learner: Learner) -> Params:
    return {name.removeprefix(OWN): tensor for name, tensor in learner.tensors.items() if name.startswith(OWN)}


def assert_same_loss_and_gradient(learner: Learner, episode: Episode, loss: Tensor, rtol: float = 1e-9) -> None:
    """Check what is trained against a loss of the same tensors, by all of which it is differentiated."""
    tensors = list(learner.tensors.values())
    found = trained(learner, episode).loss
    torch.testing.assert_close(found, loss)
    expected = torch.autograd.grad(loss, tensors, materialize_grads=True)
    for name, one, two in zip(
        learner.tensors, torch.autograd.grad(found, tensors, materialize_grads=True), expected, strict=True
    ):
        torch.testing.assert_close(one, two, rtol=rtol, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")

"""MAML's meta-gradient against an independent plain implementation: autograd and a Python loop."""

from __future__ import annotations

from statistics import geometric_mean, median

import pytest
import torch
from conftest import on_cpu
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear, max_pool2d, relu

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import Network, Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, answered, trained

QUERY, SIZE, HIDDEN, SEEDS = 2, 16, 8, 2


def plain_network(p: Params, x: Tensor) -> Tensor:
    for i in range(4):
        block = f"backbone.blocks.{i}"
        x = conv2d(x, p[f"{block}.conv.weight"], padding=1)
        x = batch_norm(x, None, None, p[f"{block}.norm.weight"], p[f"{block}.norm.bias"], training=True)
        x = max_pool2d(relu(x), 2)
    return linear(x.flatten(1), p["head.weight"], p["head.bias"])


def plain_meta_gradient(params: Params, episodes: Episode, lr: float, steps: int, first_order: bool) -> list[Tensor]:
    """Algorithm 2 of the paper, written down once more without anything of ours."""
    total = torch.zeros((), dtype=episodes.support_x.dtype)
    for sx, sy, qx, qy in zip(*episodes, strict=True):
        fast = params
        for _ in range(steps):
            loss = cross_entropy(plain_network(fast, sx), sy)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=not first_order)
            fast = {n: p - lr * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        total = total + cross_entropy(plain_network(fast, qx), qy) / len(episodes.support_x)
    return list(torch.autograd.grad(total, list(params.values())))


def our_meta_gradient(net: Network, episodes: Episode, way: int, algorithm: Maml) -> list[Tensor]:
    learner = Learner(algorithm, net, {}, way, "transductive")
    for task in range(len(episodes.support_x)):
        episode = Episode(*(part[task] for part in episodes))
        (trained(learner, episode).loss / len(episodes.support_x)).backward()
    gradients = [p.grad for p in net.params.values()]
    for p in net.params.values():
        p.grad = None
    return gradients


def setting(way: int, dtype: torch.dtype, seed: int = 0) -> tuple[Network, Episode]:
    with seeded(seed, "maml", way):
        net = network(Conv4((1, SIZE, SIZE), hidden=HIDDEN), way)
        torch.nn.init.normal_(net.params["head.weight"].data)
        sx, qx = torch.rand(2, way, 1, SIZE, SIZE), torch.rand(2, way * QUERY, 1, SIZE, SIZE)
    sy = torch.arange(way).expand(2, -1)
    precision = "64-true" if dtype == torch.float64 else "32-true"
    runtime = on_cpu(precision=precision, threads=None)
    net = net.of(runtime.place(net.params))  # in the layout that the engine uses
    return net, Episode(sx.to(dtype), sy, qx.to(dtype), sy.repeat(1, QUERY))


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Relative distance of two gradients, as one long vector each, in float64."""
    one, two = (torch.cat([g.double().flatten() for g in gradient]) for gradient in (a, b))
    return ((one - two).norm() / two.norm()).item()


CASES = [(way, steps, first_order) for way in (5, 20) for steps in (1, 5) for first_order in (False, True)]
ONE_STEP = [case for case in CASES if case[1] == 1]


@pytest.mark.parametrize(("way", "steps", "first_order"), CASES)
def test_meta_gradient_equals_the_plain_loop_in_float64(way: int, steps: int, first_order: bool) -> None:
    net, episodes = setting(way, torch.float64)
    ours = our_meta_gradient(net, episodes, way, Maml(0.4, steps, first_order))
    assert distance(ours, plain_meta_gradient(net.params, episodes, 0.4, steps, first_order)) < 1e-9


@pytest.mark.parametrize(
    "cases", [pytest.param(ONE_STEP, id="one step"), pytest.param(CASES, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.medium
def test_in_float32_it_is_no_further_from_float64_than_the_plain_loop(cases: list[tuple[int, int, bool]]) -> None:
    # how much a single gradient is off is chance (a ReLU on a kink multiplies it), so the geometric mean is compared;
    # of one step it is 0.5 to 0.6, of five between 0.07 and 1.3
    ratios = []
    for seed in range(SEEDS):
        for way, steps, first_order in cases:
            net, episodes = setting(way, torch.float64, seed)
            exact = plain_meta_gradient(net.params, episodes, 0.4, steps, first_order)
            net, episodes = setting(way, torch.float32, seed)
            plain = distance(plain_meta_gradient(net.params, episodes, 0.4, steps, first_order), exact)
            ours = distance(our_meta_gradient(net, episodes, way, Maml(0.4, steps, first_order)), exact)
            ratios.append(ours / plain)
    assert geometric_mean(ratios) <= 1, ratios


def adapted_logits(p: Params, sx: Tensor, sy: Tensor, qx: Tensor) -> Tensor:
    """Return a plain loop's logits after three steps, in double precision."""
    for _ in range(3):
        p = {n: t.detach().requires_grad_() for n, t in p.items()}
        grads = torch.autograd.grad(cross_entropy(plain_network(p, sx), sy), list(p.values()))
        p = {n: t - 0.4 * g for (n, t), g in zip(p.items(), grads, strict=True)}
    return plain_network(p, qx).detach().double()


@pytest.mark.slow
def test_three_steps_in_float32_leave_float64_no_more_often_than_the_plain_loop() -> None:
    # a branch of ReLU or pooling that rounding flips can change a whole episode: it is a matter of rates
    off: dict[str, list[float]] = {"ours": [], "plain": []}
    for seed in range(50):
        net, (sx, sy, qx, _) = setting(5, torch.float64, seed)
        exact = [adapted_logits(net.params, sx[i], sy[i], qx[i]) for i in range(2)]
        net, (sx, sy, qx, _) = setting(5, torch.float32, seed)
        learner = Learner(Maml(0.4, 3), net, {}, 5, "transductive")
        for i in range(2):
            ours = answered(learner, sx[i], sy[i], qx[i]).double()
            plain = adapted_logits(net.params, sx[i], sy[i], qx[i])
            for name, logits in (("ours", ours), ("plain", plain)):
                off[name].append((logits - exact[i]).abs().max().item())
    assert median(off["ours"]) <= median(off["plain"])
    for bound in (1e-3, 1e-2):
        assert sum(d > bound for d in off["ours"]) <= sum(d > bound for d in off["plain"]), off


def test_first_and_second_order_differ() -> None:
    net, episodes = setting(5, torch.float64)
    second, first = (our_meta_gradient(net, episodes, 5, Maml(0.4, 1, order)) for order in (False, True))
    assert distance(first, second) > 1e-3


@pytest.mark.parametrize(("settings", "name"), [({"inner_lr": 0.0}, "inner_lr"), ({"inner_steps": 0}, "inner_steps")])
def test_refuses_impossible_settings(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.{name}: must be"):
        build({"_target_": "metalearn_cli.algorithms.maml.Maml", **settings}, "algorithm")

"""What every backbone must be: a twice differentiable function of its tensors and a batch of items, however batched.

The reference to compare with is always the plainest way to compute the same: item by item, task by task.
"""

from __future__ import annotations

import pytest
import torch
from conftest import on_cpu
from contract.components import make, specs
from torch import Tensor, nn

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.core.network import HEAD, Network, network, unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.runtime import cores
from metalearn_cli.engine.tasks import Tasks

SHAPE = (1, 16, 16)
ITEMS, REFERENCE, WAY = 6, 4, 2


def backbone_of(name: str) -> nn.Module:
    """Return a backbone as configured, but narrow, in float64, with buffers that are not those of a fresh one."""
    spec = specs("backbone")[name]
    narrow = {"hidden": 4} if "hidden" in spec else {}
    with seeded(0, "backbone"):
        return used(make(spec | narrow, "backbone", shape=SHAPE))


def used(backbone: nn.Module) -> nn.Module:
    """Return a backbone in float64, with the buffers that some training leaves behind."""
    backbone = backbone.double()
    with torch.no_grad():
        for _ in range(3):
            backbone(1 + torch.rand(8, *SHAPE, dtype=torch.float64))
    return backbone


@pytest.fixture(params=specs("backbone"))
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    return backbone_of(request.param)


def items(count: int = ITEMS) -> Tensor:
    with seeded(0, "items"):
        return torch.rand(count, *SHAPE, dtype=torch.float64)


def features(net: Network, x: Tensor, reference: int | None = None) -> Tensor:
    return net.features(net.params, x, reference=reference)


def slopes(net: Network, z: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a random combination of features [B, D] by all tensors of a network."""
    with seeded(0, "direction", z.shape[0]):
        direction = torch.randn_like(z)
    found = torch.autograd.grad((z * direction).sum(), list(net.params.values()), materialize_grads=True)
    return dict(zip(net.params, found, strict=True))


def test_maps_items_to_vectors_of_the_size_it_says(backbone: nn.Module) -> None:
    net = network(backbone)
    assert isinstance(net.out_dim, int) and isinstance(net.batch_statistics, bool)
    assert features(net, items()).shape == (ITEMS, net.out_dim)
    if net.maps_shape is not None:
        assert net.maps(net.params, items()).shape == (ITEMS, *net.maps_shape)


def test_blocks_have_every_parameter_once(backbone: nn.Module) -> None:
    named = [name for names in network(backbone).blocks for name in names]
    assert sorted(named) == sorted(f"backbone.{name}" for name, _ in backbone.named_parameters())
    assert all(network(backbone).blocks)


def test_every_tensor_learns(backbone: nn.Module) -> None:
    net = network(backbone)
    found = slopes(net, features(net, items()))
    # a gradient that is zero in exact arithmetic is rounding noise here
    assert [name for name, slope in found.items() if not slope.abs().max() > 1e-9] == []


def test_writes_none_of_its_buffers(backbone: nn.Module) -> None:
    net = network(backbone)
    with unwritten(net.constants):
        features(net, items())


def test_training_mode_writes_the_buffers_of_what_learns_alone(backbone: nn.Module) -> None:
    """The buffers of blocks of which no tensor learns stay as they are."""
    first, *_ = (net := network(backbone)).blocks
    before = {name: tensor.clone() for name, tensor in net.constants.items()}
    later = [name for name in net.params if name not in first]
    features(net.training(later), items())
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, net.constants[name])}
    of_first = {name for name in before if name.rpartition(".")[0] in {n.rpartition(".")[0] for n in first}}
    assert changed == before.keys() - of_first


def test_second_derivatives_are_those_of_finite_differences(backbone: nn.Module) -> None:
    """Along one random direction of all tensors and items, where the tensors are not the module's own."""
    net, x, step = network(backbone), items(), 1e-8  # small, so that no ReLU is switched on the way
    with seeded(1, "directions"):
        start = {n: 1.1 * p.detach() for n, p in net.params.items()} | {"x": x}
        first, second = ({n: torch.randn_like(t) for n, t in start.items()} for _ in range(2))
        weight = torch.randn(ITEMS, net.out_dim, dtype=torch.float64)

    def slope(tensors: dict[str, Tensor]) -> Tensor:
        """Return the derivative [] along the first direction."""
        z = (net.features(tensors, tensors["x"]) * weight).sin().sum()
        found = torch.autograd.grad(z, list(tensors.values()), create_graph=True, materialize_grads=True)
        return torch.stack([(g * d).sum() for g, d in zip(found, first.values(), strict=True)]).sum()

    def moved(by: float) -> dict[str, Tensor]:
        return {n: (t + by * second[n]).requires_grad_() for n, t in start.items()}

    here = moved(0)
    found = torch.autograd.grad(slope(here), list(here.values()), materialize_grads=True)
    total = sum((g * d).sum().item() for g, d in zip(found, second.values(), strict=True))
    assert total == pytest.approx((slope(moved(step)) - slope(moved(-step))).item() / (2 * step), rel=1e-3)


def test_vmap_over_tensors_and_items_equals_a_loop(backbone: nn.Module) -> None:
    net = network(backbone)
    tasks = {name: torch.stack([p, 1.1 * p + 0.1]) for name, p in net.params.items()}
    xs = torch.stack([items(), items().flip(0) ** 2])
    loop = torch.stack([net.features({name: p[t] for name, p in tasks.items()}, xs[t]) for t in range(2)])
    torch.testing.assert_close(torch.vmap(net.features)(tasks, xs), loop)


def test_says_whether_an_item_depends_on_the_others(backbone: nn.Module) -> None:
    net, x = network(backbone), items()
    changed = torch.cat([x[:-1], 1 - x[-1:]])
    same = torch.allclose(features(net, x)[:-1], features(net, changed)[:-1], rtol=1e-9, atol=1e-12)
    assert same is not net.batch_statistics


def test_with_a_reference_an_item_depends_on_the_reference_alone(backbone: nn.Module) -> None:
    net, x = network(backbone), items()
    together = features(net, x, REFERENCE)
    alone = [features(net, torch.cat([x[:REFERENCE], item[None]]), REFERENCE)[-1:] for item in x[REFERENCE:]]
    torch.testing.assert_close(together, torch.cat([features(net, x[:REFERENCE]), *alone]))


def test_gradient_with_a_reference_is_that_of_finite_differences(backbone: nn.Module) -> None:
    """A backbone that computes its blocks again for the gradient has to carry the reference along."""
    net, x, step = network(backbone), items(), 1e-6
    found = slopes(net, features(net, x, REFERENCE))
    with seeded(0, "direction", ITEMS):
        weight = torch.randn(ITEMS, net.out_dim, dtype=torch.float64)
    for name, p in net.params.items():
        with seeded(1, name):
            direction = torch.randn_like(p)
        ends = [net._replace(params=net.params | {name: p.detach() + s * step * direction}) for s in (1, -1)]
        values = [(features(end, x, REFERENCE) * weight).sum().item() for end in ends]
        slope = (found[name] * direction).sum().item()
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6), name


def test_every_way_of_batching_tasks_gives_the_same_gradients(backbone: nn.Module) -> None:
    """For both orders of MAML."""
    with seeded(0, "episodes"):
        net = network(backbone, WAY)
        drawn = {n: p + 0.1 * torch.randn_like(p) if n.startswith(HEAD) else p for n, p in net.params.items()}
        x = torch.rand(3, 2 * ITEMS, *SHAPE, dtype=torch.float64)
    y = (torch.arange(ITEMS) % WAY).repeat(len(x), 1)
    episodes = Episode(x[:, :ITEMS], y, x[:, ITEMS:], y)
    for first_order in (False, True):
        algorithm = Maml(inner_lr=0.1, inner_steps=1, first_order=first_order)
        learner = Learner(algorithm, net._replace(params=drawn), {}, WAY, "inductive")

        def task(params: dict[str, Tensor], episode: Episode, learner: Learner = learner) -> dict[str, Tensor]:
            return {"loss": trained(learner.of(params), episode).loss}

        found = {}
        for batching in ("loop", "threads", "groups", "vmap"):
            runtime = on_cpu(task_batching=batching, threads=min(2, cores()), precision="64-true")
            leaves = {n: t.detach().clone().requires_grad_(n in drawn) for n, t in learner.tensors.items()}
            Tasks(runtime, len(x)).gradients(task, leaves, episodes)
            found[batching] = {name: leaves[name].grad for name in drawn}
        for gradients in found.values():
            for name, gradient in found["loop"].items():
                torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-10)

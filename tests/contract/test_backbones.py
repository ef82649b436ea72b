"""What every backbone must be: a twice differentiable function of its tensors and a batch of items, however batched.

The reference to compare with is always the plainest way to compute the same: item by item, task by task.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, cast

import pytest
import torch
from conftest import on_cpu
from contract.components import make, specs
from torch import Tensor, nn

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.backbones.common.items import part_of
from metalearn_cli.core.items import Facts, Items, each, joined
from metalearn_cli.core.network import HEAD, Network, network, unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.runtime import cores
from metalearn_cli.engine.tasks import Tasks

ITEMS, REFERENCE, WAY, TASKS = 6, 4, 2, 3
LONG = ("resnet50",)  # it shares all but its blocks with resnet18
FOREIGN = ("hf", "speaker", "timm")  # networks of other libraries, which have tests of their own
ITEM = "item"  # the name of a batch of items of one part
IMAGES = Facts("image", (1, 16, 16), "unit", WAY)
OTHERS = {
    "transformer": Facts("text", (5,), "ids", WAY, vocabulary=7),
    "cnn1d": Facts("vector", (2, 40), "real", WAY),
    "mixed": Facts("mixed", {"text": (5,), "sound": (2, 9)}, {"text": "ids", "sound": "real"}, WAY, 0, {"text": 7}),
}
"""The items of backbones that take no images."""
BAG = {"_target_": "metalearn_cli.backbones.transformer.Transformer", "hidden": 4, "layers": 0}
SERIES = {"_target_": "metalearn_cli.backbones.cnn1d.Cnn1d", "hidden": 4, "layers": 1}
NORMS = ("batch", "running", "group", "none")
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "resnet18": tuple({"norm": norm} for norm in NORMS),
    "cnn1d": tuple({"norm": norm} for norm in NORMS),
    "vit": ({"layers": 2},),
    "mixed": ({"parts": {"text": BAG, "sound": SERIES}},),
    "resnet50": ({"norm": "running"},),  # deep enough that statistics of a few items make it chaotic
}
"""The settings with which a backbone is tested, if not those of its file."""
CASES = [
    pytest.param(
        (name, own), id=f"{name} {own.get('norm', '')}".strip(), marks=[pytest.mark.slow] * (name in LONG or place > 1)
    )
    for name in specs("backbone")
    if name not in FOREIGN
    for place, own in enumerate(VARIANTS.get(name, ({},)))
]


class Made(NamedTuple):
    """A backbone, and the facts of the items that it takes."""

    backbone: nn.Module
    facts: Facts

    @property
    def net(self) -> Network:
        """A network of it."""
        return network(self.backbone)

    def items(self, count: int = ITEMS, seed: int = 0) -> Items:
        """Return random items in float64."""
        if not isinstance(self.facts.shape, Mapping):
            return drawn(self.facts, count, seed)
        return {name: cast(Tensor, drawn(part_of(self.facts, name), count, seed)) for name in self.facts.shape}


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest) -> Made:
    """Return a backbone as configured, but narrow; see `used`."""
    name, settings = request.param
    spec, facts = specs("backbone")[name] | settings, OTHERS.get(name, IMAGES)
    narrow = {"hidden": 4} if "hidden" in spec else {}
    with seeded(0, "backbone"):
        return used(make(spec | narrow, "backbone", facts=facts, shape=facts.shape), facts)


def used(backbone: nn.Module, facts: Facts = IMAGES) -> Made:
    """Return a backbone in float64, with the buffers that some training leaves behind."""
    made = Made(backbone.double(), facts)
    x = each(lambda t: t + 1 if t.is_floating_point() else t, made.items(8))
    with torch.no_grad():
        for _ in range(3):
            made.backbone(x)
    return made


def drawn(facts: Facts, count: int, seed: int) -> Tensor:
    """Return random items of one part; texts end in padding, and some are nothing else."""
    shape: Any = facts.shape
    with seeded(seed, "items"):
        if facts.values != "ids":
            return torch.rand(count, *shape, dtype=torch.float64)
        words = torch.randint(1, cast(int, facts.vocabulary), (count, *shape))
        return words * (torch.arange(shape[0]) < torch.randint(shape[0] + 1, (count, 1)))


def first(x: Items, count: int) -> Items:
    return each(lambda t: t[:count], x)


def features(net: Network, x: Items, reference: int | None = None) -> Tensor:
    return net.features(net.params, x, reference=reference)


def slopes(net: Network, z: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a random combination of features [B, D] by all tensors of a network."""
    with seeded(0, "direction", z.shape[0]):
        direction = torch.randn_like(z)
    found = torch.autograd.grad((z * direction).sum(), list(net.params.values()), materialize_grads=True)
    return dict(zip(net.params, found, strict=True))


def test_maps_items_to_vectors_of_the_size_it_says(made: Made) -> None:
    net = made.net
    assert isinstance(net.out_dim, int) and isinstance(net.batch_statistics, bool)
    assert features(net, made.items()).shape == (ITEMS, net.out_dim)
    if net.maps_shape is not None:
        assert net.maps(net.params, made.items()).shape == (ITEMS, *net.maps_shape)


def test_blocks_have_every_parameter_once(made: Made) -> None:
    named = [name for names in made.net.blocks for name in names]
    assert sorted(named) == sorted(f"backbone.{name}" for name, _ in made.backbone.named_parameters())
    assert all(made.net.blocks)


def test_every_tensor_learns(made: Made) -> None:
    net = made.net
    found = slopes(net, features(net, made.items()))
    # a gradient that is zero in exact arithmetic is rounding noise here
    assert [name for name, slope in found.items() if not slope.abs().max() > 1e-9] == []


def test_writes_none_of_its_buffers(made: Made) -> None:
    net = made.net
    with unwritten(net.constants):
        features(net, made.items())


def test_training_mode_writes_the_buffers_of_what_learns_alone(made: Made) -> None:
    """The buffers of blocks of which no tensor learns stay as they are."""
    first, *_ = (net := made.net).blocks
    before = {name: tensor.clone() for name, tensor in net.constants.items()}
    later = [name for name in net.params if name not in first]
    features(net.training(later), made.items())
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, net.constants[name])}
    of_first = {name for name in before if name.rpartition(".")[0] in {n.rpartition(".")[0] for n in first}}
    assert changed == before.keys() - of_first


def test_second_derivatives_are_those_of_finite_differences(made: Made) -> None:
    """Along one random direction of all tensors and items, where the tensors are not the module's own."""
    net, step = made.net, 1e-8  # small, so that no ReLU is switched on the way
    with seeded(1, "directions"):
        start = {n: 1.1 * p.detach() for n, p in net.params.items()}
        x = made.items()
        parts = x if isinstance(x, dict) else {ITEM: x}
        start |= {name: part for name, part in parts.items() if part.is_floating_point()}
        first, second = ({n: torch.randn_like(t) for n, t in start.items()} for _ in range(2))
        weight = torch.randn(ITEMS, net.out_dim, dtype=torch.float64)

    def slope(tensors: dict[str, Tensor]) -> Tensor:
        """Return the derivative [] along the first direction."""
        now = {name: tensors.get(name, part) for name, part in parts.items()}
        z = (net.features(tensors, now if isinstance(x, dict) else now[ITEM]) * weight).sin().sum()
        found = torch.autograd.grad(z, list(tensors.values()), create_graph=True, materialize_grads=True)
        return torch.stack([(g * d).sum() for g, d in zip(found, first.values(), strict=True)]).sum()

    def moved(by: float) -> dict[str, Tensor]:
        return {n: (t + by * second[n]).requires_grad_() for n, t in start.items()}

    here = moved(0)
    found = torch.autograd.grad(slope(here), list(here.values()), materialize_grads=True)
    total = sum((g * d).sum().item() for g, d in zip(found, second.values(), strict=True))
    assert total == pytest.approx((slope(moved(step)) - slope(moved(-step))).item() / (2 * step), rel=1e-3)


def test_vmap_over_tensors_and_items_equals_a_loop(made: Made) -> None:
    net = made.net
    tasks = {name: torch.stack([p, 1.1 * p + 0.1]) for name, p in net.params.items()}
    both = [made.items(), made.items(seed=1)]
    xs = each(lambda *parts: torch.stack(parts), *both)
    loop = torch.stack([net.features({name: p[t] for name, p in tasks.items()}, both[t]) for t in range(2)])
    torch.testing.assert_close(torch.vmap(net.features)(tasks, xs), loop)


def test_says_whether_an_item_depends_on_the_others(made: Made) -> None:
    net, x = made.net, made.items()
    changed = joined([first(x, ITEMS - 1), made.items(1, seed=1)])
    same = torch.allclose(features(net, x)[:-1], features(net, changed)[:-1], rtol=1e-9, atol=1e-12)
    assert same is not net.batch_statistics


def test_with_a_reference_an_item_depends_on_the_reference_alone(made: Made) -> None:
    net, x = made.net, made.items()
    together = features(net, x, REFERENCE)
    support = first(x, REFERENCE)
    others = [each(itemgetter(slice(i, i + 1)), x) for i in range(REFERENCE, ITEMS)]
    alone = [features(net, joined([support, item]), REFERENCE)[-1:] for item in others]
    torch.testing.assert_close(together, torch.cat([features(net, support), *alone]))


def test_gradient_with_a_reference_is_that_of_finite_differences(made: Made) -> None:
    """A backbone that computes its blocks again for the gradient has to carry the reference along."""
    net, x, step = made.net, made.items(), 1e-8  # small, as above
    found = slopes(net, features(net, x, REFERENCE))
    with seeded(0, "direction", ITEMS):
        weight = torch.randn(ITEMS, net.out_dim, dtype=torch.float64)
    for names in net.blocks:
        with seeded(1, *names):
            direction = {name: torch.randn_like(net.params[name]) for name in names}
        ends = [net.params | {n: net.params[n].detach() + s * step * d for n, d in direction.items()} for s in (1, -1)]
        values = [(net.features(end, x, reference=REFERENCE) * weight).sum().item() for end in ends]
        slope = sum((found[name] * d).sum().item() for name, d in direction.items())
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6), names


@pytest.mark.medium
def test_every_way_of_batching_tasks_gives_the_same_gradients(made: Made) -> None:
    """For MAML with second derivatives; tests/unit/engine/test_tasks.py has its first order too."""
    with seeded(0, "episodes"):
        net = network(made.backbone, WAY)
        at = {n: p + 0.1 * torch.randn_like(p) if n.startswith(HEAD) else p for n, p in net.params.items()}
    support, query = (
        each(lambda t: t.unflatten(0, (TASKS, ITEMS)), made.items(TASKS * ITEMS, seed)) for seed in (0, 1)
    )
    y = (torch.arange(ITEMS) % WAY).repeat(TASKS, 1)
    episodes = Episode(support, y, query, y)
    learner = Learner(Maml(inner_lr=0.1, inner_steps=1), net._replace(params=at), {}, WAY, "inductive")

    def task(params: dict[str, Tensor], episode: Episode) -> dict[str, Tensor]:
        return {"loss": trained(learner.of(params), episode).loss}

    found = {}
    for batching in ("loop", "threads", "groups", "vmap"):
        runtime = on_cpu(task_batching=batching, threads=min(2, cores()), precision="64-true")
        leaves = {n: t.detach().clone().requires_grad_(n in at) for n, t in learner.tensors.items()}
        Tasks(runtime, TASKS).gradients(task, leaves, episodes)
        found[batching] = {name: leaves[name].grad for name in at}
    for gradients in found.values():
        for name, gradient in found["loop"].items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-10)

"""Modules as pure functions of their tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from torch.utils.checkpoint import checkpoint

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.network import Network, buffers_of, network, pure, reference, unwritten
from metalearn_cli.core.random import seeded

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Running(nn.Module):
    """Two blocks with running statistics, and a table of indices."""

    batch_statistics, out_dim = False, 3

    def __init__(self) -> None:
        super().__init__()
        sizes = ((4, 5), (5, 3))
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o)) for i, o in sizes)
        self.register_buffer("order", torch.arange(4).flip(0))

    @property
    def blocks(self) -> nn.ModuleList:
        return self.parts

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, self.order]
        for part in self.parts:
            x = part(x).relu()
        return x


class Basic(nn.Module):
    """A residual block, as torchvision writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn1(self.conv1(x)).relu()


class Foreign(nn.Module):
    """A network that was not written for this package; around it, what it takes to be a backbone."""

    batch_statistics, out_dim = False, 3

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.layer1 = nn.Sequential(Basic(3), Basic(3))
        self.layer2 = nn.Sequential(Basic(3))

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.conv1, self.layer1, self.layer2]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.conv1(x))).mean((2, 3))


class Tied(nn.Module):
    """One weight in two places, and a part that is not used."""

    batch_statistics, out_dim = False, 4

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.unused = (nn.Linear(4, 4) for _ in range(3))
        self.two.weight = self.one.weight

    @property
    def blocks(self) -> list[nn.Module]:
        return [nn.ModuleList([self.one, self.two]), self.unused]

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


def made(backbone: Callable[[], nn.Module], outputs: int | None = None) -> tuple[Network, nn.Module]:
    with seeded(0):
        module = backbone()
    return network(module, outputs), module


def of_mlp() -> nn.Module:
    return Mlp((4,), hidden=5, layers=2)


def of_conv4() -> nn.Module:
    return Conv4((1, 16, 16), hidden=4)


def fresh(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that are leaves and share nothing."""
    return {name: t.detach().clone().requires_grad_(t.requires_grad) for name, t in tensors.items()}


# what a network is made of


def test_names():
    net, _ = made(of_mlp, outputs=2)
    assert net.blocks == tuple((f"backbone.blocks.{i}.weight", f"backbone.blocks.{i}.bias") for i in range(2))
    assert net.head_names == ("head.weight", "head.bias")
    assert list(net.params) == [*net.blocks[0], *net.blocks[1], *net.head_names]
    assert (net.constants, net.out_dim, net.maps_shape, net.batch_statistics) == ({}, 5, None, False)
    assert all(p.is_leaf and p.requires_grad for p in net.params.values())


def test_functions():
    net, module = made(of_mlp, outputs=2)
    assert net.head(net.params, module(X)).tolist() == [[0, 0]] * 6  # no class is preferred before its first example
    params = fresh(net.params)
    params["head.weight"].data.normal_()
    torch.testing.assert_close(net.features(params, X), module(X))
    expected = linear(module(X), params["head.weight"], params["head.bias"])
    torch.testing.assert_close(net.head(params, module(X)), expected)
    torch.testing.assert_close(net.output(params, X), expected)


def test_maps():
    net, module = made(of_conv4)
    x = torch.rand(3, 1, 16, 16)
    assert net.maps_shape == (4, 1, 1)
    torch.testing.assert_close(net.maps(net.params, x).flatten(1), module(x))


def test_the_module_stays_as_it_is():
    net, module = made(Running)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    net.training(net.params).features(net.params, X)
    assert module.training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert all(p.data_ptr() != net.params[f"backbone.{name}"].data_ptr() for name, p in module.named_parameters())


def test_other_tensors_are_left_aside_and_missing_ones_are_not_made_up():
    net, module = made(of_mlp, outputs=2)
    torch.testing.assert_close(net.features({**net.params, "learner.scale": X, "head.third": X}, X), module(X))
    misspelt = {name.replace("blocks.0", "block.0"): p for name, p in net.params.items()}
    with pytest.raises(RuntimeError, match=r"(Unexpected|Missing).*backbone\.block"):
        net.features(misspelt, X)
    with pytest.raises(RuntimeError, match=r"backbone\.blocks\.2\.weight"):
        net.features({**net.params, "backbone.blocks.2.weight": X}, X)
    absent = {name: p for name, p in net.params.items() if "blocks.0" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*backbone\.blocks\.0"):
        net.features(absent, X)


def test_what_is_not_there_says_so():
    net, _ = made(of_mlp)
    for call in (net.head, net.output):
        with pytest.raises(ValueError, match=r"the network has no head: a learner that uses one has traits\.head"):
            call(net.params, X)
    with pytest.raises(ValueError, match="the backbone has no feature maps; choose one for images"):
        net.maps(net.params, X)
    with pytest.raises(ValueError, match="the backbone has no feature maps"):
        net.under(X).maps(net.params, X)


def test_wrap_is_around_every_function():
    calls: list[int] = []

    def wrap(apply: Any) -> Any:
        return lambda *args, **kwargs: calls.append(1) or apply(*args, **kwargs)

    net = network(of_conv4(), 2, wrap)
    x = torch.rand(2, 1, 16, 16)
    for call in (net.features, net.output, net.maps, net.of(net.params).features, net.training(()).output):
        call(net.params, x)
    net.head(net.params, net.features(net.params, x))
    assert len(calls) == 7


# other tensors


def test_of():
    net, _ = made(Running, outputs=2)
    others = {name: 2 * t for name, t in (net.params | net.constants).items()} | {"learner.x": X}
    changed = net.of(others)
    assert changed.params.keys() == net.params.keys() and changed.constants.keys() == net.constants.keys()
    assert all(changed.params[name] is others[name] for name in net.params)
    assert all(changed.constants[name] is others[name] for name in net.constants)
    with pytest.raises(KeyError, match=r"backbone\.order"):
        net.of(net.params)  # constants belong to it: those of before would be wrong


def test_constants_are_bound():
    net, module = made(Running)
    module.eval()
    torch.testing.assert_close(net.features(net.params, X), module(X))
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer += 1
    tensors = net.params | {f"backbone.{name}": t for name, t in module.named_buffers()}
    changed = net.of(tensors)
    torch.testing.assert_close(changed.features(net.params, X), module(X))
    assert not torch.allclose(net.features(net.params, X), module(X))


def test_of_keeps_protocol_and_mode():
    """A learner that calls `of` within an episode is not to fall back to other statistics."""

    class Both(Running):
        batch_statistics = True

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x[: reference()].mean(0))

    net, _ = made(Both)
    tensors = net.params | net.constants
    inductive = net.under(X[:2])
    torch.testing.assert_close(inductive.of(tensors).features(net.params, X[2:]), inductive.features(net.params, X[2:]))
    training = net.training(net.params)
    before = fresh(tensors)
    training.of(before).features(net.params, X)
    assert not torch.equal(before["backbone.parts.0.1.running_mean"], tensors["backbone.parts.0.1.running_mean"])


def test_under_is_itself_without_batch_statistics():
    net, _ = made(of_mlp)
    assert net.under(X) is net


@pytest.mark.parametrize("name", ["features", "output", "maps"])
def test_under_normalises_by_the_reference_alone(name):
    net, _ = made(of_conv4, outputs=2)
    params = fresh(net.params)
    params["head.weight"].data.normal_()
    support, x = torch.rand(4, 1, 16, 16), torch.rand(3, 1, 16, 16)
    call = getattr(net.under(support), name)
    both = call(params, x)
    torch.testing.assert_close(torch.cat([call(params, one[None]) for one in x]), both)
    torch.testing.assert_close(both, getattr(net, name)(params, torch.cat([support, x]), reference=4)[4:])
    assert not torch.allclose(both, getattr(net, name)(params, x), atol=1e-3)


# training mode and running statistics

STATISTICS = [f"backbone.parts.{i}.1.running_{what}" for i in range(2) for what in ("mean", "var")]


def written(learning: Any) -> tuple[set[str], Tensor]:
    net, _ = made(Running)
    tensors = fresh(net.params | net.constants)
    output = (net.of(tensors) if learning is None else net.of(tensors).training(learning)).features(net.params, X)
    return {name for name in net.constants if not torch.equal(tensors[name], net.constants[name])}, output


def test_running_statistics_are_written_in_training_mode_alone():
    assert written(None)[0] == set()
    assert written(made(Running)[0].params)[0] == set(STATISTICS)


@pytest.mark.parametrize(
    ("learning", "expected"),
    [
        ((), []),
        (("head.weight",), []),
        (("backbone.parts.1.1.bias",), STATISTICS[2:]),
        (("backbone.parts.0.0.weight",), STATISTICS[:2]),
    ],
)
def test_only_blocks_that_learn_are_in_training_mode(learning, expected):
    found, output = written(learning)
    assert found == set(expected)
    assert torch.equal(output, written(None)[1]) is not bool(expected)


def test_modes_do_not_get_in_each_others_way():
    """One network's functions in several modes, one call after the other."""
    net, _ = made(Running)
    modes = [None, ["backbone.parts.0.0.weight"], None, ["backbone.parts.1.0.weight"], ["backbone.parts.0.0.weight"]]
    for learning in modes:
        run = net.of(fresh(net.params | net.constants))
        output = (run.training(learning) if learning else run).features(net.params, X)
        assert torch.equal(output, written(learning)[1])


def test_running_statistics_are_those_of_torch():
    net, module = made(Running)
    tensors = fresh(net.params | net.constants)
    for _ in range(2):
        net.of(tensors).training(net.params).features(net.params, X)
        module.train()(X)
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(tensors[f"backbone.{name}"], buffer)


def test_counters_are_dropped_and_whole_numbers_stay_whole():
    net, _ = made(Running)
    assert net.constants.keys() == {*STATISTICS, "backbone.order"}
    assert net.constants["backbone.order"].dtype == torch.int64
    assert not any(t.requires_grad for t in net.constants.values())


def test_a_counter_that_is_needed_stays():
    layer = nn.BatchNorm1d(2, momentum=None)  # the mean of all batches so far
    assert buffers_of(layer).keys() == {"running_mean", "running_var", "num_batches_tracked"}
    layer = nn.BatchNorm1d(2)
    assert buffers_of(layer).keys() == {"running_mean", "running_var"}


def test_unwritten():
    constants = {name: torch.full((2,), torch.nan) for name in "abcde"} | {"f": torch.tensor(True)}
    with unwritten(constants):
        constants["a"] + 1
    with pytest.raises(ValueError, match=r"writes its buffers b within an episode; in eval mode it must not"):
        with unwritten(constants):
            constants["b"].add_(0)  # also where its value stays
    with pytest.raises(ValueError, match="buffers a, b, c and 3 more within"), unwritten(constants):
        for tensor in constants.values():
            tensor.zero_()


def test_running_statistics_count_as_written_in_training_mode():
    net, _ = made(Running)
    with unwritten(net.constants):
        net.features(net.params, X)
    with pytest.raises(ValueError, match=r"backbone\.parts\.0\.1\.running_mean"), unwritten(net.constants):
        net.training(net.params).features(net.params, X)


# networks from elsewhere


def test_a_foreign_module():
    net, module = made(Foreign, outputs=2)
    assert net.blocks == (
        ("backbone.conv1.weight", "backbone.conv1.bias"),
        *(
            tuple(
                f"backbone.{layer}.{i}.{name}" for i in range(n) for name in ("conv1.weight", "bn1.weight", "bn1.bias")
            )
            for layer, n in (("layer1", 2), ("layer2", 1))
        ),
    )
    assert {name for block in net.blocks for name in block} | {*net.head_names} == net.params.keys()
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(net.features(net.params, x), module.eval()(x))
    tensors = fresh(net.params | net.constants)
    net.of(tensors).training(net.blocks[2]).features(net.params, x)
    changed = {name for name in net.constants if not torch.equal(tensors[name], net.constants[name])}
    assert changed == {"backbone.layer2.0.bn1.running_mean", "backbone.layer2.0.bn1.running_var"}


def test_tied_weights_are_one_tensor():
    net, _ = made(Tied)
    names = ("one.weight", "one.bias", "two.bias")
    assert net.blocks == (tuple(f"backbone.{n}" for n in names), ("backbone.unused.weight", "backbone.unused.bias"))
    params = {name: p.double() for name, p in fresh(net.params).items()}
    params["backbone.one.weight"] = 2 * params["backbone.one.weight"]
    x = X.double()
    w, first, second = (params[f"backbone.{n}"] for n in names)
    torch.testing.assert_close(net.features(params, x), linear(linear(x, w, first).relu(), w, second))


def test_unused_parameters_may_be_there():
    net, _ = made(Tied)
    found = torch.autograd.grad(net.features(net.params, X).sum(), [*net.params.values()], materialize_grads=True)
    assert [g.abs().sum() > 0 for g in found] == [True, True, True, False, False]


# which items give the statistics


class Asking(nn.Module):
    """Says how many items give the statistics, and from where it was asked."""

    batch_statistics, out_dim = True, 1

    def __init__(self, around: Callable[..., Any] = lambda call, x: call(x)) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.around = around

    @property
    def blocks(self) -> list[nn.Module]:
        return [self]

    def normalised(self, x: Tensor) -> Tensor:
        SEEN.append(reference())
        first = x[: reference()]
        return self.scale * ((x - first.mean()) / first.std()).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.around(self.normalised, x)


SEEN: list[int | None] = []


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def test_reference_is_set_while_a_function_runs():
    net, _ = made(Asking)
    for reference_ in (None, 2, None, 3):
        net.features(net.params, X, reference=reference_)
        assert SEEN.pop() == reference_
        assert reference() is None


def test_reference_is_reset_after_an_error():
    net, _ = made(Asking)
    with pytest.raises(TypeError):
        net.features(net.params, None, reference=2)
    assert reference() is None


def test_reference_is_that_of_the_call_in_every_thread():
    """Threads have contexts of their own: what is set around an episode does not reach them."""
    net, _ = made(Asking)
    both = threading.Barrier(2)

    def call(reference_: int) -> list[Tensor]:
        both.wait()
        return [net.features(net.params, X, reference=reference_) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip((2, 4), pool.map(call, (2, 4)), strict=True))
    for reference_, results in found.items():
        expected = net.features(net.params, X, reference=reference_)
        assert all(torch.equal(result, expected) for result in results)


def recomputed(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    context = copy_context()
    return checkpoint(lambda x: context.copy().run(call, x), x, use_reentrant=False)


def test_a_backbone_that_checkpoints_itself_carries_the_context_along():
    def gradient(*around: Any) -> Tensor:
        net, _ = made(lambda: Asking(*around))
        x = X.clone().requires_grad_()
        net.features(net.params, x, reference=2)[2:].square().sum().backward()
        return x.grad

    plain = gradient()
    SEEN.clear()
    torch.testing.assert_close(gradient(recomputed), plain)
    assert SEEN == [2, 2]  # in the backward pass, too, which runs when no function of the network does


# any module


def test_pure():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    apply, tensors = pure(module)
    assert tensors.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert {name for name, t in tensors.items() if t.requires_grad} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    torch.testing.assert_close(apply(tensors, X), module.eval()(X))
    assert torch.equal(tensors["1.running_mean"], torch.zeros(3))
    train, tensors = pure(module, training=True)
    train(tensors, X)
    assert not torch.equal(tensors["1.running_mean"], torch.zeros(3))
    assert torch.equal(module[1].running_mean, torch.zeros(3))
    with pytest.raises(RuntimeError, match=r"0\.weigth"):
        apply({**tensors, "0.weigth": X}, X)


class Lacking(nn.Module):
    """What is no backbone in some way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 3)
        norm = nn.InstanceNorm1d(3) if fault == "norm" else nn.Identity()
        self.norm = norm
        facts = {"out_dim": 3, "batch_statistics": False, "blocks": [self.one, self.two]}
        facts["blocks"] = {"omitted": [self.one], "twice": [self.one, self]}.get(fault, facts["blocks"])
        for name in facts.keys() - {fault}:
            setattr(self, name, facts[name])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("out_dim", "Lacking has no attribute out_dim, which a backbone needs"),
        ("batch_statistics", "Lacking has no attribute batch_statistics"),
        ("blocks", "Lacking has no attribute blocks"),
        ("omitted", r"Lacking\.blocks must have each parameter once; two\.weight is in 0 of them"),
        ("twice", r"Lacking\.blocks must have each parameter once; one\.weight is in 2 of them"),
        ("norm", "norm is InstanceNorm1d without running statistics: torch computes its second derivative wrongly"),
    ],
)
def test_what_is_no_backbone_is_refused_in_words(fault, said):
    with pytest.raises(ValueError, match=said):
        network(Lacking(fault))


@pytest.mark.skipif(not torch.__version__.startswith("2.13."), reason="says what torch 2.13 does")
def test_what_torch_gets_wrong_in_a_batch_of_tasks_is_still_wrong():
    """Once this fails, `check_backbone` need not refuse these layers any more."""
    torch.manual_seed(0)
    p = {"k": torch.randn(4, 4, 3, 3).double(), "w": torch.rand(4).double(), "b": torch.rand(4).double()}
    x, q = torch.randn(2, 3, 6, 4, 5, 5).double()

    def loss(p, x):
        y = nn.functional.conv2d(x, p["k"], padding=1)
        return nn.functional.batch_norm(y, None, None, p["w"], p["b"], training=True).tanh().square().mean()

    def task(p, x, q):
        slope = torch.func.grad(loss)(p, x)
        return loss({name: p[name] - 0.5 * slope[name] for name in p}, q)

    batched = torch.func.grad(lambda p: torch.func.vmap(task, (None, 0, 0))(p, x, q).mean())(p)["k"]
    looped = torch.func.grad(lambda p: sum(task(p, x[i], q[i]) for i in range(3)) / 3)(p)["k"]
    assert (batched - looped).norm() / looped.norm() > 0.01


class OwnForward(nn.LayerNorm):
    """A layer of another library, which calls torch's function itself and does more."""

    def forward(self, x):
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).tanh()


class ChannelsFirst(nn.LayerNorm):
    """A layer of another library, which calls torch's layer."""

    def forward(self, x):
        return super().forward(x.mT).mT


@pytest.mark.parametrize("layer", [nn.LayerNorm, OwnForward, ChannelsFirst])
def test_layer_normalisation_has_a_right_second_derivative_in_a_batch_of_tasks(layer):
    """Torch's own is wrong there, by as much as the gradient is large."""

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), layer(4)

        def forward(self, x):
            return self.norm(self.linear(x))

    apply, tensors = pure(Normalised().double())

    def adapted(tensors, x):
        slope = gradient(lambda fast: apply(fast, x).sin().sum(), tensors)
        return apply({n: t - 0.1 * slope[n] for n, t in tensors.items()}, x).sin().sum()

    x = torch.randn(3, 4, 4, dtype=torch.float64)
    together = torch.vmap(adapted, (None, 0))(tensors, x).sum()
    alone = torch.stack([adapted(tensors, one) for one in x]).sum()
    found, expected = (torch.autograd.grad(total, list(tensors.values())) for total in (together, alone))
    torch.testing.assert_close(found, expected)

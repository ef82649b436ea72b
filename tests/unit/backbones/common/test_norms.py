"""The fused layer against the plain operations that it stands for, and its derivatives against autograd's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from metalearn_cli.backbones.common import norms
from metalearn_cli.backbones.common.norms import BatchNormReluPool
from metalearn_cli.core import network

CASES = [(pool, reference) for pool in (True, False) for reference in (None, 2)]


def plain(x: Tensor, weight: Tensor, bias: Tensor, reference: int | None, pool: bool) -> Tensor:
    """The textbook: normalise, ReLU, pool; every derivative is autograd's."""
    first = x[:reference]
    mean, variance = first.mean((0, 2, 3)), first.var((0, 2, 3), correction=0)
    wide = [t[:, None, None] for t in (mean, variance, weight, bias)]
    y = relu((x - wide[0]) / (wide[1] + 1e-5).sqrt() * wide[2] + wide[3])
    return max_pool2d(y, 2) if pool else y


def tensors(dtype: torch.dtype = torch.float64, size: int = 5) -> list[Tensor]:
    torch.manual_seed(3)
    x = 2 * torch.randn(4, 6, size, size + 1) + torch.randn(6, 1, 1)
    weight, bias = torch.tensor([1.0, -0.7, 0.3, 1.5, -2.0, 1.0]), 0.3 * torch.randn(6)
    x = x.contiguous(memory_format=torch.channels_last)
    return [t.to(dtype).requires_grad_() for t in (x, weight, bias)]


@contextmanager
def first_items(reference: int | None) -> Iterator[None]:
    """Let so many of the first items give the statistics, as a network's functions do while they run."""
    before = network._reference.set(reference)
    yield
    network._reference.reset(before)


def fused(x: Tensor, weight: Tensor, bias: Tensor, reference: int | None, pool: bool) -> Tensor:
    layer = BatchNormReluPool(len(weight), pool)
    with first_items(reference):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)


class Folded(nn.Module):
    """A convolution of few channels, its normalisation folded into its kernels."""

    def __init__(self, kernels: Tensor, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(kernels.shape[-3], kernels.shape[-4], 3, 1 if pool else 2, 1, bias=False)
        self.norm = BatchNormReluPool(kernels.shape[-4], pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.of_convolution(self.conv, x)


@pytest.fixture(autouse=True)
def in_parts(monkeypatch):
    monkeypatch.setattr(norms, "_AT_ONCE", 3)


def folded(x, kernels, weight, bias, reference, pool, layer=None):
    names = dict(zip(("conv.weight", "norm.weight", "norm.bias"), (kernels, weight, bias), strict=True))
    with first_items(reference):
        return torch.func.functional_call(layer or Folded(kernels, pool), names, x)


def plainly_convolved(x, kernels, weight, bias, reference, pool):
    return plain(conv2d(x, kernels, stride=1 if pool else 2, padding=1), weight, bias, reference, pool)


def images(dtype: torch.dtype = torch.float64, channels: int = 2, size: int = 5) -> list[Tensor]:
    _, weight, bias = tensors(dtype)
    x, kernels = torch.rand(4, channels, size, size + 1), torch.randn(6, channels, 3, 3)
    return [*(t.to(dtype).requires_grad_() for t in (x, kernels)), weight, bias]


def derivatives(function, inputs, reference, pool):
    """The output, all first derivatives of a weighted sum of it, and all second ones of a weighted sum of those."""
    generator = torch.Generator().manual_seed(5)

    def weighted(t: Tensor) -> Tensor:
        return (t * torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype)).sum()

    y = function(*inputs, reference, pool)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype).requires_grad_()
    first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
    # the second derivative by a bias is none
    second = torch.autograd.grad(sum(weighted(g) for g in first), [*inputs, cotangent], materialize_grads=True)
    return [y, *first, *second]


@pytest.mark.parametrize(("pool", "reference"), CASES)
def test_values_and_both_derivatives_equal_the_plain_operations(pool, reference):
    ours = derivatives(fused, tensors(), reference, pool)
    theirs = derivatives(plain, tensors(), reference, pool)
    for one, two in zip(ours, theirs, strict=True):
        assert (one - two).norm() <= 1e-11 * two.norm()


@pytest.mark.parametrize(("pool", "reference"), CASES)
@pytest.mark.medium
def test_derivatives_by_finite_differences(pool, reference):
    x, weight, bias = tensors(size=3)
    x = x.detach()[:3, :2].requires_grad_()
    inputs = (x, weight.detach()[:2].requires_grad_(), bias.detach()[:2].requires_grad_())
    torch.autograd.gradcheck(lambda *t: fused(*t, reference, pool), inputs)
    torch.autograd.gradgradcheck(lambda *t: fused(*t, reference, pool), inputs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("pool", "reference"), CASES)
def test_folded_into_a_convolution_it_equals_the_plain_operations(pool, reference, channels):
    ours = derivatives(folded, images(channels=channels), reference, pool)
    theirs = derivatives(plainly_convolved, images(channels=channels), reference, pool)
    for one, two in zip(ours, theirs, strict=True):
        assert (one - two).norm() <= 1e-11 * two.norm()


def test_folded_it_computes_16_bit_convolutions_with_float32_statistics():
    inputs = [t.detach() for t in images(torch.float32)]
    exact = folded(*inputs, None, True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = folded(*inputs, None, True)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.01 * exact.norm()
    in_bfloat16 = [t.bfloat16() for t in inputs]
    rounded = folded(*in_bfloat16, None, True)
    assert rounded.dtype == torch.bfloat16
    exact = folded(*(t.float() for t in in_bfloat16), None, True)
    assert (rounded - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize(("pool", "reference"), CASES)
@pytest.mark.parametrize("shared", [True, False])
def test_folded_a_batch_of_tasks_equals_one_task_after_the_other(pool, reference, shared):
    x, kernels, weight, bias = (t.detach() for t in images())
    tasks = torch.stack([x, 2 * x + 1, x.flip(0)])
    leaves = kernels if shared else torch.stack([kernels, -kernels, kernels + 0.1])
    layer = Folded(kernels, pool)  # not under vmap, where nothing may be drawn

    def second_order(x: Tensor, kernels: Tensor) -> Tensor:
        def once(kernels: Tensor) -> Tensor:
            return folded(x, kernels, weight, bias, reference, pool, layer).pow(2).sum()

        return once(kernels - 0.01 * torch.func.grad(once)(kernels))

    leaf = leaves.clone().requires_grad_()
    batched = torch.func.vmap(second_order, in_dims=(0, None if shared else 0))(tasks, leaf)
    again = leaves.clone().requires_grad_()
    single = torch.stack([second_order(t, again if shared else again[i]) for i, t in enumerate(tasks)])
    torch.testing.assert_close(batched, single, rtol=1e-11, atol=0)
    (gradient,) = torch.autograd.grad(batched.sum(), leaf)
    (expected,) = torch.autograd.grad(single.sum(), again)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("pool", "reference"), CASES)
@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_of_tasks_equals_one_task_after_the_other(pool, reference, shared):
    x, weight, bias = (t.detach() for t in tensors())
    tasks = torch.stack([x, 2 * x + 1, x.flip(0)])
    weights = weight if shared else torch.stack([weight, -weight, weight + 0.1])

    def second_order(x: Tensor, weight: Tensor) -> Tensor:
        def once(weight: Tensor) -> Tensor:
            return fused(x, weight, bias, reference, pool).pow(2).sum()

        moved = weight - 0.01 * torch.func.grad(once)(weight)
        return fused(x, moved, bias, reference, pool).pow(2).sum()

    leaf = weights.clone().requires_grad_()
    batched = torch.func.vmap(second_order, in_dims=(0, None if shared else 0))(tasks, leaf)
    (gradient,) = torch.autograd.grad(batched.sum(), leaf)
    again = weights.clone().requires_grad_()
    single = torch.stack([second_order(t, again if shared else again[i]) for i, t in enumerate(tasks)])
    (expected,) = torch.autograd.grad(single.sum(), again)
    torch.testing.assert_close(batched, single, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_float32_statistics_keep_their_digits_even_far_from_zero(offset):
    torch.manual_seed(0)
    x = (torch.randn(64, 8, 28, 28) + offset).contiguous(memory_format=torch.channels_last)
    layer = BatchNormReluPool(8, pool=False)
    exact = layer.double()(x.double())
    error = (layer.float()(x).double() - exact).norm() / exact.norm()
    assert error < 1e-6 * max(1.0, offset / 10)


def test_float32_statistics_of_a_convolution_keep_their_digits():
    torch.manual_seed(0)
    x = (torch.rand(64, 1, 28, 28) > 0.8).float()  # strokes on paper
    inputs = [x, torch.randn(8, 1, 3, 3), torch.ones(8), torch.zeros(8)]
    inputs[1][0] = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])  # differences alone: the most cancels
    exact = plainly_convolved(*(t.double() for t in inputs), None, True)
    error = (folded(*inputs, None, True).double() - exact).norm() / exact.norm()
    assert error < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("pool", "folded"), [(True, False), (False, False), (True, True)])
def test_on_a_gpu_torchs_own_kernels_give_the_same_values_and_both_derivatives(monkeypatch, pool, folded):
    def results(own: bool) -> list[Tensor]:
        monkeypatch.setattr(norms, "_few_launches", lambda x: own)
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 6, 3, padding=1, bias=False).double().cuda()
        layer = BatchNormReluPool(6, pool).double().cuda()
        layer.weight.data.copy_(torch.tensor([1.0, -0.7, 0.3, 1.5, -2.0, 1.0]))
        x = torch.randn(4, 2, 6, 8, dtype=torch.float64, device="cuda")
        y = layer.of_convolution(conv, x) if folded else layer(conv(x))
        first = torch.autograd.grad(y.tanh().sum(), [conv.weight, *layer.parameters()], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [conv.weight, *layer.parameters()])
        return [y, *first, *second]

    for own, plain_one in zip(results(True), results(False), strict=True):
        torch.testing.assert_close(own, plain_one)

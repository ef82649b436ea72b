"""Normalisation without hidden state, and batch normalisation fused with the ReLU and max-pooling that follow it.

Pooling comes first here: max-pooling and ReLU commute with an increasing affine map, so normalising the pooled values
gives the same result on a quarter of the pixels. Both derivatives are in closed form, because the graph that autograd
would record for them needs several times as much memory traffic. The outputs of the first convolution on images are the
largest tensors of a network; they are normalised without reading them: see `of_convolution`.

Legend: B items, R items that give the statistics, M = R * H * W values per channel in the statistics, C channels,
H height, W width, h and w height and width after pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import batch_norm, max_pool2d, relu, unfold
from torch.utils._python_dispatch import _get_current_dispatch_mode

from metalearn_cli.core.network import moments, reference, total

Norm = Literal["batch", "group", "none"]
AnyNorm = Literal["batch", "running", "group", "none"]
"""running: the statistics that training in batches has accumulated; within an episode they are constants."""


class BatchNormReluPool(nn.Module):
    """Batch normalisation by the statistics of the current batch, then ReLU, then 2x2 max-pooling or none.

    There are no running statistics. Differentiable twice, also under `torch.func` transforms; under `vmap` each task's
    channels are channels of one large batch.

    Args:
        channels: C, >= 1.
        pool: whether to halve the image.

    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, Algorithm 1.
    """

    def __init__(self, channels: int, pool: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, h, w] from x [B, C, H, W], each channel normalised to mean `bias` and deviation `weight`.

        All items are normalised with the statistics of the first R items; R is the value of `core.network.reference`.

        Args:
            x: the outputs of a convolution; statistics of 16-bit values are computed in float32.
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        if total():
            y = relu(_over_ranks(x.to(precise), self.weight.to(precise), self.bias.to(precise)))
            return (max_pool2d(y, 2) if self.pool else y).to(x.dtype)
        if _few_launches(x):
            y = relu(batch_norm(x, None, None, self.weight.to(precise), self.bias.to(precise), training=True, eps=EPS))
            return max_pool2d(y, 2) if self.pool else y
        tensors = [t.to(precise) for t in (x, self.weight, self.bias)]
        y = cast(Tensor, _Forward.apply(*tensors, reference() or len(x), self.pool)[0])
        return y.to(x.dtype)

    def of_convolution(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """Return `self(conv(x))` with much less memory traffic if x has few channels.

        A convolution is linear in the patches of its input. So the mean and covariance of the patches give the mean and
        variance of its outputs, without reading the outputs. Normalising them is then a convolution with scaled
        kernels: a product with the patches, whose derivatives cost less than those of a convolution.

        Args:
            conv: a convolution without bias.
            x: its inputs [B, c, H, W]; the covariance of a patch has 9 * c rows where kernels are 3x3.
        """
        if _few_launches(x) or total():
            return self(conv(x))
        precise = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            kernels, weight, bias = (t.to(precise) for t in (conv.weight, self.weight, self.bias))
            padding = cast(tuple[int, int], conv.padding)
            patches = unfold(x.to(precise), conv.kernel_size, padding=padding, stride=conv.stride)
            first = patches[: reference()]
            mean = first.mean((0, 2))
            centred = first - mean[:, None]
            # image by image, because one long product would lose digits
            covariance = (centred @ centred.mT).mean(0) / patches.shape[2]
            rows = kernels.flatten(1)
            steep = weight * ((rows @ covariance * rows).sum(1) + EPS).rsqrt()
            level = bias - steep * (rows @ mean)
        normalising = (rows * steep[:, None]).to(x.dtype).mT.expand(len(x), -1, -1)
        height = (x.shape[2] + 2 * padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1
        outputs = []
        for part in patches.split(_AT_ONCE):
            y = torch.bmm(part.mT.to(x.dtype), normalising[: len(part)]).unflatten(1, (height, -1)).movedim(3, 1)
            y = max_pool2d(y, 2) if self.pool else y
            outputs.append(relu(y + _wide(level)).to(y.dtype))
        return torch.cat(outputs)


class BatchNorm(nn.Module):
    """Batch normalisation by the statistics of the current batch, and nothing else; see `BatchNormReluPool`.

    Args:
        channels: C, >= 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, ...], normalised with the statistics of the first R items."""
        precise = torch.promote_types(x.dtype, torch.float32)
        y, weight, bias = (t.to(precise) for t in (x, self.weight, self.bias))
        if total():
            return _over_ranks(y, weight, bias).to(x.dtype)
        if reference() is None and not torch._C._are_functorch_transforms_active():
            return batch_norm(y, None, None, weight, bias, training=True, eps=EPS).to(x.dtype)
        others = (0, *range(2, x.ndim))
        first = y[: reference()]
        mean = first.mean(others, keepdim=True)
        variance = (first - mean).square().mean(others, keepdim=True)
        weight, bias = (t.view(-1, *[1] * (x.ndim - 2)) for t in (weight, bias))
        return ((y - mean) * (weight * (variance + EPS).rsqrt()) + bias).to(x.dtype)


def make_plain_norm(norm: AnyNorm, channels: int, dimensions: int = 2) -> nn.Module:
    """Return a layer that normalises [B, C, ...] and does nothing else.

    Args:
        norm: which kind.
        channels: C.
        dimensions: number of dimensions after the channels, 1 or 2.
    """
    if norm == "batch":
        return BatchNorm(channels)
    if norm == "running":
        return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)
    return _group_or_none(norm, channels)


def make_norm(norm: Norm, channels: int, pool: bool) -> nn.Module:
    """Return the layer that a backbone's `norm` setting names; "batch" includes ReLU and pooling."""
    if norm == "batch":
        return BatchNormReluPool(channels, pool)
    return _group_or_none(norm, channels)


def _group_or_none(norm: AnyNorm, channels: int) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    return nn.Identity()


def _over_ranks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x [B, C, ...], normalised with the statistics of the first R items of every rank."""
    mean, variance = moments(x[: reference()])
    weight, bias = (t.view(-1, *[1] * (x.ndim - 2)) for t in (weight, bias))
    return (x - mean) * (weight * (variance + EPS).rsqrt()) + bias


def _few_launches(x: Tensor) -> bool:
    """Whether torch's own kernels are faster: on a GPU each operation costs a launch, and torch needs fewer.

    Not in a batch of tasks, where the second derivative of torch's batch normalisation is wrong without warning (seen
    in 2.13), nor if only some items give the statistics, nor in a graph that is being recorded, whose operations are
    fused.
    """
    batched = torch._C._are_functorch_transforms_active()
    return x.is_cuda and not batched and reference() is None and _get_current_dispatch_mode() is None


EPS = 1e-5  # added to variances
_AT_ONCE = 25  # images pooled at a time, so that they are still in the processor's cache


def _sum(x: Tensor) -> Tensor:
    """Return the sum over all but channels [1, C, 1, 1]; torch adds in blocks, which is accurate in float32."""
    return x.sum((0, 2, 3), keepdim=True)


def _wide(c: Tensor) -> Tensor:
    """Return [C] as [1, C, 1, 1], to combine with images."""
    return c.view(1, -1, 1, 1)


def _first(x: Tensor, reference: int) -> Tensor:
    """Return the first R items."""
    return x if reference == len(x) else x[:reference]


def _count(x: Tensor, reference: int) -> int:
    """Return M."""
    return reference * x.shape[2] * x.shape[3]


def _scattered(pooled: Tensor, like: Tensor, index: Tensor | None) -> Tensor:
    """Put pooled values back to their places, zeros elsewhere: a new tensor of the shape of `like`."""
    if index is None:
        return pooled.clone()
    scatter = torch.ops.aten.max_pool2d_with_indices_backward
    return cast(Tensor, scatter(pooled, like, [2, 2], [2, 2], [0, 0], [1, 1], False, index))


def _pooled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values [B, C, h, w] of x that are the largest of their window once normalised, and their places."""
    # reading a value from a GPU would wait for it, and a graph that is being recorded must hold for all values
    if x.is_cpu and _get_current_dispatch_mode() is None and not bool((weight < 0).any()):
        return max_pool2d(x, 2, return_indices=True)
    sign = _wide(torch.where(weight < 0, -1.0, 1.0).to(x.dtype))  # a negative weight makes the smallest the largest
    pooled, index = max_pool2d(x * sign, 2, return_indices=True)
    return pooled * sign, index


def _gathered(x: Tensor, index: Tensor | None) -> Tensor:
    """Return the values [B, C, h, w] of x [B, C, H, W] at the places that pooling chose."""
    if index is None:
        return x
    # row by row of channels, as images lie in memory
    rows, places = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (x, index))
    return rows.gather(1, places).unflatten(1, index.shape[2:]).permute(0, 3, 1, 2)


def _folded(info: Any, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
    """Merge tasks into channels: [T, B, C, H, W] becomes [B, T * C, H, W], and [T, C] becomes [T * C].

    Tensors that the tasks share are repeated for each.
    """
    folded = []
    for dim, arg in zip(in_dims, args, strict=True):
        if isinstance(arg, Tensor):
            channels = 0 if arg.ndim - (dim is not None) == 1 else 1
            arg = arg.movedim(dim, channels) if dim is not None else arg.unsqueeze(channels)
            arg = arg.expand(*arg.shape[:channels], info.batch_size, *arg.shape[channels + 1 :])
            arg = arg.flatten(channels, channels + 1)
        folded.append(arg)
    return folded


def _unfolded(info: Any, outputs: Sequence[Tensor | None]) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """Undo `_folded`; returns also the dimensions of the tasks."""
    dims = tuple(None if t is None else int(t.ndim > 1) for t in outputs)
    pairs = zip(outputs, dims, strict=True)
    return tuple(None if t is None else t.unflatten(cast(int, d), (info.batch_size, -1)) for t, d in pairs), dims


class _Op(Function):
    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        # without the binding of default arguments, which takes longer than the computation on a small support set
        return super(Function, cls).apply(*args)  # type: ignore[misc]  # it is a builtin's


class _Forward(_Op):
    """y = relu(pool(weight * n + bias)) with n = (x - mean) * scale, mean and scale those of the first R items.

    The other outputs are for the derivatives: the pooled n, its places, mean, scale and weight * scale.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, reference: int, pool: bool) -> tuple[Tensor | None, ...]:
        first = _first(x, reference)
        count = _count(x, reference)
        mean = _sum(first) / count
        squares = _sum((first - mean).square_())
        scale = torch.add(EPS, squares, alpha=1 / count).rsqrt_()
        pooled, index = _pooled(x, weight) if pool else (x, None)
        n = (pooled - mean).mul_(scale)
        wide = _wide(weight)
        y = torch.addcmul(_wide(bias), n, wide).relu_()
        return y, n, index, mean, scale, wide * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        y, n, index, mean, scale, steep = output
        ctx.reference = inputs[3]
        ctx.set_materialize_grads(False)  # zeros for non-differentiable outputs would take as long as the rest
        ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
        ctx.save_for_backward(inputs[0], inputs[1], y, n, index, mean, scale, steep)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_y is None:
            return (None,) * 5
        return (*_Backward.apply(grad_y, *ctx.saved_tensors, ctx.reference)[:3], None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _unfolded(info, _Forward.apply(*_folded(info, in_dims, args)))


class _Backward(_Op):
    """The gradient of `_Forward`, itself differentiable once.

    With g the incoming gradient where ReLU is active, and n at the pooled places:
    grad_bias = sum(g), grad_weight = sum(g * n),
    grad_x = weight * scale * (scatter(g) - [first R items] (grad_bias + n * grad_weight) / M).
    """

    @staticmethod
    def forward(
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        n: Tensor,
        index: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        steep: Tensor,
        reference: int,
    ) -> tuple[Tensor, ...]:
        g = torch.ops.aten.threshold_backward(grad_y, y, 0)
        grad_bias, grad_weight = _sum(g), _sum(g * n)
        grad_x = _scattered(g * steep, x, index)
        unit = steep / -_count(x, reference)
        slope = unit * scale * grad_weight
        level = torch.addcmul(unit * grad_bias, slope, mean, value=-1)
        _first(grad_x, reference).addcmul_(_first(x, reference), slope).add_(level)
        return grad_x, grad_weight.flatten(), grad_bias.flatten(), g

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        _, x, _, y, n, index, mean, scale, steep, ctx.reference = inputs
        _, grad_weight, grad_bias, g = output
        ctx.mark_non_differentiable(g)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, n, index, mean, scale, steep, grad_weight, grad_bias, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        """Differentiate p = sum(c * grad_x) + sum(c_weight * grad_weight) + sum(c_bias * grad_bias).

        p depends on x through n (in grad_weight and in c_n, below) and through scale, on weight only through steep.
        """
        x, y, n, index, mean, scale, steep, *sums, g = ctx.saved_tensors
        pairs = zip(incoming[:3], (x, *sums), strict=True)
        c, *c_sums = (torch.zeros_like(t) if c is None else c for c, t in pairs)
        grad_weight, grad_bias, c_weight, c_bias = (_wide(t) for t in (*sums, *c_sums))
        count = _count(x, ctx.reference)
        first_x, first_c = _first(x, ctx.reference), _first(c, ctx.reference)
        c_pooled = _gathered(c, index)
        c_mean = _sum(first_c) / count  # means over the first R items: of c ...
        c_n = torch.addcmul(_sum(first_c * first_x) / count, mean, c_mean, value=-1) * scale  # ... and of c * n
        inner = _sum(c_pooled * g).addcmul_(grad_bias, c_mean, value=-1).addcmul_(grad_weight, c_n, value=-1)
        on_weight = torch.addcmul(c_weight, steep, c_n, value=-1)  # derivative of p by grad_weight
        on_bias = torch.addcmul(c_bias, steep, c_mean, value=-1)  # by grad_bias
        on_c_n = steep * grad_weight / -count  # and by the sum of c * n

        on_g = torch.addcmul(on_bias, n, on_weight).addcmul_(c_pooled, steep)
        on_grad_y = torch.ops.aten.threshold_backward(on_g, y, 0)

        share = on_weight / count
        on_n = torch.addcmul(on_c_n * c_mean, share, grad_bias)  # mean of the derivative of p by n
        on_n_n = torch.addcmul(on_c_n * c_n, share, grad_weight)  # and of its product with n
        slope = torch.addcmul(on_n_n, steep, inner, value=1 / count).mul_(scale).mul_(-scale)
        level = torch.addcmul(on_n * -scale, slope, mean, value=-1)
        on_x = _scattered(g * (scale * on_weight), x, index)
        _first(on_x, ctx.reference).addcmul_(first_x, slope).addcmul_(first_c, scale * on_c_n).add_(level)
        return on_grad_y, on_x, (scale * inner).flatten(), *[None] * 7

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _unfolded(info, _Backward.apply(*_folded(info, in_dims, args)))

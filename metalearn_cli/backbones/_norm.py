"""Normalisation without hidden state, and batch normalisation fused with the ReLU and max-pooling that follow it.

Pooling comes first here: max-pooling and ReLU commute with an increasing affine map, so normalising the pooled values
is the same and touches a quarter of the pixels. Both derivatives are written out (closed forms), because the graph that
autograd would record for them costs several times as much memory traffic.

Legend: B items, R items that give the statistics, M = R * H * W values behind each of them, C channels, H height,
W width, h and w height and width after pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import max_pool2d

NORMS = ("batch", "group", "none")


class BatchNormReluPool(nn.Module):
    """Batch normalisation by the statistics of the batch at hand, then ReLU, then 2x2 max-pooling or none.

    There are no running statistics, ever. Differentiable twice, also under `torch.func` transforms; under `vmap` each
    task's channels are channels of one large batch.

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

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """Return [B, C, h, w] from x [B, C, H, W], each channel normalised to mean `bias` and deviation `weight`.

        Args:
            x: the outputs of a convolution; statistics of 16-bit ones are taken in float32.
            reference: R, how many of the first items give the statistics that all are normalised by; None means all.
        """
        precise = torch.promote_types(x.dtype, torch.float32)
        tensors = [t.to(precise) for t in (x, self.weight, self.bias)]
        y = cast(Tensor, _Forward.apply(*tensors, len(x) if reference is None else reference, self.pool)[0])
        return y.to(x.dtype)


def make_norm(norm: str, channels: int, pool: bool) -> nn.Module:
    """Return the layer that a backbone's `norm` setting names; "batch" brings ReLU and pooling with it.

    Raises:
        ValueError: if there is no such one.
    """
    if norm == "batch":
        return BatchNormReluPool(channels, pool)
    if norm == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")


_EPS = 1e-5


def _sum(x: Tensor) -> Tensor:
    """Return the sum over everything but channels [C], by torch's blockwise addition, which keeps float32 accurate."""
    return x.sum((0, 2, 3))


def _wide(c: Tensor) -> Tensor:
    """Return [C] as [C, 1, 1], to be combined with images."""
    return c[:, None, None]


def _scattered(pooled: Tensor, like: Tensor, index: Tensor | None) -> Tensor:
    """Put pooled values back to where they came from, zeros elsewhere: a new tensor of the shape of `like`."""
    if index is None:
        return pooled.clone()
    scatter = torch.ops.aten.max_pool2d_with_indices_backward
    return cast(Tensor, scatter(pooled, like, [2, 2], [2, 2], [0, 0], [1, 1], False, index))


def _pooled(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values [B, C, h, w] of x that are the largest of their window once normalised, and their places."""
    if not bool((weight < 0).any()):
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
    """Make the channels of T tasks those of one: [T, B, C, H, W] becomes [B, T * C, H, W], and [T, C] [T * C].

    What the tasks share is repeated for each.
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
    """Undo `_folded`, saying where the tasks are."""
    dims = tuple(None if t is None else int(t.ndim > 1) for t in outputs)
    pairs = zip(outputs, dims, strict=True)
    return tuple(None if t is None else t.unflatten(cast(int, d), (info.batch_size, -1)) for t, d in pairs), dims


class _Op(Function):
    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        # past the binding of default arguments, which takes longer than the computation on a small support set
        return super(Function, cls).apply(*args)  # type: ignore[misc]  # it is a builtin's


class _Forward(_Op):
    """y = relu(pool(weight * n + bias)) with n = (x - mean) * scale, mean and scale those of the first R items.

    The other outputs are what the derivatives need: the pooled x, where it came from, mean and scale.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, reference: int, pool: bool) -> tuple[Tensor | None, ...]:
        first = x[:reference]
        shift = first[0, :, 0, 0]  # close enough to the mean for the difference below to lose no digits
        centred = first - _wide(shift)
        offset = _sum(centred) / (len(first) * x[0, 0].numel())
        variance = _sum(centred.square_()) / (len(first) * x[0, 0].numel()) - offset.square()
        mean, scale = shift + offset, (variance + _EPS).rsqrt()
        pooled, index = _pooled(x, weight) if pool else (None, None)
        y = torch.addcmul(_wide(bias), (x if pooled is None else pooled) - _wide(mean), _wide(weight * scale)).relu_()
        return y, pooled, index, mean, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, weight, _, ctx.reference, _ = inputs
        y, pooled, index, mean, scale = output
        ctx.mark_non_differentiable(*(t for t in (pooled, index, mean, scale) if t is not None))
        ctx.save_for_backward(x, weight, y, pooled, index, mean, scale)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return (*_Backward.apply(grad_y, *ctx.saved_tensors, ctx.reference)[:3], None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _unfolded(info, _Forward.apply(*_folded(info, in_dims, args)))


class _Backward(_Op):
    """The gradient of `_Forward`, itself differentiable once.

    With g the incoming gradient where ReLU let through, and n at the pooled places:
    grad_bias = sum(g), grad_weight = sum(g * n),
    grad_x = weight * scale * (scatter(g) - [first R items] (grad_bias + n * grad_weight) / M).
    """

    @staticmethod
    def forward(
        grad_y: Tensor,
        x: Tensor,
        weight: Tensor,
        y: Tensor,
        pooled: Tensor | None,
        index: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        reference: int,
    ) -> tuple[Tensor, ...]:
        g = torch.ops.aten.threshold_backward(grad_y, y, 0)
        count = reference * x[0, 0].numel()
        grad_bias = _sum(g)
        grad_weight = (_sum(g * (x if pooled is None else pooled)) - mean * grad_bias) * scale
        steep = weight * scale
        grad_x = _scattered(g * _wide(steep), x, index)
        slope = -steep * scale * grad_weight / count
        level = -steep * grad_bias / count - slope * mean
        grad_x[:reference].addcmul_(x[:reference], _wide(slope)).add_(_wide(level))
        return grad_x, grad_weight, grad_bias, g

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        _, x, weight, y, pooled, index, mean, scale, ctx.reference = inputs
        _, grad_weight, grad_bias, g = output
        ctx.mark_non_differentiable(g)
        ctx.save_for_backward(x, weight, y, pooled, index, mean, scale, grad_weight, grad_bias, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, c: Tensor, c_weight: Tensor, c_bias: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        """Differentiate p = sum(c * grad_x) + sum(c_weight * grad_weight) + sum(c_bias * grad_bias).

        p depends on x through n (in grad_weight and in c_n, below) and through scale, on weight through steep alone.
        """
        x, weight, y, pooled, index, mean, scale, grad_weight, grad_bias, g = ctx.saved_tensors
        reference = ctx.reference
        count = reference * x[0, 0].numel()
        steep = weight * scale
        c_pooled, first_c, first_x = _gathered(c, index), c[:reference], x[:reference]
        c_sum = _sum(first_c)
        c_n = (_sum(first_c * first_x) - mean * c_sum) * scale
        inner = _sum(c_pooled * g) - (grad_bias * c_sum + grad_weight * c_n) / count  # sum(c * grad_x) / steep
        on_weight = c_weight - steep * c_n / count  # derivative of p by grad_weight
        on_c_n = -steep * grad_weight / count  # and by c_n

        slope = on_weight * scale
        level = c_bias - steep * c_sum / count - slope * mean
        places = x if pooled is None else pooled
        on_g = torch.addcmul(torch.addcmul(_wide(level), places, _wide(slope)), c_pooled, _wide(steep))
        on_grad_y = torch.ops.aten.threshold_backward(on_g, y, 0)

        on_n = (on_weight * grad_bias + on_c_n * c_sum) / count  # mean of the derivative of p by n
        on_n_n = (on_weight * grad_weight + on_c_n * c_n) / count  # and of its product with n
        slope = -scale * scale * (on_n_n + weight * inner * scale / count)
        level = -scale * on_n - slope * mean
        on_x = _scattered(g * _wide(scale * on_weight), x, index)
        first = on_x[:reference].addcmul_(first_x, _wide(slope))
        first.addcmul_(first_c, _wide(scale * on_c_n)).add_(_wide(level))
        return on_grad_y, on_x, scale * inner, *[None] * 6

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _unfolded(info, _Backward.apply(*_folded(info, in_dims, args)))

"""Gradients of functions of tensors, for the steps of learners."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.network import Params

checkpointing: ContextVar[bool] = ContextVar("checkpointing", default=False)
"""Whether `gradient` recomputes, when it is differentiated itself, what it would otherwise store.

Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): adapting by many steps then needs the
memory of one step. Not under `torch.func` transforms.
"""

Loss = Callable[..., Tensor]


def gradient(loss: Loss, params: Params, first_order: bool = False, given: Params | None = None) -> Params:
    """Return the gradient of a loss [] with respect to `params`; it can be differentiated again.

    A tensor that the loss does not use has a gradient of zeros.

    Args:
        loss: a function `loss(params)`, or `loss(params, given)` where `given` is not None. With `checkpointing` it is
            called again later: it must not draw random numbers, or use a variable that has changed by then.
        params: the tensors; they do not have to be leaves.
        first_order: return a constant instead, which costs less.
        given: other tensors that the loss depends on, and that the outer gradient must reach, also with
            `checkpointing`.

    Raises:
        ValueError: with `checkpointing`, if the loss depends on tensors that require gradients and are in neither.
        RuntimeError: with `checkpointing`, if the loss has another value when it is recomputed.
    """
    rest = () if given is None else (given,)
    if torch._C._are_functorch_transforms_active():  # a batch of tasks, where only this kind of gradient is possible
        at = {name: p.detach() for name, p in params.items()} if first_order else params
        return torch.func.grad(lambda fast: loss(fast, *rest))(at)
    # elsewhere autograd, with half as much work for the interpreter; it records only what is differentiated later
    again = torch.is_grad_enabled() and not first_order
    if again and checkpointing.get():
        tensors = (*params.values(), *(given or {}).values())
        names = (tuple(params), None if given is None else tuple(given))
        return dict(zip(params, _Recomputed.apply(loss, *names, *tensors), strict=True))
    return _gradient(lambda fast: loss(fast, *rest), params, again)


def _gradient(loss: Loss, params: Params, again: bool) -> Params:
    with torch.enable_grad():
        # a view, because one of the tensors may depend on another: the gradient is of the loss, not through that
        at = {n: p.view_as(p) if again and p.requires_grad else p.detach().requires_grad_() for n, p in params.items()}
        found = torch.autograd.grad(loss(at), list(at.values()), create_graph=again, materialize_grads=True)
    return dict(zip(at, found, strict=True))


class _Recomputed(torch.autograd.Function):
    """The gradient of a loss, which stores only its inputs and recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, names: tuple[str, ...], others: tuple[str, ...] | None, *tensors: Tensor) -> Any:
        ctx.loss, ctx.names, ctx.others = loss, names, others
        fast, rest = _sorted([t.detach() for t in tensors], names, others)
        with torch.enable_grad():
            value = loss(fast, *rest)
            if value.requires_grad:
                raise ValueError(
                    "gradient checkpointing: the loss depends on tensors that are not in `params`; "
                    "pass them to `gradient` as `given`"
                )
        ctx.save_for_backward(*tensors, value.detach())
        return tuple(_gradient(lambda fast: loss(fast, *rest), fast, again=False).values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        *tensors, before = ctx.saved_tensors
        at = [t.detach().requires_grad_() for t in tensors]
        fast, rest = _sorted(at, ctx.names, ctx.others)
        with torch.enable_grad():
            value = ctx.loss(fast, *rest)
            if not torch.allclose(value.detach(), before, rtol=1e-2, atol=1e-4, equal_nan=True):
                raise RuntimeError(
                    f"gradient checkpointing: the loss was {before.item():.4g}, but {value.item():.4g} when "
                    "recomputed; a function given to `gradient` must not use variables that change after the call"
                )
            found = torch.autograd.grad(value, list(fast.values()), create_graph=True, materialize_grads=True)
        varying = [(f, g) for f, g in zip(found, gradients, strict=True) if f.requires_grad]
        if not varying:
            return (None,) * (3 + len(at))
        outputs, grad_outputs = zip(*varying, strict=True)
        return None, None, None, *torch.autograd.grad(outputs, at, grad_outputs, allow_unused=True)


def _sorted(
    tensors: list[Tensor], names: tuple[str, ...], others: tuple[str, ...] | None
) -> tuple[Params, tuple[Params, ...]]:
    """Return the tensors by name: those of `params`, and those of `given` if there are any."""
    fast = dict(zip(names, tensors[: len(names)], strict=True))
    return fast, () if others is None else (dict(zip(others, tensors[len(names) :], strict=True)),)

"""The one place where a module becomes a pure function of its tensors, and gradients are taken of such functions."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metalearn_cli.core.types import Apply, Params


def pure(module: nn.Module) -> tuple[Apply, Params]:
    """Split a module into a pure function and its parameters.

    Args:
        module: any module without hidden state: no buffers (running statistics), no tied parameters.

    Returns:
        `apply(params, *args, **kwargs)`, which runs `module` with exactly these tensors, and the module's own tensors
        by name, detached copies that require gradients.

    Raises:
        ValueError: if the module has buffers or tied parameters, naming them.
    """
    buffers = [name for name, _ in module.named_buffers()]
    if buffers:
        raise ValueError(f"the network keeps hidden state in {', '.join(buffers)}; use batch statistics or group norm")
    names = {name for name, _ in module.named_parameters()}
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)} - names
    if tied:
        raise ValueError(f"the network ties parameters: {', '.join(sorted(tied))}")

    copies = threading.local()  # the call swaps tensors inside the module, so each thread has a module of its own

    def apply(params: Params, *args: object, **kwargs: object) -> Tensor:
        if not hasattr(copies, "module"):
            copies.module = copy.deepcopy(module)
        # strict: a misspelt name would otherwise set a new attribute and train nothing
        return functional_call(copies.module, params, args, kwargs, tie_weights=False, strict=True)

    return apply, {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}


checkpointing: ContextVar[bool] = ContextVar("checkpointing", default=False)
"""Whether `gradient` computes again, when its own gradient is asked for, what it would keep for that.

Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): the memory of an algorithm that adapts by
many steps is that of one of them. Not under `torch.func` transforms.
"""


def gradient(loss: Callable[[Params], Tensor], params: Params, first_order: bool = False) -> Params:
    """Return the gradient of a loss [], for an algorithm to take a step with; it can be differentiated in turn.

    Args:
        loss: a function of the tensors; with `checkpointing`, one that draws no random numbers.
        params: where the gradient is taken; they need not be leaves.
        first_order: return a constant instead, which costs less.

    Raises:
        ValueError: with `checkpointing`, if the loss depends on other tensors that require gradients.
    """
    if torch._C._are_functorch_transforms_active():  # a batch of tasks, where only this kind of gradient is possible
        at = {name: p.detach() for name, p in params.items()} if first_order else params
        return torch.func.grad(loss)(at)
    # elsewhere autograd, with half as much work for the interpreter; it records nothing that nobody will ask for
    again = torch.is_grad_enabled() and not first_order
    if again and checkpointing.get():
        return dict(zip(params, _Recomputed.apply(loss, tuple(params), *params.values()), strict=True))
    return _gradient(loss, params, again)


def _gradient(loss: Callable[[Params], Tensor], params: Params, again: bool) -> Params:
    with torch.enable_grad():
        at = {name: p if again and p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        found = torch.autograd.grad(loss(at), list(at.values()), create_graph=again)
    return dict(zip(at, found, strict=True))


class _Recomputed(torch.autograd.Function):
    """The gradient of a loss, of which nothing is kept but where it was taken."""

    @staticmethod
    def forward(ctx: Any, loss: Callable[[Params], Tensor], names: tuple[str, ...], *tensors: Tensor) -> Any:
        ctx.loss, ctx.names = loss, names
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            if loss({name: t.detach() for name, t in zip(names, tensors, strict=True)}).requires_grad:
                raise ValueError("gradient checkpointing: the loss depends on tensors that it is not differentiated by")
        return tuple(_gradient(loss, dict(zip(names, tensors, strict=True)), again=False).values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        at = {name: t.detach().requires_grad_() for name, t in zip(ctx.names, ctx.saved_tensors, strict=True)}
        found = _gradient(ctx.loss, at, again=True).values()
        varying = [(f, g) for f, g in zip(found, gradients, strict=True) if f.requires_grad]
        if not varying:
            return (None,) * (2 + len(at))
        outputs, grad_outputs = zip(*varying, strict=True)
        return None, None, *torch.autograd.grad(outputs, list(at.values()), grad_outputs, allow_unused=True)

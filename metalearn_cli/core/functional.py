"""The one place where a module becomes a pure function of its tensors, and gradients are taken of such functions."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
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


def gradient(loss: Callable[[Params], Tensor], params: Params, first_order: bool = False) -> Params:
    """Return the gradient of a loss [], for an algorithm to take a step with; it can be differentiated in turn.

    Args:
        loss: a function of the tensors.
        params: where the gradient is taken; they need not be leaves.
        first_order: return a constant instead, which costs less.
    """
    if torch._C._are_functorch_transforms_active():  # a batch of tasks, where only this kind of gradient is possible
        at = {name: p.detach() for name, p in params.items()} if first_order else params
        return torch.func.grad(loss)(at)
    # elsewhere autograd, with half as much work for the interpreter; it records nothing that nobody will ask for
    again = torch.is_grad_enabled() and not first_order
    with torch.enable_grad():
        at = {name: p if again and p.requires_grad else p.detach().requires_grad_() for name, p in params.items()}
        found = torch.autograd.grad(loss(at), list(at.values()), create_graph=again)
    return dict(zip(at, found, strict=True))


def recomputed(step: Callable[[Params], Params], params: Params) -> Params:
    """Return `step(params)` without keeping its graph: it is computed once more when its gradient is asked for.

    Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): memory is that of one step, however
    many are taken; time grows by about a third. Not under `torch.func` transforms.

    Args:
        step: a function of the tensors, which draws no random numbers.
        params: its argument; what it returns has the same names.
    """
    return dict(zip(params, _Recomputed.apply(step, tuple(params), *params.values()), strict=True))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Callable[[Params], Params], names: tuple[str, ...], *tensors: Tensor) -> Any:
        ctx.step, ctx.names = step, names
        ctx.save_for_backward(*tensors)
        return tuple(step(dict(zip(names, tensors, strict=True))).values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        tensors = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.step(dict(zip(ctx.names, tensors, strict=True)))
        return None, None, *torch.autograd.grad(list(outputs.values()), tensors, gradients)

"""The one place where a module becomes a pure function of its tensors."""

from __future__ import annotations

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

    def apply(params: Params, *args: object, **kwargs: object) -> Tensor:
        # strict: a misspelt name would otherwise set a new attribute and train nothing
        return functional_call(module, params, args, kwargs, strict=True)

    return apply, {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}

"""Pruning: the channels of a chain of layers with the smallest weights are taken out, which leaves a narrower network.

Source: Li et al. 2017, https://arxiv.org/abs/1608.08710. The scales of batch normalisation (Liu et al. 2017) say less
here: nothing has drawn them to zero in training.

Legend: O output channels, I input channels.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from metalearn_cli.core.build import Spec
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.network import Backbone, Params

DISTIL = "type method=distill, which trains a narrower one to do the same"


def narrower(spec: Spec, amount: float) -> dict[str, Any]:
    """Return the settings of a backbone with fewer channels.

    Args:
        spec: its settings.
        amount: the share of its channels that is taken away, in (0, 1).

    Raises:
        UserError: if it has no setting `hidden`, or none of so many channels goes.
    """
    width, kind = spec.get("hidden"), str(spec.get("_target_")).rpartition(".")[2]
    if not isinstance(width, int):
        told = f"{kind} has no setting hidden, so that it has no narrower form; type method=distill and choose the"
        raise UserError(f"{told} smaller network, as in backbone=conv4 backbone.hidden=32")
    heads = spec.get("heads") or 1  # of attention, which share the channels equally
    left = max(1, round(width * (1 - amount) / heads)) * heads
    if left == width:
        raise UserError(f"amount={amount:g} of {counted(width, 'channel')} is none; take a larger amount")
    return {**spec, "hidden": left}


def pruned(trained: nn.Module, narrow: nn.Module) -> Params:
    """Return the tensors of a narrower backbone: those of a trained one, without the channels of the smallest weights.

    Args:
        trained: the trained backbone: a chain of blocks with one layer of weights each, and a normalisation or none.
        narrow: the same with fewer channels.

    Raises:
        UserError: if it is no such chain.
    """
    tensors = _tensors(trained)
    names, shapes = {id(t): name for name, t in tensors.items()}, {n: t.shape for n, t in _tensors(narrow).items()}
    found = {name: t.detach() for name, t in tensors.items()}
    kept_I, inputs = None, 0
    for block in cast(Backbone, trained).blocks:
        own = [names[id(t)] for t in (*block.parameters(), *block.buffers()) if t.ndim]
        layers = [name for name in own if tensors[name].ndim > 1]
        if len(layers) != 1 or layers[0] not in shapes:
            raise _no_chain(trained)
        kept_O = _largest(found[layers[0]], shapes[layers[0]][0])
        outputs = len(found[layers[0]])
        for name in own:
            if len(found[name]) != outputs:
                raise _no_chain(trained)
            found[name] = found[name][kept_O]
        if kept_I is not None:
            found[layers[0]] = _of_inputs(found[layers[0]], kept_I, inputs)
        kept_I, inputs = kept_O, outputs
    if {name: t.shape for name, t in found.items()} != shapes:
        raise _no_chain(trained)
    return found


def _largest(weight: Tensor, count: int) -> Tensor:
    """Return the numbers of the output channels of a weight [O, I, ...] that have the largest ones, sorted."""
    return weight.flatten(1).norm(dim=1).topk(count).indices.sort().values


def _of_inputs(weight: Tensor, kept: Tensor, inputs: int) -> Tensor:
    """Return a weight [O, I, ...] for some of its input channels; after flattening, each has several columns."""
    return weight.unflatten(1, (inputs, -1))[:, kept].flatten(1, 2)


def _tensors(module: nn.Module) -> Params:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _no_chain(backbone: nn.Module) -> UserError:
    kind = type(backbone).__name__
    return UserError(f"{kind} is no plain chain of layers, so that its channels cannot be pruned; {DISTIL}")

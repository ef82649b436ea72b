"""The parts of a network: what each gives, how many numbers it has, and when they learn."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_cli.core.network import BACKBONE
from metalearn_cli.deploy.enrolled import enrol
from metalearn_cli.deploy.trained import Trained, learner_of, random_items
from metalearn_cli.engine.episodes import OWN

WAY = 5  # of a learner without a head
TRAINING, EXAMPLES = "in training", "from examples"


def blocks(trained: Trained) -> dict[str, Any]:
    """Describe the network of a learner, from its input to its answers.

    Returns:
        the names of `backbone` and `learner`, the shape of an `input` item, all `parameters`, and for each of the
        `blocks` its `layers`, the shape of its `output` (None where that is not known), its `parameters`, and when they
        `learn`: "in training", "from examples" (when the learner adapts to a support set), both or neither.
    """
    way = trained.way or WAY
    learner, backbone = learner_of(trained, way)
    net, algorithm = learner.net, learner.algorithm
    x = random_items(trained.facts, way)
    state = enrol(learner, backbone, x, torch.arange(way), {}).state
    adapted = {name for name, own in net.params.items() if name in state and not torch.equal(state[name], own)}
    names = {id(p): BACKBONE + name for name, p in backbone.named_parameters()}
    parts: list[Any] = list(backbone.blocks)  # type: ignore[arg-type]
    outputs = _outputs(backbone, parts, x)
    rows = [
        _row(
            ", ".join(type(layer).__name__ for layer in part.children()) or type(part).__name__,
            outputs.get(number),
            {names[id(p)]: p for p in part.parameters()},
            net.params.keys(),
            adapted,
        )
        for number, part in enumerate(parts)
    ]
    if net.head_names:
        head = {name: net.params[name] for name in net.head_names}
        rows.append(_row("head: Linear", [way], head, net.params.keys(), adapted))
    if learner.own:
        own = {OWN + name: tensor for name, tensor in learner.own.items()}
        rows.append(_row(f"{type(algorithm).__name__}: {', '.join(learner.own)}", None, own, own.keys(), set()))
    return {
        "backbone": type(backbone).__name__,
        "learner": type(algorithm).__name__,
        "input": trained.facts.plain_shape,
        "parameters": sum(row["parameters"] for row in rows),
        "blocks": rows,
    }


def _row(
    layers: str, output: list[int] | None, tensors: dict[str, Tensor], trained: Any, adapted: set[str]
) -> dict[str, Any]:
    when = [TRAINING] * bool(tensors.keys() & trained) + [EXAMPLES] * bool(tensors.keys() & adapted)
    count = sum(prod(tensor.shape) for tensor in tensors.values())
    return {"layers": layers, "output": output, "parameters": count, "learn": when}


def _outputs(backbone: nn.Module, parts: list[Any], x: Any) -> dict[int, list[int]]:
    """Return the shapes of what parts of a backbone return for an item; not of those that are not called."""
    found: dict[int, list[int]] = {}

    def seen(number: int) -> Any:
        def note(part: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[number] = list(output.shape[1:])

        return note

    hooks = [part.register_forward_hook(seen(number)) for number, part in enumerate(parts)]
    with torch.no_grad():
        backbone.eval()(x)
    for hook in hooks:
        hook.remove()
    return found

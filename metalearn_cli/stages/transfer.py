"""Transfer: carry a pretrained backbone over to a labelled task, the classification of the training classes.

The last fifth of each class's items is held out; the accuracy on it (label_accuracy) is reported beside the few-shot
accuracy on validation classes (accuracy), which selects the best checkpoint: the next stage wants features, not this
classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.core.build import build
from metalearn_cli.core.config import TransferConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import score, task_loss
from metalearn_cli.core.metric import ACCURACY, LABEL_ACCURACY
from metalearn_cli.core.network import Network, Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Method
from metalearn_cli.engine.loop import Job
from metalearn_cli.stages.learner import fresh_backbone
from metalearn_cli.stages.preparing import describe_data, few_shot_probe
from metalearn_cli.stages.session import Session

OWN = "method."
"""What the names of a method's own tensors begin with."""

_CHUNK = 500  # most items per forward pass when all held-out items are scored; equal parts, for batch statistics


def transfer(config: TransferConfig, session: Session) -> Job:
    """Train a linear classifier, and as much of the backbone as the method says, on labelled items."""
    runtime = session.runtime(config.runtime)
    data = session.data(config.data, runtime)
    if data.regression:
        raise ConfigError([Problem("data", f"{data.name} is a stream of regression tasks without labelled items")])
    backbone = fresh_backbone(config.backbone, data.shape, config.seed)
    net = network(backbone, len(data.splits["train"].names), runtime.under_precision)
    method: Method = build(config.method, "method")
    try:
        rates = _at(method, 1.0).rates(net)
    except ValueError as error:
        raise ConfigError([Problem(f"method.{str(error).split(' ', 1)[0]}", str(error))]) from error
    with seeded(config.seed, "method"):
        own = method.init(net) if hasattr(method, "init") else {}
    own = {OWN + name: tensor.detach().requires_grad_() for name, tensor in own.items()}
    probe = few_shot_probe(backbone, data, config, runtime)

    def batches(step: int) -> dict[str, Items]:
        x, y = data.batch("train", "fit", config.batch_size, config.seed, step)
        return runtime.cast({"x": x, "y": y})

    def gradients(params: Params, batch: dict[str, Tensor], step: int) -> Mapping[str, Tensor]:
        loss, logits = method_loss(_at(method, step / config.steps), net, params, batch)
        runtime.backward(loss)
        return {"loss": loss.detach(), LABEL_ACCURACY.name: score(logits, batch["y"])}

    def evaluate(params: Params) -> dict[str, float]:
        params = merged(method, net, params)
        run = net.of(params)
        with torch.no_grad():
            held_out = map(runtime.cast, data.all("train", "held_out", _CHUNK))
            parts = [(run.output(run.params, x), y) for x, y in held_out]
        logits, labels = map(torch.cat, zip(*parts, strict=True))
        return {f"val/{LABEL_ACCURACY.name}": score(logits, labels).item(), **probe(params)}

    return Job(
        params=net.params | net.constants | own,
        rates=rates | dict.fromkeys(own, 1.0),
        batches=batches,
        gradients=gradients,
        evaluate=evaluate,
        metric=ACCURACY,
        model={"backbone": dict(config.backbone), "shape": list(data.shape), "method": dict(config.method)},
        data=describe_data(data, config.data),
        buffers=tuple(net.constants),
        merged=partial(merged, method, net),
    )


def method_loss(method: Method, net: Network, tensors: Params, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the loss [] of a batch and its logits [B, K]: the method's own, or the merged network's cross-entropy.

    Blocks of which no tensor learns run in eval mode, and their tensors get no gradient.

    Args:
        method: as it is at this step.
        net: the network as transfer began.
        tensors: all tensors as they are now.
        batch: "x", "y" and what the method asks for.
    """
    learning = method.rates(net)
    now = net.of({n: tensors[n] if n in learning else tensors[n].detach() for n in (*net.params, *net.constants)})
    now = now.training(learning)
    own = _own(tensors)
    if hasattr(method, "loss"):
        found: tuple[Tensor, Tensor] = method.loss(now, own, net.params, batch)
        return found
    params = method.merged(now, own) if hasattr(method, "merged") else now.params
    logits = now.output(params, batch["x"])
    return task_loss(logits, batch["y"]), logits


def merged(method: Method, net: Network, tensors: Params) -> Params:
    """Return all tensors, those of the network as the method hands them on."""
    if not hasattr(method, "merged"):
        return tensors
    with torch.no_grad():
        return tensors | method.merged(net.of(tensors), _own(tensors))


def _own(tensors: Params) -> Params:
    return {name.removeprefix(OWN): tensor for name, tensor in tensors.items() if name.startswith(OWN)}


def _at(method: Method, progress: float) -> Method:
    now: Method = method.at(progress) if hasattr(method, "at") else method
    return now

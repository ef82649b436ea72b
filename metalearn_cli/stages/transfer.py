"""Transfer: carry a pretrained backbone over to a labelled task, the classification of the training classes.

The last fifth of each class's items is held out; the accuracy on it (label_accuracy) is reported beside the few-shot
accuracy on validation classes (accuracy), which selects the best checkpoint: the next stage wants features, not this
classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.core.build import build
from metalearn_cli.core.config import TransferConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.functional import pure
from metalearn_cli.core.learning import score, task_loss
from metalearn_cli.core.types import Method, Params
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.stages.preparing import Job, blocks_of, describe_data, few_shot_probe, fresh_network, load_data

_CHUNK = 500  # most items per forward pass when all held-out items are scored; equal parts, for batch statistics


def transfer(config: TransferConfig, runtime: Runtime) -> Job:
    """Train a linear classifier, and as much of the backbone as the method says, on labelled items."""
    data = load_data(config.data, runtime)
    if data.regression:
        raise ConfigError([Problem("data", f"{data.name} is a stream of regression tasks without labelled items")])
    network = fresh_network(config.backbone, data.shape, len(data.splits["train"].names), config.seed)
    apply, params = pure(network)
    apply = runtime.under_precision(apply)
    method: Method = build(config.method, "method")
    try:
        rates = method.rates(blocks_of(params), [name for name in params if name.startswith("head.")])
    except ValueError as error:
        raise ConfigError([Problem(f"method.{str(error).split(' ', 1)[0]}", str(error))]) from error
    probe = few_shot_probe(network.backbone, data, config, runtime)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return runtime.cast(data.batch("train", "fit", config.batch_size, config.seed, step))

    def gradients(params: Params, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        x, y = batch
        logits = apply(params, x)
        loss = task_loss(logits, y)
        runtime.backward(loss)
        return {"loss": loss.detach(), "label_accuracy": score(logits, y)}

    def evaluate(params: Params) -> dict[str, float]:
        with torch.no_grad():
            parts = [(apply(params, x), y) for x, y in map(runtime.cast, data.all("train", "held_out", _CHUNK))]
        logits, labels = map(torch.cat, zip(*parts, strict=True))
        return {"val/label_accuracy": score(logits, labels).item(), **probe(params)}

    def pictures(params: Params, folder: Path) -> None:
        """Write nothing: the learning curves say it all."""

    return Job(
        params=params,
        rates=rates,
        batches=batches,
        gradients=gradients,
        evaluate=evaluate,
        metric="val/accuracy",
        higher_is_better=True,
        model={"backbone": dict(config.backbone), "shape": list(data.shape), "method": dict(config.method)},
        data=describe_data(data, config.data),
        pictures=pictures,
    )

"""Pretraining: learn a representation from the items of the training classes, mostly without their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.core.build import build
from metalearn_cli.core.config import PretrainConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Params
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records.plots import image_grid
from metalearn_cli.stages.preparing import Job, describe_data, few_shot_probe, fresh_network, load_data


def pretrain(config: PretrainConfig, runtime: Runtime) -> Job:
    """Wrap the model around a backbone and train both on batches of items; few-shot accuracy selects the best."""
    data = load_data(config.data, runtime)
    if data.regression:
        raise ConfigError([Problem("data", f"{data.name} is a stream of tasks without items to pretrain on")])
    backbone = fresh_network(config.backbone, data.shape, None, config.seed).backbone
    with seeded(config.seed, "model"):
        model = build(
            config.model,
            "model",
            backbone=backbone,
            shape=data.shape,
            value_range=data.value_range,
            classes=len(data.splits["train"].names),
        )
    apply, params = pure(model)
    apply = runtime.under_precision(apply)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return runtime.cast(data.batch("train", "all", config.batch_size, config.seed, step))

    def gradients(params: Params, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        loss, metrics = apply(params, *batch)
        runtime.backward(loss)
        return {"loss": loss.detach(), **metrics}

    def pictures(params: Params, folder: Path) -> None:
        x, _ = data.batch("val", "all", 32, config.seed, 0)
        model.load_state_dict({name: p.float().cpu() for name, p in params.items()})
        with seeded(config.seed, "pictures"), torch.no_grad():
            drawn = model.pictures(x.cpu())
        for name, images in drawn.items():
            image_grid(images, 8, f"{name}", folder / f"{name}.png")

    return Job(
        params=params,
        rates=dict.fromkeys(params, 1.0),
        batches=batches,
        gradients=gradients,
        evaluate=few_shot_probe(backbone, data, config, runtime),
        metric="val/accuracy",
        higher_is_better=True,
        model={"backbone": dict(config.backbone), "shape": list(data.shape), "model": dict(config.model)},
        data=describe_data(data, config.data),
        pictures=pictures,
    )

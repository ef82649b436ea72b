"""Pretraining: learn a representation from the items of the training classes; most models use no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.backbones.common.weights import without_weights
from metalearn_cli.core.build import build
from metalearn_cli.core.config import PretrainConfig
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.items import Items, each
from metalearn_cli.core.metric import ACCURACY
from metalearn_cli.core.network import Params, dealt, network, pure
from metalearn_cli.core.random import seeded
from metalearn_cli.engine.loop import Job
from metalearn_cli.records.plots import image_grid
from metalearn_cli.stages.frozen import is_frozen
from metalearn_cli.stages.learner import fresh_backbone
from metalearn_cli.stages.preparing import INSTEAD, as_seen, check_dealt, describe_data, few_shot_probe, probe_protocol
from metalearn_cli.stages.quality import of_features, of_model
from metalearn_cli.stages.session import Session


def pretrain(config: PretrainConfig, session: Session) -> Job:
    """Train a model around a backbone on batches of items; few-shot accuracy selects the best checkpoint."""
    runtime = session.runtime(config.runtime)
    data = session.data(config.data, runtime)
    if data.facts.regression:
        raise ConfigError(
            [Problem("data", f"{data.name} has no classes, on which pretraining is validated; {INSTEAD}")]
        )
    backbone = fresh_backbone(config.backbone, data.facts, config.seed)
    with seeded(config.seed, "model"):
        model = build(
            config.model,
            "model",
            backbone=backbone,
            facts=data.facts,
            shape=data.facts.shape,
            value_range=data.facts.values,
            vocabulary=data.facts.vocabulary,
            classes=data.facts.classes,
        )
    kind = type(model).__name__
    if getattr(model, "backbone", None) is not backbone:
        raise ConfigError([Problem("model", f"{kind} must store the backbone that it gets as self.backbone")])
    check_dealt("model", model, model, config, config.batch_size)
    ranks = runtime.ranks
    total = ranks.total(config.batch_size) if ranks.world > 1 else None
    apply, params = pure(model, training=True)
    apply = runtime.under_precision(apply)
    follow: Callable[[Params, float], Params] = getattr(model, "follow", lambda params, progress: {})
    led = follow(params, 0.0).keys()

    def batches(step: int) -> tuple[Items, Tensor]:
        return runtime.cast(data.batch("train", "all", config.batch_size, config.seed, step, ranks.share))

    def gradients(params: Params, batch: tuple[Items, Tensor], step: int) -> Mapping[str, Tensor]:
        with dealt(total):
            loss, metrics = apply(params, *batch)
        if loss.ndim:
            raise UserError(f"{kind} must return a loss of shape [], got {list(loss.shape)}")
        runtime.backward(loss)
        told = {name: torch.as_tensor(value, device=loss.device).detach() for name, value in metrics.items()}
        return {**told, "loss": loss.detach()}

    model.to(runtime.device, runtime.dtype).eval()
    net = network(backbone, None, runtime.under_precision)
    if is_frozen(net):
        told = "nothing of the backbone learns, so that pretraining would change nothing; leave it out of a chain"
        cure = "'stages=[meta-train]' algorithm=maml (or another learner with tensors of its own), or let blocks learn"
        raise ConfigError([Problem("backbone.train", f"{told}: {cure}: backbone.train=last:1")])
    probe = few_shot_probe(net, data, config, runtime)
    frozen = None
    if hasattr(model, "generate"):
        fixed = network(fresh_backbone(config.backbone, data.facts, 0), None, runtime.under_precision)
        frozen = fixed.of(runtime.place(fixed.params | fixed.constants))

    @contextmanager
    def trained(params: Params, purpose: str) -> Iterator[None]:
        """Within a block, have the model with these tensors, random numbers by purpose, and no gradients."""
        with seeded(config.seed, purpose), torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_(params[name])
            yield

    def evaluate(params: Params) -> dict[str, float]:
        scores = probe(params)
        with trained(params, "quality"):
            scores |= of_features(net.of(params), data, config.seed, runtime)
            return scores | of_model(model, frozen, data, config.seed, runtime)

    def pictures(params: Params, folder: Path) -> None:
        if not hasattr(model, "pictures"):
            return
        x = _different(data.batch("val", "all", 32, config.seed, 0)[0])
        with trained(params, "pictures"):
            drawn = model.pictures(runtime.cast(x))
        for name, images in drawn.items():
            images = each(lambda part: as_seen(part.cpu(), data), images)
            sound = ": time to the right, frequency upwards" if data.facts.kind == "audio" else ""
            of = " of validation items" * isinstance(images, Mapping)  # else they are made up
            image_grid(images, 8, f"{name}{of}{sound}", folder / f"{name}.png")

    return Job(
        params=params,
        rates={name: 1.0 for name, p in params.items() if p.requires_grad and name not in led},
        batches=batches,
        gradients=gradients,
        evaluate=evaluate,
        metric=ACCURACY,
        model={
            "backbone": without_weights(config.backbone),
            "shape": data.facts.plain_shape,
            "facts": data.facts.record,
            "model": dict(config.model),
        },
        data=describe_data(data, config.data),
        buffers=tuple(name for name, p in params.items() if not p.requires_grad),
        follow=follow,
        pictures=pictures,
        learns_from=("items", config.batch_size),
        normalisation=probe_protocol(net),
    )


def _different(x: Items) -> Items:
    """Return items without those that repeat an earlier one; items of several parts as they are."""
    if not isinstance(x, Tensor):
        return x
    _, kinds = x.flatten(1).unique(dim=0, return_inverse=True)
    first = {kind: i for i, kind in reversed([*enumerate(kinds.tolist())])}
    return x[sorted(first.values())]

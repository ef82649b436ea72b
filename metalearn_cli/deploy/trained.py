"""What a trained learner needs besides a support set: from a checkpoint, and kept in an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from metalearn_cli.core.build import Spec, build, problems_of
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.items import Facts, Items
from metalearn_cli.core.network import BACKBONE, Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Dataset
from metalearn_cli.deploy.folding import statistics_of
from metalearn_cli.engine.episodes import OWN, Learner
from metalearn_cli.records.checkpoint import Checkpoint, read_tensors
from metalearn_cli.stages.evaluation_inputs import FLOORS
from metalearn_cli.stages.learner import fresh_backbone, fresh_learner
from metalearn_cli.stages.session import in_fold

Statistics = Literal["support", "train"]
"""Which items give the fixed batch statistics: the support items, as in an inductive evaluation, or training items."""

REFERENCE = 512
"""Training items that give the statistics for "train"."""


class Trained(NamedTuple):
    """A trained learner as plain values and tensors.

    Attributes:
        backbone: the settings of its backbone.
        algorithm: the settings of its algorithm; for a checkpoint without one, those of the floor of an evaluation.
        way: the number of classes that its head is for; None without a head.
        facts: of the items.
        tensors: of network and algorithm, in 32 bits.
        statistics: the fixed batch statistics of training items; {} for those of the support items, or for none.
        preprocessing: how a file becomes an item.
        tokenizer: the data's setting of that name, which may be the folder of an encoder's own.
        data: name and protocol of the data that it was trained on.
        source: run, stage, step, checkpoint and sha256 of what it comes from.
    """

    backbone: dict[str, Any]
    algorithm: dict[str, Any]
    way: int | None
    facts: Facts
    tensors: Params
    statistics: Params
    preprocessing: dict[str, Any]
    tokenizer: str
    data: dict[str, Any]
    source: dict[str, Any]


def of_checkpoint(checkpoint: Checkpoint, statistics: Statistics = "support") -> Trained:
    """Return what a checkpoint has trained.

    Args:
        checkpoint: an opened checkpoint.
        statistics: which items give the fixed batch statistics.

    Raises:
        UserError: if it is of a regression or of components that do not exist, or if data that are needed are gone.
    """
    if statistics not in get_args(Statistics):
        raise UserError(f"statistics must be support or train, got {statistics!r}")
    model, data = checkpoint.manifest["model"], checkpoint.manifest["data"]
    facts = facts_of_checkpoint(checkpoint)
    if facts.regression:
        raise UserError(f"{checkpoint.folder} predicts numbers; only classes can be predicted here")
    algorithm = model.get("algorithm") or FLOORS[False]
    for key, spec in (("backbone", model.get("backbone")), ("algorithm", algorithm)):
        if problems := problems_of(spec, key):
            told = f"{checkpoint.folder / 'manifest.json'}: {problems[0].key} {problems[0].message}"
            raise ConfigError([Problem("ckpt", told)])
    trained = Trained(
        backbone=model["backbone"],
        algorithm=dict(algorithm),
        way=model.get("way"),
        facts=facts,
        tensors={n: t.float() if t.is_floating_point() else t for n, t in read_tensors(checkpoint).items()},
        statistics={},
        preprocessing=data.get("preprocessing") or {},
        data={key: data.get(key) for key in ("name", "protocol")},
        tokenizer=str((data.get("spec") or {}).get("tokenizer", "")),
        source=checkpoint.parent_entry,
    )
    learner, backbone = learner_of(trained, trained.way or 2)
    name = type(learner.algorithm).__name__
    if learner.algorithm.traits.uses_queries:
        told = f"{name} answers from all queries together, so that one file alone has no answer"
        raise UserError(f"{told}; train another learner, such as protonet")
    if statistics == "support" or not learner.net.batch_statistics:
        return trained
    if learner.algorithm.traits.sees == "items":
        told = f"{name} adapts the network to the support items, so that the statistics must be of these"
        raise UserError(f"{told}; type statistics=support")
    x, _ = data_of(checkpoint).batch("train", "all", REFERENCE, seed=0, step=0)
    return trained._replace(statistics=statistics_of(backbone, x))


def facts_of(record: Mapping[str, Any]) -> Facts:
    """Return facts from their record in JSON, in which tuples are lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(own) for key, own in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return Facts(**{key: plain(value) for key, value in record.items()})


def facts_of_checkpoint(checkpoint: Checkpoint) -> Facts:
    """Return the facts of the items that a checkpoint was trained on.

    Raises:
        UserError: if it does not record them, and the data are gone.
    """
    model = checkpoint.manifest["model"]
    recorded = model.get("facts")
    return facts_of({**recorded, "shape": model["shape"]}) if recorded else data_of(checkpoint).facts


def backbone_of(checkpoint: Checkpoint) -> nn.Module:
    """Return the backbone that a checkpoint has trained.

    Raises:
        UserError: if it cannot be built.
    """
    backbone = fresh_backbone(checkpoint.manifest["model"]["backbone"], facts_of_checkpoint(checkpoint), seed=0)
    _take(backbone, {name: t.float() if t.is_floating_point() else t for name, t in read_tensors(checkpoint).items()})
    return backbone


def learner_of(trained: Trained, way: int) -> tuple[Learner, nn.Module]:
    """Build a learner of so many classes, and the module of its network.

    Raises:
        UserError: if its head is for another number of classes, or the tensors are of another network.
    """
    if trained.way not in (None, way):
        told = f"the learner has a head for {trained.way} classes, and the support set has {way}"
        raise UserError(f"{told}; give it as many, or train with way={way}, or a learner without a head (protonet)")
    backbone = fresh_backbone(trained.backbone, trained.facts, seed=0)
    algorithm = build(trained.algorithm, "algorithm")
    net = network(backbone, way if algorithm.traits.head else None)
    fresh = fresh_learner(algorithm, net, way, "inductive", seed=0).at(1.0)
    tensors = fresh.tensors
    wrong = [n for n, t in tensors.items() if n not in trained.tensors or trained.tensors[n].shape != t.shape]
    if any(name.startswith(OWN) for name in wrong):
        name = type(algorithm).__name__
        raise UserError(f"{name} has tensors for another number of classes than the {way} of the support set")
    if wrong:
        where = trained.source["checkpoint"]
        raise UserError(f"{where} has other tensors than its backbone: {', '.join(wrong[:3])}; train it again")
    own = {name: trained.tensors[name] for name in tensors}
    _take(backbone, own)
    return fresh.of(own), backbone


def _take(backbone: nn.Module, tensors: Params) -> None:
    """Give a backbone the values that are among the tensors of its network."""
    with torch.no_grad():
        for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers()):
            if BACKBONE + name in tensors:
                tensor.copy_(tensors[BACKBONE + name])


def random_items(facts: Facts, count: int) -> Items:
    """Return random items [N, ...], as they may be."""
    shapes = facts.shape if isinstance(facts.shape, Mapping) else {"": facts.shape}

    def part(name: str) -> Tensor:
        shape, values, most = shapes[name], _of_part(facts.values, name), _of_part(facts.vocabulary, name)
        if values == "ids":
            return torch.randint(1, most, (count, *shape))
        return (torch.rand if values == "unit" else torch.randn)(count, *shape)

    with seeded(0, "items"):
        found = {name: part(name) for name in shapes}
    return found.get("", found)


def _of_part(values: Any, name: str) -> Any:
    return values[name] if isinstance(values, Mapping) else values


def data_of(checkpoint: Checkpoint) -> Dataset:
    """Build the data that a checkpoint was trained on.

    Raises:
        UserError: if they are gone.
    """
    return dataset(checkpoint.manifest["data"]["spec"])


def dataset(spec: Spec) -> Dataset:
    """Build the data of recorded settings.

    Raises:
        UserError: if they are gone.
    """
    data: Dataset = in_fold(build(spec, "data"), spec)
    return data

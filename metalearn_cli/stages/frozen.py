"""Backbones that learn only in part, or not at all: then the features of each item are computed once.

Legend: N items, D features.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from metalearn_cli.core import types
from metalearn_cli.core.build import SHARED, Spec
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Items
from metalearn_cli.core.network import BACKBONE, Backbone, Network, Params
from metalearn_cli.data.common.cache import cached, large
from metalearn_cli.data.common.dataset import Dataset, EpisodeSampler, facts_of
from metalearn_cli.data.common.splits import fingerprint_of, parts_of
from metalearn_cli.data.common.varying import VaryingSampler
from metalearn_cli.engine.episodes import Learner
from metalearn_cli.engine.loop import Job
from metalearn_cli.engine.runtime import Runtime

_AT_ONCE = 100  # items per forward pass
_SAMPLE = 64  # items per split whose features show whether stored ones still hold

ONCE = "the features of each item are computed once"
"""A note for the user."""

log = logging.getLogger("metalearn_cli")


def let_learn(backbone: nn.Module, train: str) -> None:
    """Freeze all tensors of a backbone but those that a setting names; those that it has frozen itself stay so.

    Args:
        backbone: the backbone, which is changed.
        train: "all"; "none"; "last:N", the last N blocks; "norm", the normalisation layers: those with "Norm" in the
            name of their class; or a pattern of tensors' names, as of files: "blocks.3.*", or "blocks.3" for short.

    Raises:
        ConfigError: if it names nothing, or more blocks than there are.
    """
    if train == "all":
        return
    named = dict(backbone.named_parameters())
    if last := re.fullmatch(r"last:(.*)", train):
        blocks = list(cast(Backbone, backbone).blocks)
        if not re.fullmatch("[0-9]+", last[1]) or not 1 <= int(last[1]) <= len(blocks):
            raise _refused(f"last:N takes a number of blocks from 1 to {len(blocks)}, got {train!r}")
        learning = {id(p) for block in blocks[-int(last[1]) :] for p in block.parameters()}
    elif train == "norm":
        layers = [layer for layer in backbone.modules() if "norm" in type(layer).__name__.lower()]
        learning = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    else:
        learning = {id(p) for n, p in named.items() if fnmatchcase(n, train) or fnmatchcase(n, f"{train}.*")}
    if not learning and train == "norm":
        raise _refused(f"norm: this backbone has no normalisation layer with tensors; there are {_listed(named)}")
    if not learning and train != "none":
        wanted = "must be all, none, last:N, norm, or a pattern that fits the name of a tensor"
        raise _refused(f"{wanted}, got {train!r}; there are {_listed(named)}")
    for p in named.values():
        if id(p) not in learning:
            p.requires_grad_(False)


def is_frozen(net: Network) -> bool:
    """Whether nothing of the backbone learns."""
    return not any(name.startswith(BACKBONE) for name in net.params)


def has_features(data: object, net: Network, runtime: Runtime) -> bool:
    """Whether features are a property of the data's items, and can be stored.

    Not with batch statistics, where they depend on the other items of a batch; not of a stream of tasks; and not in
    64-true, as features are stored in 32 bits.
    """
    return isinstance(data, Dataset) and not net.batch_statistics and runtime.dtype != torch.float64


def on_features(
    job: Job,
    computed: Callable[[Network, types.Dataset], dict[str, Any]],
    net: Network,
    data: types.Dataset,
    backbone: Spec,
    runtime: Runtime,
) -> Job:
    """Return a job whose backbone may be frozen, with how it computes on features.

    Args:
        job: the job.
        computed: returns the entries of the job that compute, with a network and data.
        net: the network.
        data: its data.
        backbone: the settings that the backbone was built from.
        runtime: device and number format.
    """
    if not is_frozen(net):
        return job
    if not has_features(data, net, runtime):
        why = ": its features depend on the whole batch" if net.batch_statistics else ""
        return replace(job, notes=(*job.notes, f"the backbone is frozen, but runs in every step{why}"))

    def made(params: Params) -> Job:
        vectors = featured(data, ("train", "val"), net.of(params), backbone, runtime)
        return replace(job, params=params, **computed(net.on_features(), vectors))

    return replace(job, notes=(*job.notes, ONCE), on_features=made)


def scored_on_features(
    learner: Learner, sampler: types.Sampler, episodes: int, backbone: Spec, runtime: Runtime
) -> Callable[[], tuple[Learner, types.Sampler]] | None:
    """Return a function that gives a learner and its episodes on features; None if it needs items, or it would not pay.

    Nothing learns in an evaluation, so a learner that sees features needs no gradients of any backbone.

    Args:
        learner: the learner with its tensors.
        sampler: its episodes.
        episodes: how many.
        backbone: the settings that the backbone was built from.
        runtime: device and number format.
    """
    net, sees = learner.net, learner.algorithm.traits.sees
    if (
        not isinstance(sampler, EpisodeSampler | VaryingSampler)
        or not has_features(sampler.dataset, net, runtime)
        or sees == "maps"
    ):
        return None
    few = False  # episodes of varying size are large
    if isinstance(sampler, EpisodeSampler):
        drawn = episodes * sampler.way * (sampler.shot + sampler.query)
        few = drawn < int(sampler.dataset.splits[sampler.split].counts.sum())
    if not is_frozen(net) and (sees == "items" or few):
        return None

    def made() -> tuple[Learner, types.Sampler]:
        vectors = featured(cast(Any, sampler.dataset), (sampler.split,), net, backbone, runtime)
        return learner._replace(net=net.on_features()), replace(sampler, dataset=cast(Any, vectors))

    return made


def featured(
    data: types.Dataset, splits: Iterable[str], net: Network, backbone: Spec, runtime: Runtime
) -> types.Dataset:
    """Return a data set with the features [D] of a network in place of the items; see `has_features`.

    Those of a frozen backbone are stored in the cache folder. What is stored is used if data, backbone, tensors and
    number format are the same, and the network still gives the same features for some of the items: code, libraries and
    devices may have changed.

    Args:
        data: the data set; all else of the result is its own, the fingerprint, too, so that episodes are the same.
        splits: which of its splits.
        net: the network with its tensors.
        backbone: the settings that it was built from.
        runtime: device and number format.
    """
    items = cast(Dataset, data)
    splits = list(splits)

    def of(x: Items) -> Tensor:
        with torch.no_grad():
            return net.features(net.params, runtime.cast(x)).float().cpu()

    def build() -> Dataset:
        began = time.monotonic()
        made = {}
        for name in splits:
            n = len(next(iter(parts_of(items.splits[name].items).values())))
            rows = torch.from_numpy(large(n, net.out_dim, dtype=np.float32))
            done = 0
            for x, _ in data.all(name, "all", _AT_ONCE):
                z = of(x)
                rows[done : done + len(z)] = z
                done += len(z)
            targets = items.splits[name].targets
            made[name] = replace(items.splits[name], items=rows, targets=None if targets is None else targets.cpu())
        log.info("computed the features of %s in %.2f s", data.name, time.monotonic() - began)
        return Dataset(data.name, data.protocol, made, facts_of("vector", made), {}, fingerprint_of(made), ())

    def key() -> dict[str, Any]:
        return {
            "data": data.fingerprint,
            "splits": splits,
            "backbone": {name: value for name, value in backbone.items() if name not in SHARED["backbone"]},
            "tensors": _hash({n: t for n, t in (net.params | net.constants).items() if n.startswith(BACKBONE)}),
            "precision": runtime.config.precision,
            "sample": _hash({name: of(data.batch(name, "all", _SAMPLE, 0, 0)[0]) for name in splits}),
        }

    # a backbone that learns has other tensors the next time
    found = cached("features", key(), build) if is_frozen(net) else build()
    facts = data.facts._replace(kind="vector", shape=(net.out_dim,), values="real", vocabulary=0)
    fixed = {name: shape for name, shape in items.fixed.items() if name in splits}
    return cast(types.Dataset, replace(items, splits=found.splits, facts=facts, fixed=fixed).to(runtime.device))


def _hash(tensors: dict[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def _listed(named: dict[str, Any]) -> str:
    """Return the names of tensors, some of them if there are many."""
    names = list(named)
    return ", ".join(names if len(names) <= 16 else [*names[:8], "...", *names[-4:]])


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("backbone.train", message)])

"""Which episodes an evaluation scores: those of its result, those that fit a temperature, those within one group.

They depend only on the data, their shape and the seed, so every checkpoint and algorithm is scored on the same ones,
and any two results can be compared in pairs.
"""

from __future__ import annotations

from typing import Any, cast

from metalearn_cli.core.config import EvaluateConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.types import Dataset, Sampler
from metalearn_cli.data.common.splits import group_of
from metalearn_cli.data.common.varying import VaryingSampler


def tested_episodes(config: EvaluateConfig, data: Dataset) -> Sampler:
    """Return the episodes of the result.

    Raises:
        ConfigError: if there are none, or the data has another number of fixed ones.
    """
    sampler = _sampler(config, data, config.split)
    if config.episodes != (count := getattr(sampler, "count", None) or config.episodes):
        message = f"must be {count}, as {data.name}/{config.split} has {count} fixed episodes, got {config.episodes}"
        raise ConfigError([Problem("episodes", message)])
    return sampler


def fitting_episodes(config: EvaluateConfig, data: Dataset) -> Sampler:
    """Return the validation episodes that a temperature is fitted on.

    Raises:
        ConfigError: if there are none, or no temperature for them.
    """
    message = ""
    if data.facts.regression:
        message = f"is of classifiers, and {data.name} is a regression; take it away"
    elif config.split != "test":
        message = f"fits a temperature on validation classes, so that split must be test, got {config.split!r}"
    if message:
        raise ConfigError([Problem("calibration", message)])
    sampler = _sampler(config, data, "val")
    if config.calibration > (count := getattr(sampler, "count", None) or config.calibration):
        raise ConfigError([Problem("calibration", f"must be at most {count}, the episodes of {data.name}/val")])
    return sampler


def within_one_group(data: Dataset) -> Dataset:
    """Return a data set whose episodes are within one group.

    Raises:
        ConfigError: if it has no groups, or its episodes are within one already.
    """
    names = [name for split in data.splits.values() for name in split.names]
    message = ""
    if data.facts.regression:
        message = f"needs groups of classes, and {data.name} is a regression; type also_within=false"
    elif ungrouped := [name for name in names if not group_of(name)]:
        message = f"needs a group for every class of {data.name}, and {ungrouped[0]} has none; type also_within=false"
    elif getattr(data, "within", False) or getattr(data, "fixed", {}):
        message = f"cannot be added to {data.name} ({data.protocol}), whose episodes are not from all classes"
    if message:
        raise ConfigError([Problem("also_within", message)])
    grouped: Any = data
    within: Dataset = grouped.within_groups("groups")
    return within


def numbers_of(sampler: Any, config: EvaluateConfig) -> dict[str, Any]:
    """Return the numbers of an episode, or their bounds if they vary."""
    return {"varying": sampler.varying} if config.varying else config.episode._asdict()


def varying_note(sampler: Any) -> str:
    """Return a line on episodes of varying way and shot."""
    bounds = sampler.varying
    least, most = bounds["way"]
    items = f"at most {bounds['support']} labelled items, {bounds['query']} queries of each class"
    return f"varying way and shot: {least} to {most} classes, {items}; way, shot and query have no effect"


def _sampler(config: EvaluateConfig, data: Dataset, split: str) -> Sampler:
    """Return the episodes of a split, of varying way and shot if the settings say so.

    Raises:
        ConfigError: if the data cannot give such episodes, or several varying ones would be one batch.
    """
    if not config.varying:
        return data.episodes(split, **config.episode._asdict(), seed=config.seed)
    if (batching := config.runtime.task_batching) in ("vmap", "groups"):
        message = f"{batching} needs episodes of the same size, and these vary; use loop or threads"
        raise ConfigError([Problem("runtime.task_batching", message)])
    if data.facts.regression:
        raise ConfigError([Problem("varying", f"{data.name} has no classes, whose number could vary; set it to false")])
    return VaryingSampler(cast(Any, data), split, config.seed)

"""Which items a backbone takes, and which backbone takes other items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from metalearn_cli.core.build import Spec, bind, blamed_on
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Facts, Kind


def make_backbone(spec: Spec, facts: Facts) -> nn.Module:
    """Build a backbone for items.

    A backbone whose constructor takes only `shape` cannot know a vocabulary, or the parts of an item, so it gets
    neither.

    Args:
        spec: its settings.
        facts: the facts of the items.

    Raises:
        ConfigError: if the settings are wrong, or the backbone takes other items.
    """
    constructor = bind(spec, "backbone", facts=facts, shape=facts.shape)
    if "facts" not in constructor.keywords and (isinstance(facts.shape, Mapping) or facts.values == "ids"):
        name = spec["_target_"].rpartition(".")[2]
        message = f"{name} takes numbers, but the items are {named(facts)}; {advice(facts)}"
        raise ConfigError([Problem("backbone", message)])
    with blamed_on(spec, "backbone"):
        module: nn.Module = constructor()
    return module


def part_of(facts: Facts, name: str) -> Facts:
    """Return the facts of one part of items that are made of parts."""
    shape, values, vocabulary = cast(Mapping[str, tuple[int, ...]], facts.shape)[name], facts.values, facts.vocabulary
    kind: Kind = "image" if len(shape) == 3 else "vector"
    values = values[name] if isinstance(values, Mapping) else values
    vocabulary = vocabulary.get(name, 0) if isinstance(vocabulary, Mapping) else vocabulary
    return facts._replace(kind="text" if values == "ids" else kind, shape=shape, values=values, vocabulary=vocabulary)


def named(facts: Facts) -> str:
    """Return what items are, as messages name it."""
    if isinstance(facts.shape, Mapping):
        return f"made of parts ({', '.join(facts.shape)})"
    return f"text (ids of shape {list(facts.shape)})" if facts.values == "ids" else f"numbers of {_of(facts.shape)}"


def fitting(facts: Facts) -> str:
    """Return the name of the backbone for items."""
    if isinstance(facts.shape, Mapping):
        return "mixed"
    if facts.kind == "audio" and len(facts.shape) < 3:
        return "cnn1d"
    return "transformer" if facts.values == "ids" else _FOR_NUMBERS.get(len(facts.shape), "mlp")


def advice(facts: Facts) -> str:
    """Return the end of a sentence that names the backbone for items."""
    if isinstance(facts.shape, Mapping) or facts.values == "ids":
        return f"use backbone={fitting(facts)}"
    return _advice(facts.shape)


def check_image(shape: tuple[int, ...], name: str) -> None:
    """Check that items are images.

    Args:
        shape: of one item.
        name: of the backbone, for the message.

    Raises:
        ValueError: if they are something else; it names the backbone for that.
    """
    if len(shape) != 3:
        raise ValueError(f"{_of(shape)} is not an image [C, H, W], which {name} needs; {_advice(shape)}")


def _of(shape: Any) -> str:
    return f"shape {tuple(shape)}"


_FOR_NUMBERS = {1: "mlp", 2: "cnn1d", 3: "conv4"}  # by the dimensions of an item


def _advice(shape: tuple[int, ...]) -> str:
    series = ", or cnn1d for series" if len(shape) == 1 else ""
    return f"use backbone={_FOR_NUMBERS.get(len(shape), 'mlp')}{series}"

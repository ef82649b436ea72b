"""A checkpoint on other data, or other episodes, than it was trained on: what fits, and what to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalearn_cli.core.build import Spec
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.types import Dataset
from metalearn_cli.records.checkpoint import Checkpoint

_SHAPING = ("size", "channels", "length", "features", "rate", "seconds", "hop", "mels")
"""Settings of data sets that decide the shape of an item."""


def check_items(model: Mapping[str, Any], trained: Mapping[str, Any], data: Dataset, spec: Spec) -> None:
    """Check that a trained network takes the items of some data.

    Args:
        model: the record of the network; `shape` is that of an item.
        trained: the record of the data that it was trained on, see `preparing.describe_data`.
        data: the data.
        spec: its settings.

    Raises:
        ConfigError: if items have another shape, or their ids stand for other words; with the settings that help.
    """
    takes, has = model.get("shape"), data.facts.plain_shape
    if has != takes:
        told = f"{data.name} has items of shape {has}, the trained network takes {takes}"
        cure = _cure(trained.get("spec") or {}, spec, data, takes)
        raise ConfigError([Problem("data", f"{told}; type {cure}" if cure else told)])
    if told := other_words(trained, {"name": data.name, "preprocessing": data.preprocessing, "spec": spec}):
        raise ConfigError([Problem("data", told)])


def other_words(trained: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return that the ids of data stand for other words than those of a checkpoint's, and what to do; "" if not.

    Args:
        trained: the record of the checkpoint's data, see `preparing.describe_data`.
        here: that of the data.
    """
    own = _words(here["preprocessing"])
    if not own or own == _words(trained.get("preprocessing") or {}):
        return ""
    if trained.get("name") != here["name"]:
        told = f"{here['name']} has a vocabulary of its own, so that its ids stand for other words than in training"
        return f"{told}; use data.tokenizer=bytes in all stages"
    before, now = trained.get("spec") or {}, here["spec"]
    single = (key for key, value in before.items() if isinstance(value, str | int) and now.get(key, value) != value)
    cure = " ".join(f"data.{key}={before[key]}" for key in single)
    told = "the vocabulary is learnt from the training classes, and is another here than in the checkpoint"
    return f"{told}: {f'type {cure}' if cure else 'use the same data'}, or data.tokenizer=bytes in all stages"


def _cure(trained: Spec, spec: Spec, data: Dataset, takes: Any) -> str:
    """Return the settings that give items of the shape that a network takes, as they are typed, "" for none."""
    wanted = {key: trained[key] for key in _SHAPING if key in trained and key in spec and spec[key] != trained[key]}
    has = data.facts.plain_shape
    if data.facts.kind == "image" and isinstance(takes, list) and len(takes) == len(has) == 3 and takes[1] == takes[2]:
        sizes = {"channels": (takes[0], has[0]), "size": (takes[1], has[1])}
        wanted = {key: want for key, (want, own) in sizes.items() if want != own}
        if not wanted.keys() <= spec.keys():
            return ""
    return " ".join(f"data.{key}={value}" for key, value in wanted.items() if value is not None)


def _words(preprocessing: Mapping[str, Any]) -> Any:
    """Return the words of a learnt vocabulary, also of the texts among other parts; None without one."""
    return preprocessing.get("pieces") or (preprocessing.get("text") or {}).get("pieces")


def trained_on(parent: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint was trained on: its data, and the numbers of its episodes if it was meta-trained."""
    recorded = {key: parent.manifest["data"].get(key) for key in ("name", "protocol", "fingerprint")}
    return {"data": recorded, **parent.manifest["model"].get("episode", {})}


def crossed(trained: Mapping[str, Any], data: Dataset, tested: Mapping[str, Any]) -> str:
    """Return a line that says what differs between training and test, or "".

    Args:
        trained: see `trained_on`.
        data: that of the test.
        tested: the numbers of the test's episodes, or `varying`.
    """
    before = trained["data"]
    was, now = f"{before['name']} ({before['protocol']})", f"{data.name} ({data.protocol})"
    other = before["fingerprint"] != data.fingerprint
    places = (f" of {was}", f" of {'other data of this name' if was == now else now}") if other else ("", "")
    if "way" in trained and _size(trained) != _size(tested):
        return f"trained on {_size(trained)} episodes{places[0]}, tested on {_size(tested)} ones{places[1]}"
    return f"trained on {places[0][4:]}, tested on {places[1][4:]}" if other else ""


def _size(episode: Mapping[str, Any]) -> str:
    return "varying" if "varying" in episode else f"{episode['way']}-way {episode['shot']}-shot"

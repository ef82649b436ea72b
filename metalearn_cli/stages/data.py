"""What a data set is, before training: what was understood of its source, its problems, and its items."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from metalearn_cli.backbones.common.items import fitting
from metalearn_cli.core.build import Spec, build
from metalearn_cli.core.config import DataConfig
from metalearn_cli.core.errors import DataError, Finding, UserError
from metalearn_cli.core.items import Items, each
from metalearn_cli.core.places import expanded
from metalearn_cli.core.types import Dataset
from metalearn_cli.data.common.findings import episode_findings, near_copies
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.data.common.splits import Split, parts_of, spread
from metalearn_cli.data.common.waves import mel_edges
from metalearn_cli.records.fonts import numbered
from metalearn_cli.records.plots import image_grid, series_picture, spectrograms
from metalearn_cli.stages.preparing import as_seen, fitted
from metalearn_cli.stages.session import in_fold

CLASSES, ITEMS, SHOWN = 8, 8, 8
"""Most classes of a split, items of a class, and values of a vector that are shown."""


def check_data(config: DataConfig) -> dict[str, Any]:
    """Read a data set and check it for everything that could harm a training.

    Returns:
        `findings`, each with `blocks`, `where`, `what` and `items`; `may_start`, whether none of them blocks; `cure`,
        what to do about files that cannot be used, or ""; and, if it could be read, `data` with its name, protocol,
        fingerprint, the classes of each split and their items, `about` its source, the shape of an item, and the
        numbers of an episode.

    Raises:
        UserError: if the data is missing, or its settings are wrong.
    """
    findings: list[Finding] = []
    told: dict[str, Any] = {"data": None, "cure": ""}
    try:
        data = in_fold(build(config.data, "data"), config.data)
    except DataError as error:
        data = error.rest
        findings += error.findings if data is None else ()
        told["cure"] = error.cure
    if data is not None:
        episode = fitted(config, data).episode
        sizes = {
            name: {"classes": len(s.names), "items": int(s.counts.sum()), "names": list(s.names)}
            for name, s in data.splits.items()
        }
        facts = {"name": data.name, "protocol": data.protocol, "fingerprint": data.fingerprint}
        shape = {
            "regression": data.facts.regression,
            "backbone": fitting(data.facts),
            "kind": data.facts.kind,
            "shape": data.facts.plain_shape,
            "episode": episode._asdict(),
        }
        told["data"] = {**facts, "splits": sizes, "about": dict(data.about), **shape}
        findings += [
            *data.findings,
            *near_copies(_pictures(data)),
            *episode_findings(data, *episode),
        ]
    findings.sort(key=lambda finding: not finding.blocks)
    may_start = not any(finding.blocks for finding in findings)
    return {**told, "findings": [finding._asdict() for finding in findings], "may_start": may_start}


def show_data(config: DataConfig, folder: Path) -> dict[str, Any]:
    """Draw some items of a data set, or return them as rows.

    Args:
        config: which data.
        folder: where the picture goes; it is not among the data.

    Returns:
        `picture`, the path of a PNG file with a row per class, or None; `rows`, each a split, a class and a text; and
        `numbers`, the split and class of each number that stands for a name whose letters no font has; `noun`,
        "class", or "task" of a regression; `classes`, how many there are, and `shown`, how many of them are shown.

    Raises:
        UserError: if the data cannot be used, or the picture would lie in their folder.
    """
    _check_outside(config.data, folder)
    data = in_fold(build(config.data, "data"), config.data)
    noun = "task" if data.facts.regression else "class"
    classes = len({name for split in data.splits.values() for name in split.names})
    told: dict[str, Any] = {"picture": None, "rows": [], "numbers": {}, "noun": noun, "classes": classes}
    splits = data.splits
    if rows := data.about.get("examples"):
        told |= {"rows": rows, "shown": len({name for _, name, _ in rows})}
        if "image" not in data.facts.shape:
            return told
        splits = _pictures(data)
    items = {(split, name): x for split, own in splits.items() for name, x in _some(own)}
    told["shown"] = len({name for _, name in items})
    dimensions = {x.ndim if isinstance(x, Tensor) else 0 for x in items.values()}
    audio = data.facts.kind == "audio"
    if not (dimensions in ({3}, {4}) or (dimensions == {2} and audio)):
        return {**told, "rows": [[*place, _told(x)] for place, x in items.items()]}
    numbers = numbered(": ".join(place) for place in items)
    labels = {(split, name): f"{split}: {numbers.get(f'{split}: {name}', name)}" for split, name in items}
    plain = {labels[place]: cast(Tensor, x) for place, x in items.items()}
    source = Path(expanded(root)).resolve().name if (root := config.data.get("root")) else data.name
    some = f", {told['shown']} of {classes} classes" if told["shown"] < classes else ""
    path, title = folder / f"data-{source}.png", f"{source}: a class in a row{some}"
    if dimensions != {4}:
        lines = {name: x.reshape(len(x), -1, x.shape[-1]) for name, x in plain.items()}
        series_picture({name: x[: max(1, ITEMS // x.shape[1])] for name, x in lines.items()}, title, path)
    elif audio and "mels" in data.preprocessing:
        about = data.preprocessing
        bands = mel_edges(about["mels"], about["rate"])[1:-1]
        spectrograms(plain, about["seconds"], bands.tolist(), title, path)
    else:
        image_grid({name: _padded(as_seen(x, data)) for name, x in plain.items()}, ITEMS, title, path)
    return {**told, "picture": str(path), "numbers": {number: label for label, number in numbers.items()}}


def _pictures(data: Dataset) -> dict[str, Split]:
    """Return the splits with their pictures alone, {} if there are none: an image of a sound is no picture."""
    if data.facts.kind == "image":
        return dict(data.splits)
    parts = {name: parts_of(split.items).get("image") for name, split in data.splits.items()}
    return {name: replace(data.splits[name], items=part) for name, part in parts.items() if part is not None}


def _check_outside(spec: Spec, folder: Path) -> None:
    """Check that a folder is not one of those that the data, or its parts, are read from, nor inside of one.

    Raises:
        UserError: if it is.
    """
    for name, value in spec.items():
        if isinstance(value, Mapping):
            _check_outside(value, folder)
        elif name == "root" and value and (root := Path(expanded(value)).resolve()).is_dir():
            if root == (here := folder.resolve()) or root in here.parents:
                told = f"the picture would lie among the data in {root}, and would be read with them"
                raise UserError(f"{told}; go to another folder first: cd {shlex.quote(str(root.parent))}")


def _some(split: Split) -> Iterator[tuple[str, Items]]:
    """Yield the name and the first items of some classes of a split."""
    first = split.counts.cumsum(0) - split.counts
    every = list(zip(split.names, first.tolist(), split.counts.tolist(), strict=True))
    for name, begin, count in spread(every, CLASSES):
        yield name, each(partial(_values, begin, min(count, ITEMS)), split.items)


def _values(begin: int, count: int, part: Tensor) -> Tensor:
    x = part[begin : begin + count]
    return x.float() / ONE if x.dtype == torch.uint8 else x


def _padded(x: Tensor) -> Tensor:
    """Return images [N, C, H, W] with empty places after them, up to the number that is shown."""
    return torch.cat([x, x.new_full((ITEMS - len(x), *x.shape[1:]), torch.nan)])


def _told(items: Items) -> str:
    """Return the values of the first item in words."""
    told = []
    for name, part in parts_of(items).items():
        values = part[0].flatten().tolist()
        more = f" ... ({len(values)} in all)" if len(values) > SHOWN else ""
        told.append(f"{name} {' '.join(f'{value:.3g}' for value in values[:SHOWN])}{more}".strip())
    return "; ".join(told)

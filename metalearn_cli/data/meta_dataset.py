"""A data set of Meta-Dataset, converted to TFRecords: one file for each class.

Source: Triantafillou et al. 2020, arxiv.org/abs/1903.03096, github.com/google-research/meta-dataset.

Legend: K classes, P pixels per side.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import PIL
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.core.machine import cores
from metalearn_cli.data.common.benchmarks import (
    RESAMPLING,
    Copy,
    Picture,
    Published,
    arranged,
    copy_of,
    each,
    nothing,
    one,
    plain,
    remembered,
)
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Entry, Manifest, placed
from metalearn_cli.data.common.pixels import Shape, opened
from metalearn_cli.data.common.tfrecords import examples

WHAT = "a folder with dataset_spec.json and the .tfrecords files of a data set"
SPEC = "dataset_spec.json"
LAYOUTS = (f"{SPEC} and 0.tfrecords, 1.tfrecords, ... of one data set of Meta-Dataset",)
PARTS = {"TRAIN": "train", "VALID": "val", "TEST": "test"}
MOST_CLASSES = 1 << 16


def meta_dataset(
    split: Literal["published", "classes"] = "published",
    root: str | None = None,
    size: Annotated[int, Range(8, 256)] = 84,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Colour images of one data set of Meta-Dataset.

    Args:
        split: "published": as dataset_spec.json says; "classes": a seeded split of all classes, for the data sets that
            have only test classes (traffic_sign) or no training classes (mscoco).
        root: the folder of a data set, such as records/aircraft, or an archive of it; None means
            $MLX_DATA_DIR/meta_dataset.
        size: height and width P of an item in pixels, 8 to 256.
        seed: of split "classes", >= 0.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("meta_dataset", root, WHAT)
    key = {
        "files": copy.files.stamp,
        "split": split,
        "seed": seed if split == "classes" else None,
        "size": size,
        "pillow": PIL.__version__,
    }
    return cached("meta_dataset", key, lambda: _read(copy, split, size, seed))


def _read(copy: Copy, split: str, size: int, seed: int) -> Dataset:
    specs = copy.by_name.get(SPEC, ())
    if not specs:
        raise nothing(copy, LAYOUTS)
    if len(specs) > 1:
        sets = ", ".join(str(PurePosixPath(spec).parent) for spec in specs[:12])
        raise ConfigError([Problem("data.root", f"{copy.root} has several data sets, {sets}; give the folder of one")])
    spec = one(specs[0], lambda name: _parsed(copy.text(name)))
    classes = one(specs[0], lambda _: _classes(spec))
    counts = Counter(entry.split for entry in classes.values())
    if split == "published" and any(part not in counts for part in PARTS.values()):
        told = f"{specs[0]} has {'/'.join(str(counts[part]) for part in PARTS.values())} classes of train/val/test"
        raise ConfigError([Problem("data.split", f"{told}; data.split=classes splits them anew")])
    folder = PurePosixPath(specs[0]).parent
    files = {str(number): str(folder / f"{number}.tfrecords") for number in classes}
    there = set(copy.files.names)
    named = f"is not there, but {specs[0]} names its class"
    if missing := [Finding(True, name, named) for name in files.values() if name not in there]:
        raise DataError(missing)
    images = remembered(lambda name: [image for image, _ in examples(copy.content(name))], files=cores() + 1)
    entries = [
        classes[int(number)]._replace(source=Picture(files[number], index))
        for number, count in each(files, lambda name: len(images(name))).items()
        for index in range(count)
    ]

    def read(picture: Picture) -> Image.Image:
        return opened(bytes(images(picture.file)[picture.number]))

    if split == "published":
        found = arranged(entries, "published", Published(counts, _images(spec)))
    else:
        found = placed(Manifest(entries), "classes", seed, 1)
    about = {"layout": "TFRecords", "data set": plain(spec.get("name", ""))}
    return image_data("meta_dataset", found, read, Shape(size, 3, "squash", RESAMPLING), about=about)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("has lists within lists without end") from error


def _images(spec: Mapping[str, Any]) -> int:
    """Return how many images all classes have, or 0 if that is not said."""
    counts = spec.get("images_per_class")
    known = isinstance(counts, dict) and all(isinstance(count, int) for count in counts.values())
    return sum(counts.values()) if counts and known else 0


def _classes(spec: Any) -> dict[int, Entry]:
    """Return the split, name and group of each class [K] by its number: they are numbered train, val, test.

    Raises:
        ValueError: if the specification is not of a form that is known.
    """
    try:
        parts, groups = _parts(spec)
        numbers = [part for part in PARTS for _ in range(parts[part])]
        names = {int(number): plain(name) for number, name in spec.get("class_names", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError("does not say how many classes train, validate and test") from error
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    found = {}
    for number, part in enumerate(numbers):
        name = names.get(number) or f"class {number}"
        own = f"{name} ({number})" if name in twice else name
        found[number] = Entry("", own, PARTS[part], groups[number] if groups else "")
    return found


def _parts(spec: Any) -> tuple[dict[str, int], list[str]]:
    """Return how many classes each split has, and the group of each class if the classes have superclasses."""
    if "superclasses_per_split" in spec:  # Omniglot: the superclasses are alphabets
        sizes = [_count(spec["classes_per_superclass"][str(k)]) for k in range(len(spec["classes_per_superclass"]))]
        names = spec.get("superclass_names", {})
        groups = [plain(names.get(str(k), f"group {k}")) for k, size in enumerate(sizes) for _ in range(size)]
        counts, start = {}, 0
        for part in PARTS:
            end = start + _count(spec["superclasses_per_split"][part])
            counts[part], start = sum(sizes[start:end]), end
        return counts, groups
    if "split_subgraphs" in spec:  # ImageNet: the classes are the leaves of a graph of each split
        graphs = spec["split_subgraphs"]
        return {part: sum(not node["children_ids"] for node in graphs[part]) for part in PARTS}, []
    return {part: _count(spec["classes_per_split"][part]) for part in PARTS}, []


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= MOST_CLASSES:
        raise ValueError
    return value

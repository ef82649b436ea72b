"""CIFAR-100, from which CIFAR-FS and FC100 are made, in the layouts that it is passed around in.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.

Legend: N images, P pixels per side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.benchmarks import (
    Copy,
    Layout,
    Picture,
    each,
    field,
    labels,
    nothing,
    one,
    pictures,
    plain,
    shipped,
)
from metalearn_cli.data.common.manifest import Entry

CHECKSUM = "97859d18f5acd7060babdf376e4af2f0d9effc6af8bb9390b700a1a329fcbfad"
IMAGES = 60_000


@cache
def lists() -> dict[str, Any]:
    """Return the superclass of each class, and the published splits: classes of CIFAR-FS, superclasses of FC100."""
    found: dict[str, Any] = shipped("cifar100.json", CHECKSUM)
    return found


def layout_of(copy: Copy, own: str, place: Callable[[str], Entry]) -> Layout:
    """Return the images of a copy.

    Args:
        copy: the files.
        own: the name of the benchmark's own pickles, such as "FC100_{}.pickle".
        place: returns an entry, without a source, with the split of a class of CIFAR-100.

    Raises:
        DataError: if no layout is there, or files are missing or damaged.
    """
    found = _python(copy, place) or _own(copy, own) or _folders(copy, place)
    if found is None:
        layouts = (
            "cifar-100-python/ with train, test and meta, or the archive of it",
            f"{own.format('train')}, {own.format('val')} and {own.format('test')}",
            "a folder of images for each class, named as in CIFAR-100 (cifar100/data/apple/)",
        )
        raise nothing(copy, layouts)
    return found


def _python(copy: Copy, place: Callable[[str], Entry]) -> Layout | None:
    """Return the images of the published pickles of CIFAR-100, those of its train and test together."""
    meta = copy.find("cifar-100-python/meta") or copy.find("meta")
    if meta is None:
        return None
    files = {part: str(PurePosixPath(meta).with_name(part)) for part in ("train", "test")}
    there = set(copy.files.names)
    if missing := [Finding(True, n, f"is not there, but {meta} is") for n in files.values() if n not in there]:
        raise DataError(missing)
    names = one(meta, lambda name: [plain(word) for word in field(copy.pickle(name), "fine_label_names")])
    if wrong := sorted({*names} - {n for own in lists()["superclasses"].values() for n in own}):
        raise DataError([Finding(True, meta, f"names classes that are not in CIFAR-100: {', '.join(wrong[:5])}")])

    def load(name: str) -> tuple[NDArray[np.uint8], list[int]]:
        content = copy.pickle(name)
        images = pictures(field(content, "data"), channels_first=True)
        return images, labels(field(content, "fine_labels"), len(images), len(names))

    loaded = each(files, load)
    arrays = {files[part]: images for part, (images, _) in loaded.items()}
    entries = [
        place(names[label])._replace(source=Picture(files[part], index))
        for part, (_, own) in loaded.items()
        for index, label in enumerate(own)
    ]
    return Layout("pickles of CIFAR-100", entries, lambda p: Image.fromarray(arrays[p.file][p.number]))


def _own(copy: Copy, pattern: str) -> Layout | None:
    """Return the images of the benchmark's own pickles, which number the classes and have no names."""
    names = copy.by_split(pattern)
    if not names:
        return None

    def load(name: str) -> tuple[NDArray[np.uint8], list[int]]:
        content = copy.pickle(name)
        images = pictures(field(content, "data"))
        return images, labels(field(content, "labels"), len(images))

    loaded = each(names, load)
    arrays = {names[split]: images for split, (images, _) in loaded.items()}
    entries = [
        Entry(Picture(names[split], index), f"{split} {label:02d}", split)
        for split, (_, own) in loaded.items()
        for index, label in enumerate(own)
    ]
    return Layout("a pickle for each split", entries, lambda p: Image.fromarray(arrays[p.file][p.number]))


def _folders(copy: Copy, place: Callable[[str], Entry]) -> Layout | None:
    """Return the images in folders that are named as classes of CIFAR-100, wherever these are."""
    known = {name for own in lists()["superclasses"].values() for name in own}
    classes: dict[PurePosixPath, dict[str, list[str]]] = {}
    for name in copy.images():
        folder = PurePosixPath(name).parent
        if folder.name in known:
            classes.setdefault(folder.parent, {}).setdefault(folder.name, []).append(name)
    if not classes:
        return None
    # a program that read it before may have sorted copies into folders of its own: train/, val/, test/
    most = max(classes.values(), key=len)
    chosen = [most] if all(own.keys() <= most.keys() for own in classes.values()) else [*classes.values()]
    entries = [place(label)._replace(source=name) for own in chosen for label, names in own.items() for name in names]
    return Layout("folders of classes", entries, copy.image)

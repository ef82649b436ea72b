"""miniImageNet in each of its layouts: 5 classes in each split, 16 images of 8x8 in each class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from foreign import encoded, old_pickle, pixels, put

SPLITS = ("train", "val", "test")
CLASSES, ITEMS = 5, 16


def wnids(split: str) -> list[str]:
    """Return the names of the classes of a split."""
    return [f"n015{SPLITS.index(split)}{k:04d}" for k in range(CLASSES)]


def images(split: str, items: int = ITEMS) -> Iterator[tuple[str, int, int]]:
    """Yield class, number within the class, and seed of each image of a split."""
    for k, label in enumerate(wnids(split)):
        for i in range(items):
            yield label, i, (SPLITS.index(split) * CLASSES + k) * 1000 + i


def ravi(folder: Path, inside: str = "images", items: int = ITEMS) -> Path:
    """Write the CSV files of Ravi & Larochelle; `inside` is the folder of an image, which may name its {label}."""
    for split in SPLITS:
        rows = ["filename,label"]
        for label, i, seed in images(split, items):
            name = f"{label}{i + 1:08d}.jpg"
            put(folder / inside.format(label=label) / name, encoded(seed, kind="JPEG"))
            rows.append(f"{name},{label}")
        put(folder / f"{split}.csv", "\r\n".join(rows) + "\r\n")
    return folder


def easyfsl(folder: Path, items: int = ITEMS) -> Path:
    """Write the CSV files of easyfsl, whose columns are the other way round, and the images in ImageNet's folders."""
    for split in SPLITS:
        rows = ["class_name,image_name"]
        for label, i, seed in images(split, items):
            name = f"{label}_{i * 7 + 3}.JPEG"
            put(folder / "ILSVRC" / "train" / label / name, encoded(seed, kind="JPEG"))
            rows.append(f"{label},{name}")
        put(folder / f"{split}.csv", "\n".join(rows) + "\n")
    return folder


def cache(split: str, items: int = ITEMS) -> dict[str, Any]:
    """Return what the pickle of a split holds."""
    found = list(images(split, items))
    indices = {label: [n for n, (own, *_) in enumerate(found) if own == label] for label in wnids(split)}
    return {"image_data": np.stack([pixels(seed) for *_, seed in found]), "class_dict": indices}


def caches(folder: Path, val: str = "val", items: int = ITEMS) -> Path:
    """Write the pickles, as Python 2 wrote them."""
    for split, word in (("train", "train"), ("val", val), ("test", "test")):
        put(folder / f"mini-imagenet-cache-{word}.pkl", old_pickle(cache(split, items)))
    return folder


def hdf5(folder: Path, items: int = ITEMS) -> Path:
    """Write torchmeta's files."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
            group = file.create_group("datasets")
            for label in wnids(split):
                own = np.stack([pixels(seed) for name, _, seed in images(split, items) if name == label])
                group.create_dataset(label, data=own)
        put(folder / f"{split}_labels.json", json.dumps(wnids(split)))
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(ravi(folder)), "size": 8}

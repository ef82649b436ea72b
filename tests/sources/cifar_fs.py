"""CIFAR-100 in each of its layouts: 5 classes in each split of CIFAR-FS, 16 images in each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from foreign import encoded, old_pickle, pixels, put

from metalearn_cli.data.common.cifar import lists

SPLITS = ("train", "val", "test")
ITEMS = 16


def chosen(benchmark: str = "cifar_fs", classes: int = 5) -> dict[str, list[str]]:
    """Return some classes of each split of a benchmark."""
    found = lists()[benchmark]
    if benchmark == "fc100":
        found = {
            split: [n for group in groups for n in lists()["superclasses"][group]] for split, groups in found.items()
        }
    return {split: sorted(names)[:classes] for split, names in found.items()}


def python(folder: Path, benchmark: str = "cifar_fs", side: int = 32, items: int = ITEMS) -> Path:
    """Write cifar-100-python/ as Python 2 wrote it; five of six images of a class are in train, as published."""
    fine = sorted(name for own in lists()["superclasses"].values() for name in own)
    coarse = sorted(lists()["superclasses"])
    labels = [fine.index(name) for names in chosen(benchmark).values() for name in names]
    for part, numbers in (("train", range(items - 3)), ("test", range(items - 3, items))):
        found = [(label, i) for i in numbers for label in labels]
        content = {
            "filenames": [f"{fine[label]}_s_{i:06d}.png" for label, i in found],
            "batch_label": "training batch 1 of 1",
            "fine_labels": [label for label, _ in found],
            "coarse_labels": [0 for _ in found],
            "data": np.stack([pixels(label * 1000 + i, side).transpose(2, 0, 1).ravel() for label, i in found]),
        }
        put(folder / "cifar-100-python" / part, old_pickle(content))
    put(folder / "cifar-100-python" / "meta", old_pickle({"fine_label_names": fine, "coarse_label_names": coarse}))
    return folder


def folders(folder: Path, benchmark: str = "cifar_fs", items: int = ITEMS) -> Path:
    """Write a folder of images for each class, as for CIFAR-FS."""
    for split, names in chosen(benchmark).items():
        for k, name in enumerate(names):
            for i in range(items):
                file = folder / "cifar100" / "data" / name / f"{name}_{i:04d}.png"
                put(file, encoded((SPLITS.index(split) * 10 + k) * 1000 + i))
        put(folder / "cifar100" / "splits" / "bertinetto" / f"{split}.txt", "\n".join(names) + "\n")
    return folder


def own(folder: Path, start: str, items: int = ITEMS) -> Path:
    """Write a pickle for each split, such as FC100_train.pickle, with numbered classes."""
    for split in SPLITS:
        labels = [k for k in range(5) for _ in range(items)]
        data = np.stack([pixels(SPLITS.index(split) * 1000 + n) for n in range(len(labels))])
        put(folder / f"{start}_{split}.pickle", old_pickle({"data": data, "labels": labels}))
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(python(folder, side=8)), "size": 8}

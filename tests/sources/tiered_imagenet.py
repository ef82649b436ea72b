"""tieredImageNet's pickles: 5 classes in each split, 16 images of 8x8 in each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from foreign import encoded, old_pickle, put

SPLITS = ("train", "val", "test")
CLASSES, ITEMS = 5, 16


def labels(split: str, items: int = ITEMS) -> dict[str, Any]:
    """Return what the labels of a split are."""
    own = np.repeat(np.arange(CLASSES, dtype=np.int32), items)
    return {
        "label_specific": own,
        "label_general": np.zeros_like(own),
        "label_specific_str": [f"{split} dog {k}, Canis {k}" for k in range(CLASSES)],
        "label_general_str": ["dog, domestic dog"],
    }


def images(split: str, items: int = ITEMS) -> list[Any]:
    """Return the images of a split, encoded, with the second axis that old versions of OpenCV add."""
    start = SPLITS.index(split) * 1000
    return [np.frombuffer(encoded(start + n), np.uint8)[:, None] for n in range(CLASSES * items)]


def pickles(folder: Path, items: int = ITEMS) -> Path:
    """Write the pickles, as Python 2 wrote them."""
    for split in SPLITS:
        put(folder / f"{split}_images_png.pkl", old_pickle(images(split, items)))
        put(folder / f"{split}_labels.pkl", old_pickle(labels(split, items)))
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(pickles(folder)), "size": 8}

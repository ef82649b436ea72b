"""A table of pictures with captions, numbers and categories."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from sources.images import picture

WORDS = "small large old new red green blue round flat tall".split()


def fill(file: Path, classes: int = 20, items: int = 16) -> Path:
    """Write a table and its pictures: each class has words and a mean of its own."""
    random = np.random.default_rng(0)
    (file.parent / "pictures").mkdir()
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image", "caption", "species", "mass", "colour"])
        for k in range(classes):
            for i in range(items):
                name = f"pictures/{k}-{i}.png"
                picture(k * 1000 + i).save(file.parent / name)
                caption = f"a {random.choice(WORDS)} {random.choice(WORDS)} thing {k} {i}"
                mass = f"{random.normal() + k:.3f}" if i else ""
                writer.writerow([name, caption, f"species{k:02d}", mass, random.choice(["red", "green"])])
    return file


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    column = {"path": None, "text": "caption", "label": None, "split": None, "group": None}
    return {"root": str(fill(folder / "things.csv")), "size": 8, "length": 8, "column": column}

"""A table with numbers, categories and gaps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("red", "green", "blue", "")


def fill(file: Path, classes: int = 20, items: int = 16) -> Path:
    """Write a CSV: each class has a mean of its own, and some values are missing."""
    random = np.random.default_rng(0)
    means = random.normal(size=(classes, 3)) * (1, 10, 100)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["species", "length", "width", "mass", "colour"])
        for k in range(classes):
            for _ in range(items):
                length, width, mass = means[k] + random.normal(size=3) * (0.5, 5, 50)
                seen = "NA" if random.random() < 0.1 else f"{width:.3f}"
                writer.writerow([f"species{k:02d}", f"{length:.4f}", seen, f"{mass:.1f}", random.choice(COLOURS)])
    return file


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(fill(folder / "plants.csv"))}

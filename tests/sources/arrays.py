"""Arrays of vectors with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def fill(file: Path, *shape: int, classes: int = 20, items: int = 16, seed: int = 0) -> Path:
    """Write an .npz file of items of a shape, each class with a mean of its own."""
    random = np.random.default_rng(seed)
    y = np.arange(classes).repeat(items)
    x = random.normal(size=(len(y), *shape)) + random.normal(size=(classes, *shape))[y] * 2 + 7
    np.savez(file, x=x, y=y)
    return file


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(fill(folder / "vectors.npz", 6))}

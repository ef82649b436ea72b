"""CUB-200-2011 with its first 20 species, 16 images of 8x8 of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreign import encoded, put

ITEMS = 16
NAMES = tuple(f"{k:03d}.Bird_{k}" for k in range(1, 21))


def birds(folder: Path, names: tuple[str, ...] = NAMES, items: int = ITEMS) -> Path:
    """Write CUB_200_2011/ with images and their list."""
    rows = []
    for k, name in enumerate(names):
        for i in range(items):
            file = f"{name}/{name[4:]}_{i + 1:04d}_{k * 100 + i}.jpg"
            put(folder / "CUB_200_2011" / "images" / file, encoded(k * 1000 + i, kind="JPEG"))
            rows.append(f"{len(rows) + 1} {file}")
    put(folder / "CUB_200_2011" / "images.txt", "\n".join(rows) + "\n")
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(birds(folder)), "size": 8}

"""Folders of images of various sizes and modes."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODES = {"RGB": "jpg", "L": "png", "RGBA": "png", "P": "gif", "CMYK": "tif", "1": "png", "I;16": "png"}


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """Return a picture of a size and content that depend on the seed."""
    random = np.random.default_rng(seed)
    width, height = random.integers(9, 40, 2)
    image = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize((int(width), int(height)))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


@cache
def _file(seed: int, mode: str, ending: str) -> bytes:
    file = io.BytesIO()
    picture(seed, mode).save(file, Image.registered_extensions()[f".{ending}"])
    return file.getvalue()


def fill(folder: Path, classes: int = 20, items: int = 16) -> Path:
    """Write a folder of images for each class: each class has images of all modes."""
    for k in range(classes):
        own = folder / f"class{k:02d}"
        own.mkdir(parents=True)
        for i in range(items):
            mode, ending = list(MODES.items())[i % len(MODES)]
            (own / f"{i}.{ending}").write_bytes(_file(k * 1000 + i, mode, ending))
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(fill(folder / "photos")), "size": 12}

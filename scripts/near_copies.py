"""How many altered copies of photographs `mlx data check` finds, and how many other pairs it takes for copies.

    python scripts/near_copies.py

The photographs are 120 crops of scikit-learn's two, 100 to 220 pixels wide, as items of 32x32. "faded" are the same
with a transparency that grows to the left. False alarms are pairs of different crops, and of characters of `glyphs`.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from metalearn_cli.data.common.findings import near_copies
from metalearn_cli.data.common.pixels import Shape, pixels_of
from metalearn_cli.data.common.splits import Split
from metalearn_cli.data.glyphs import glyphs

CROPS = 60  # of each photograph


def crops() -> list[Image.Image]:
    """Return crops of photographs, those of one drawn at random."""
    random, found = np.random.default_rng(0), []
    for photo in load_sample_images().images:
        for _ in range(CROPS):
            side = int(random.integers(100, 220))
            y, x = (int(random.integers(0, length - side)) for length in photo.shape[:2])
            found.append(Image.fromarray(photo[y : y + side, x : x + side]))
    return found


def saved(image: Image.Image) -> Image.Image:
    """Return an image as a JPEG of quality 50 has it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(io.BytesIO(file.getvalue()))


def half(image: Image.Image) -> Image.Image:
    """Return an image at half its size."""
    return image.resize((image.width // 2, image.height // 2))


def faded(image: Image.Image) -> Image.Image:
    """Return an image that becomes transparent to the left."""
    row = np.linspace(0, 255, image.width).astype(np.uint8)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(row, (image.height, 1))))
    return clear


def split_of(images: list[Image.Image]) -> Split:
    """Return images as a split, each a class of its own."""
    items = torch.stack([torch.from_numpy(pixels_of(image, Shape(32, 3)).copy()) for image in images])
    return Split(items, torch.ones(len(images), dtype=torch.int64), tuple(map(str, range(len(images)))))


def pairs(train: Split, test: Split) -> list[tuple[str, ...]]:
    """Return the classes of the pairs that are found."""
    found = near_copies({"train": train, "test": test})
    return [tuple(name.removesuffix(" #1") for name in pair.split(" and ")) for f in found for pair in f.items]


def main() -> None:
    """Print the numbers."""
    photos = crops()
    ways: dict[str, Callable[[Image.Image], Image.Image]] = {
        "quality 50": saved,
        "half size": half,
        "half size, quality 50": lambda image: saved(half(image)),
        "15 % brighter": lambda image: image.point(lambda value: min(255, int(1.15 * value))),
    }
    for name, way in ways.items():
        found = pairs(split_of(photos), split_of([way(photo) for photo in photos]))
        print(f"{name}: {sum(one == two for one, two in found)} of {len(photos)} copies")
    total = len(photos) * (len(photos) - 1) // 2
    for name, images in (("photographs", photos), ("faded photographs", [faded(photo) for photo in photos])):
        own = split_of(images)
        print(f"{name}: {sum(one < two for one, two in pairs(own, own))} false alarms of {total} pairs")
    characters = glyphs().splits
    found, rows = pairs(characters["train"], characters["test"]), [len(characters[s].items) for s in ("train", "test")]
    print(f"glyphs: {len(found)} false alarms of {rows[0] * rows[1]} pairs")


if __name__ == "__main__":
    main()

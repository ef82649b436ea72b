"""Small archives in Omniglot's layout, and the means to have them taken for the published ones."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn_cli.data import omniglot

SETS = ("images_background", "images_evaluation")


def png(seed: int, side: int = 105, mode: str = "1") -> bytes:
    """Return a drawing of random dots."""
    pixels = np.random.default_rng(seed).random((side, side)) > 0.1
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def members(name: str, characters: int) -> dict[str, bytes]:
    """Return 20 drawings of each of so many characters, each of an alphabet of its own, by name in the archive."""
    return {
        f"{name}/{name[7:10]}alphabet{k}/character01/{k:04d}_{i:02d}.png": png(SETS.index(name) * 1000 + k * 20 + i)
        for k in range(characters)
        for i in range(20)
    }


@cache
def runs(number: int = 20, way: int = 20) -> dict[str, bytes]:
    """Return Lake's runs, by name in the archive; the drawing to classify of class 1 is the last one, and so on."""
    found: dict[str, bytes] = {}
    for r in range(1, number + 1):
        labels = ""
        for k in range(1, way + 1):
            item, label = f"run{r:02d}/test/item{k:02d}.png", f"run{r:02d}/training/class{way + 1 - k:02d}.png"
            found |= {name: png(5000 + 100 * r + 50 * n + k) for n, name in enumerate((item, label))}
            labels += f"{item} {label}\n"
        found[f"run{r:02d}/class_labels.txt"] = labels.encode()
    return found


def packed(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@cache
def pixels(name: str, characters: int) -> str:
    """Return the SHA-256 of the pixels of an archive's drawings."""
    drawings = [omniglot._drawing(content) for _, content in sorted(members(name, characters).items())]
    return hashlib.sha256(b"".join(drawing.tobytes() for drawing in drawings)).hexdigest()


def publish(characters: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many characters be what the published archives have; nothing is in the cache, which is in `folder`."""
    monkeypatch.setenv("MLX_CACHE_DIR", str(folder / "cache"))
    monkeypatch.delenv("MLX_DATA_DIR", raising=False)
    monkeypatch.setattr(omniglot, "CHARACTERS", dict.fromkeys(SETS, characters))
    for name in SETS:
        monkeypatch.setitem(omniglot.PIXELS, name, pixels(name, characters))

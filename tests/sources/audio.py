"""Folders of short recordings in several formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS"}
RATE = 4000


def sound(seed: int, seconds: float = 0.06) -> np.ndarray:
    """Return a tone with noise, whose pitch, loudness and noise depend on the seed."""
    random = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    tone = np.sin(2 * np.pi * random.uniform(200, 1500) * time) + 0.3 * random.standard_normal(len(time))
    return (random.uniform(0.05, 0.4) * tone).astype(np.float32)


def save(path: Path, seed: int, channels: int = 1) -> None:
    """Write a recording in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix[1:]
    file = io.BytesIO()  # soundfile would wait for the disk
    soundfile.write(file, np.stack([sound(seed)] * channels, 1), RATE, subtype=FORMATS.get(ending), format=ending)
    path.write_bytes(file.getvalue())


def fill(folder: Path, classes: int = 20, items: int = 16) -> Path:
    """Write a folder of recordings for each class."""
    for k in range(classes):
        for i in range(items):
            ending = list(FORMATS)[i % 2 if i else 2]
            save(folder / f"class{k:02d}" / f"{i}.{ending}", k * 1000 + i, 1 + i % 2)
    return folder


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(fill(folder / "sounds")), "rate": RATE, "seconds": 0.05, "mels": 8, "hop": 0.01}

"""ESC-50's layout: audio/{fold}-{clip}-{take}-{target}.wav and meta/esc50.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sources.audio import RATE, save

NAMES = ("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow", "rain", "sea_waves")
MORE = ("crackling_fire", "crickets", "chirping_birds", "water_drops", "wind", "pouring_water", "toilet_flush", "siren")


def lists(file: Path, *splits: list[str]) -> None:
    """Write the lists of MetaAudio: an array of objects."""
    array = np.empty(len(splits), object)
    array[:] = splits
    np.save(file, array, allow_pickle=True)


def write(folder: Path) -> dict[str, Any]:
    """Write the source: 20 kinds of sounds."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, name in enumerate(NAMES + MORE):
        for n in range(16):
            file = f"{1 + n % 5}-{100000 + n}-A-{target}.wav"
            save(folder / "audio" / file, target * 100 + n)
            lines.append(f"{file},{1 + n % 5},{target},{name},False,{100000 + n},A")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return {"root": str(folder), "rate": RATE, "seconds": 0.05, "mels": 8, "hop": 0.01}

"""The layout of Speech Commands: {word}/{speaker}_nohash_{n}.wav, and noise that is no word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources.audio import RATE, save

WORDS = ("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy")
MORE = ("house", "learn", "left", "marvin", "nine", "no", "off")


def write(folder: Path) -> dict[str, Any]:
    """Write the source: 20 words."""
    for k, word in enumerate(WORDS + MORE):
        for n in range(16):
            save(folder / word / f"{n:08x}_nohash_{n % 3}.wav", k * 100 + n)
    save(folder / "_background_noise_" / "white_noise.wav", 1)
    (folder / "validation_list.txt").write_text("bed/00000000_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("bird/00000001_nohash_1.wav\n")
    return {"root": str(folder), "rate": RATE, "seconds": 0.05, "mels": 8, "hop": 0.01}

"""FSDD's layout: recordings/{digit}_{speaker}_{n}.wav."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources.audio import RATE, save

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def write(folder: Path) -> dict[str, Any]:
    """Write the source: five digits of each speaker."""
    for s, speaker in enumerate(SPEAKERS):
        for digit in range(5):
            for n in range(16):
                save(folder / "recordings" / f"{digit}_{speaker}_{n}.wav", s * 1000 + digit * 100 + n)
    return {"root": str(folder), "rate": RATE, "seconds": 0.05, "mels": 8, "hop": 0.01}

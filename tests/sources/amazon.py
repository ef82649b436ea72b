"""Reviews as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources.tokens import lines


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return lines(folder / "amazon.json", classes=24)

"""Two tables as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources import arrays


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    parts = {}
    for seed, name in enumerate(("left", "right")):
        root = str(arrays.fill(folder / f"{name}.npz", 6, seed=seed))
        parts[name] = {"_target_": "metalearn_cli.data.arrays.arrays", "root": root}
    return {"parts": parts}

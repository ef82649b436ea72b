"""CIFAR-100 with 5 classes in each split of FC100, 16 images in each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sources.cifar_fs import python


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    return {"root": str(python(folder, "fc100", side=8)), "size": 8}

"""JSON lines of tokens and a label, as Bao et al. published them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sources.text import sentences


def lines(path: Path, classes: int) -> dict[str, Any]:
    """Write a file with all its classes, and return the settings that read it."""
    rows = [json.dumps({"text": text.lower().split(), "label": label}) for text, label in sentences(classes)]
    path.write_text("\n".join(rows) + "\n")
    return {"root": str(path.parent), "vocabulary": 256, "length": 32}

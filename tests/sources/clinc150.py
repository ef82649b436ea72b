"""data_full.json with a third of the intents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalearn_cli.data.clinc150 import DOMAINS
from sources.text import sentence

INTENTS = [intent for intents in DOMAINS.values() for intent in intents.split()[:5]]
ITEMS = {"train": 12, "val": 2, "test": 2}


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    rows: dict[str, list[list[str]]] = {"oos_val": [["who won the game", "oos"]]}
    number = 0
    for part, items in ITEMS.items():
        rows[part] = [[sentence(k, number + i), name] for k, name in enumerate(INTENTS) for i in range(items)]
        rows[f"oos_{part}"] = [["who won the game", "oos"]]
        number += items
    (folder / "data_full.json").write_text(json.dumps(rows, indent=4))
    return {"root": str(folder), "vocabulary": 256, "length": 32}

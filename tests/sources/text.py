"""A table of sentences."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

SYLLABLES = ["".join(pair) for pair in product("bdfgklmnprst", "aeiou")]


def word(number: int) -> str:
    """Return a word of three syllables, another one for each number."""
    return "".join(SYLLABLES[number // 60**place % 60] for place in range(3))


def sentence(label: int, item: int) -> str:
    """Return a sentence, another one for each label and item; a class has words of its own."""
    return f"Do you {word(7 * label)} the {word(7 * label + item % 5)}, my {word(item)} {word(31 * label + item)}?"


def sentences(classes: int = 20, items: int = 16) -> Iterator[tuple[str, int]]:
    """Yield sentences and their labels, class by class."""
    for label in range(classes):
        for item in range(items):
            yield sentence(label, item), label


def write(folder: Path) -> dict[str, Any]:
    """Write the source."""
    path = folder / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *((text, word(label)) for text, label in sentences())])
    return {"root": str(path), "vocabulary": 256, "length": 32}

"""Which data set reads a file or folder of the user. Needs no torch."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import chain
from pathlib import Path

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.data.common.files import files_in, is_archive, suffix

ENDINGS = {
    "images": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "text": (".txt", ".arrow"),
    "arrays": (".npy", ".npz"),
    "table": (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"),
}
"""The endings of the files that each data set reads."""

COLUMNS = {
    "images": ("image", "img", "path", "file"),
    "audio": ("audio", "wav", "sound"),
    "text": ("text", "sentence", "utter", "token"),
}
"""How names of columns begin that tell what a table is about; without one it is a table of numbers and categories."""


def recognised(source: str) -> str:
    """Return the data set that reads a source: "images", "text", "audio", "table" or "arrays".

    Raises:
        UserError: if there is no such file or folder, or it holds nothing known.
    """
    path = Path(expanded(source))
    if not path.exists():
        raise UserError(f"there is no file or folder {source}")
    if suffix(path.name) in ENDINGS["table"] and path.is_file():
        return _of_table(path)
    names = files_in(path).names if path.is_dir() or is_archive(path.name) else (path.name,)
    counts = Counter(data for name in names for data, endings in ENDINGS.items() if suffix(name) in endings)
    if not counts:
        known = ", ".join(chain.from_iterable(ENDINGS.values()))
        raise UserError(f"{source} holds no file of a known kind: {known}")
    return counts.most_common(1)[0][0]


def _of_table(path: Path) -> str:
    """Return what a table is about, by the names of its columns."""
    with path.open("rb") as file:
        line = file.readline(1 << 16).decode("utf-8", "replace").lower()
    names = next(csv.reader([line.replace(";", ",").replace("\t", ",")]), [])
    return next(
        (data for data, starts in COLUMNS.items() if any(name.strip(' "{').startswith(starts) for name in names)),
        "table",
    )

"""Which data set reads a file or folder of the user. Needs no torch."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection
from itertools import chain
from pathlib import Path

from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import DataError, UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.data.common.files import files_in, is_archive, suffix, there
from metalearn_cli.data.common.rows import ARROW, columns_in, encoding_of, separator

LARGEST = 1 << 30  # bytes of a table

ENDINGS = {
    "images": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "text": (".txt", ".arrow"),
    "arrays": (".npy", ".npz"),
    "table": (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"),
}
"""The endings of the files that each data set reads."""

COLUMNS = {
    "images": ("image", "img", "picture", "photo", "path", "file"),
    "audio": ("audio", "wav", "sound"),
    "text": ("text", "sentence", "utter", "question", "query", "token"),
}
"""How names of columns begin that tell what a table is about; without one it is a table of numbers and categories."""


ROLES = {"text": "text", "target": "table", "task": "table"}
"""The data set of each role of a column that the others do not have."""


def recognised(source: str, roles: Collection[str] = ()) -> str:
    """Return the data set that reads a source: "images", "text", "audio", "table" or "arrays".

    Args:
        source: a file or folder.
        roles: those of the columns that the user names; they tell what a table is about.

    Raises:
        UserError: if there is no such file or folder, or it holds nothing known.
    """
    path = Path(expanded(source))
    if not there(path):
        raise UserError(f"there is no file or folder {shown(source)[1:-1]}")
    files = files_in(path) if path.is_dir() or is_archive(path.name) else None
    names = files.names if files else (path.name,)
    counts = Counter(data for name in names for data, endings in ENDINGS.items() if suffix(name) in endings)
    if files and any(finding.blocks for finding in files.findings):
        raise DataError(files.findings)
    if not counts:
        known = ", ".join(chain.from_iterable(ENDINGS.values()))
        raise UserError(f"{source} holds no file of a known kind: {known}")
    found = counts.most_common(1)[0][0]
    if found != "table":
        return found
    if told := next((ROLES[role] for role in roles if role in ROLES), ""):
        return told
    name = next(name for name in names if suffix(name) in ENDINGS["table"])
    try:
        content = files.read(name, LARGEST) if files else path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{name} in {source} cannot be read: {error}") from error
    return _of_table(content, name)


def _of_table(content: bytes, name: str) -> str:
    """Return what a table is about: files of a kind, by the first row, else by the names of its columns."""
    if suffix(name) in ARROW:
        columns = columns_in(content, name)
        names, values = list(columns), [str(own[0]) for own in columns.values()]
    else:
        lines = content[: 1 << 16].decode(encoding_of(content), "replace").splitlines()[:2] or [""]
        names, *others = [*csv.reader(lines, delimiter=separator(lines[0], name))] or [[]]
        values = [value for row in others or [names] for value in row]
    starts = [name.strip(' "{').lower() for name in names]
    endings = {suffix(value.strip(' "}')) for value in values}
    if files := next((data for data in ("images", "audio") if endings & {*ENDINGS[data]}), ""):
        return files
    return next(
        (data for data, words in COLUMNS.items() if any(start.startswith(words) for start in starts)),
        "table",
    )

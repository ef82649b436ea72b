"""Tables in files: CSV and JSON lines, as columns by name.

Legend: N rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")

Columns = dict[str, list[Any]]
"""The values [N] of each column, by its name; text in a CSV, any JSON value in JSON lines."""

USUAL = {
    "label": ("label", "class", "category", "target", "intent", "species", "y", "class_name", "label_name"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "path": ("path", "file", "filename", "file_name", "image", "image_path", "img", "audio", "image_name"),
    "text": ("text", "sentence", "utterance", "query", "question", "content", "tokens"),
}
"""Names that the columns of each role usually have, the commonest first."""

LONGEST = 1 << 24  # characters of a value


def is_table(name: str) -> bool:
    """Whether a file's name is that of a table."""
    return name.lower().endswith(TABLES)


def columns_of(path: Path) -> Columns:
    """Read a table; a CSV has its columns' names in its first line.

    Raises:
        DataError: with every line that cannot be read.
    """
    text = _text(path)
    columns, wrong = (_csv if path.suffix.lower() in (".csv", ".tsv") else _json_lines)(text, path)
    if wrong:
        raise DataError(wrong)
    if not columns or not next(iter(columns.values())):
        raise DataError([Finding(True, str(path), "has no rows")])
    return columns


def named(
    columns: Columns, role: str, given: Mapping[str, str | None], path: Path, needed: bool = True
) -> tuple[str, list[Any]] | None:
    """Return the column of a role, by name and values.

    Args:
        columns: the table.
        role: a key of `given`, such as "label".
        given: the names that the user chose; None for the one of a usual name.
        path: of the table, for messages.
        needed: whether its absence is an error; else None is returned.

    Raises:
        ConfigError: if there is no such column.
    """
    chosen = given.get(role)
    if chosen is not None:
        if chosen in columns:
            return chosen, columns[chosen]
        near = next(iter(get_close_matches(chosen, columns)), "")
        raise ConfigError(
            [Problem(f"data.column.{role}", f"{path} has no column {chosen!r}; it has {_listed(columns)}", near)]
        )
    known = {name.lower(): name for name in columns}
    found = next((known[name] for name in USUAL.get(role, ()) if name in known), None)
    if found is not None:
        return found, columns[found]
    if not needed:
        return None
    message = f"{path} has the columns {_listed(columns)}; say which one is the {role}: data.column.{role}=NAME"
    raise ConfigError([Problem(f"data.column.{role}", message)])


def check_roles(column: Mapping[str, Any], roles: Sequence[str]) -> None:
    """Check the setting `column`.

    Raises:
        ConfigError: if it names a role that there is not.
    """
    problems = []
    for role, name in column.items():
        if role not in roles:
            near = next(iter(get_close_matches(role, roles)), "")
            problems.append(Problem(f"data.column.{role}", f"no such setting; there are {', '.join(roles)}", near))
        elif not isinstance(name, str | None):
            problems.append(Problem(f"data.column.{role}", f"must be the name of a column, got {name!r}"))
    if problems:
        raise ConfigError(problems)


def _listed(columns: Columns) -> str:
    names = list(columns)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError([Finding(True, str(path), f"cannot be read: {error.strerror}")]) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        told = f"is not UTF-8 text: byte {content[error.start]:#04x}"
        cure = "save the whole file as UTF-8, or convert it: iconv -f latin1 -t utf-8"
        raise DataError([Finding(True, f"{path}, line {line}", told)], cure) from error


def _csv(text: str, path: Path) -> tuple[Columns, list[Finding]]:
    first = text.partition("\n")[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    wrong: list[Finding] = []
    rows: list[list[str]] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for row in reader:
            if len(row) == len(names):
                rows.append(row)
            elif row:
                told = f"has {len(row)} values, the first line names {len(names)} columns"
                wrong.append(Finding(True, f"{path}, line {reader.line_num}", told))
    except csv.Error as error:
        wrong.append(Finding(True, f"{path}, line {reader.line_num}", f"cannot be read: {error}"))
        return {}, wrong
    if twice := sorted({name for name in names if names.count(name) > 1}):
        wrong.append(Finding(True, f"{path}, line 1", f"names a column twice: {', '.join(twice)}"))
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=bool(rows))}, wrong


def _json_lines(text: str, path: Path) -> tuple[Columns, list[Finding]]:
    wrong: list[Finding] = []
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong.append(Finding(True, f"{path}, line {number}", f"is not JSON: {error}"))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            wrong.append(Finding(True, f"{path}, line {number}", "is not a JSON object {...}"))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}, wrong

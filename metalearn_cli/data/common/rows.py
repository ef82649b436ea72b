"""Tables in files: CSV, JSON lines, Parquet and Arrow, as columns by name.

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

from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem, UserError
from metalearn_cli.data.common.files import suffix

ARROW = (".parquet", ".arrow")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", *ARROW)

Columns = dict[str, list[Any]]
"""The values [N] of each column, by its name; text in a CSV, any value in the others."""

USUAL = {
    "x": ("x", "data", "features", "images", "series", "inputs"),
    "label": (
        *("label", "class", "category", "target", "intent", "topic", "species"),
        *("y", "class_name", "label_name", "labels"),
    ),
    "split": ("split", "set", "subset", "partition", "fold"),
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "image",
        "image_path",
        "img",
        "picture",
        "photo",
        "audio",
        "image_name",
    ),
    "text": ("text", "sentence", "utterance", "query", "question", "content", "tokens"),
}
"""Names that the columns of each role usually have, the commonest first."""

LONGEST = 1 << 24  # characters of a value
MOST_ROWS = 1 << 26  # a Parquet file of a few bytes can declare any number


def is_table(name: str) -> bool:
    """Whether a file's name is that of a table."""
    return name.lower().endswith(TABLES)


def columns_of(path: Path) -> Columns:
    """Read a table; a CSV has its columns' names in its first line.

    Raises:
        UserError: if pyarrow is needed and not installed.
        DataError: with every line that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError([Finding(True, str(path), f"cannot be read: {error.strerror}")]) from error
    return columns_in(content, str(path))


def columns_in(content: bytes, name: str) -> Columns:
    """Return the columns of a table, given as the contents of a file.

    Args:
        content: the bytes of the file.
        name: of the file; its end says what it is.

    Raises:
        UserError: if pyarrow is needed and not installed.
        DataError: with every line that cannot be read.
    """
    if suffix(name) in ARROW:
        columns = _arrow(content, name)
    else:
        read = _csv if suffix(name) in (".csv", ".tsv") else _json_lines
        columns, wrong = read(decoded(content, name), name)
        if wrong:
            raise DataError(wrong)
    if not columns or not next(iter(columns.values())):
        raise DataError([Finding(True, name, "has no rows")])
    return columns


def decoded(content: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        DataError: if it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        told = f"is not UTF-8 text: byte {content[error.start]:#04x}"
        cure = "save the whole file as UTF-8, or convert it: iconv -f latin1 -t utf-8"
        raise DataError([Finding(True, f"{name}, line {line}", told)], cure) from error


def with_class_names(columns: Columns, features: Any) -> Columns:
    """Return columns with names instead of class numbers, as Hugging Face's `datasets` describes its features.

    Args:
        columns: the table.
        features: by column; a class label has a list of `names`. The number -1 means that there is no label.
    """
    known = {
        column: dict(enumerate(feature["names"]))
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and isinstance(feature.get("names"), list) and column in columns
    }
    named = {c: [names.get(v) if isinstance(v, int) else v for v in columns[c]] for c, names in known.items()}
    return columns | named


def named(
    columns: Columns, role: str, given: Mapping[str, str | None], path: Path | str, needed: bool = True
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


def values_of(columns: Columns, name: str, path: Path) -> list[Any]:
    """Return the column of a name that the layout of a data set fixes.

    Raises:
        DataError: if there is none.
    """
    if name not in columns:
        raise DataError([Finding(True, str(path), f"has no column {name}; it has {_listed(columns)}")])
    return columns[name]


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


def _csv(text: str, name: str) -> tuple[Columns, list[Finding]]:
    first = text.partition("\n")[0]
    mark = "\t" if suffix(name) == ".tsv" else max(",;\t", key=first.count)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    wrong: list[Finding] = []
    rows: list[list[str]] = []
    try:
        names = [column.strip() for column in next(reader, [])]
        for row in reader:
            if len(row) == len(names):
                rows.append(row)
            elif row:
                told = f"has {len(row)} values, the first line names {len(names)} columns"
                wrong.append(Finding(True, f"{name}, line {reader.line_num}", told))
    except csv.Error as error:
        wrong.append(Finding(True, f"{name}, line {reader.line_num}", f"cannot be read: {error}"))
        return {}, wrong
    if twice := sorted({column for column in names if names.count(column) > 1}):
        wrong.append(Finding(True, f"{name}, line 1", f"names a column twice: {', '.join(twice)}"))
    return {column: list(values) for column, values in zip(names, zip(*rows, strict=True), strict=bool(rows))}, wrong


def _json_lines(text: str, name: str) -> tuple[Columns, list[Finding]]:
    wrong: list[Finding] = []
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong.append(Finding(True, f"{name}, line {number}", f"is not JSON: {error}"))
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            wrong.append(Finding(True, f"{name}, line {number}", "is not a JSON object {...}"))
    names = dict.fromkeys(column for row in rows for column in row)
    return {column: [row.get(column) for row in rows] for column in names}, wrong


def _arrow(content: bytes, name: str) -> Columns:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs pyarrow; type: pip install 'metalearn-cli[parquet]'") from error
    source = pyarrow.BufferReader(content)
    try:
        if suffix(name) == ".parquet":
            file = parquet.ParquetFile(source)
            if file.metadata.num_rows > MOST_ROWS:
                raise ValueError(f"it declares {file.metadata.num_rows} rows; at most {MOST_ROWS} are read")
            table = file.read()
        else:  # datasets writes streams, other programs write files
            table = (ipc.open_file if content.startswith(b"ARROW1") else ipc.open_stream)(source).read_all()
        columns = {column: table.column(column).to_pylist() for column in table.column_names}
        about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        told = f"is damaged or cut short, or is no {suffix(name)[1:]} file: {reason}"
        raise DataError([Finding(True, name, told)]) from error
    return with_class_names(columns, about.get("info", {}).get("features"))

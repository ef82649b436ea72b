"""Tables in files: CSV, JSON lines, Parquet and Arrow, as columns by name.

Legend: N rows.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from metalearn_cli.core.check import as_typed
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem, UserError, gathered, raise_all
from metalearn_cli.data.common.files import suffix

ARROW = (".parquet", ".arrow")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", *ARROW)

Columns = dict[str, list[Any]]
"""The values [N] of each column, by its name; text in a CSV, any value in the others."""


class Table(Columns):
    """The columns of a file.

    Args:
        columns: by name.
        lines: the line [N] of the file on which each row begins; () for a file without lines.
    """

    def __init__(self, columns: Columns, lines: Sequence[int] = ()) -> None:
        super().__init__(columns)
        self.lines = lines

    def place(self, row: int) -> str:
        """Return where a person finds a row of a number from 0: "line 2" in an editor, or "row 1"."""
        return f"line {self.lines[row]}" if self.lines else row_place(row)


Place = Callable[[int], str]
"""Where a person finds a row of a number from 0."""


def row_place(row: int) -> str:
    """Return where a row is in a file without lines."""
    return f"row {row + 1}"


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

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the mark of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The encoding of each mark that a text may begin with."""

LONGEST = 1 << 24  # characters of a value
MOST_ROWS = 1 << 26  # a Parquet file of a few bytes can declare any number
MOST_BYTES = 1 << 31  # of an unpacked table: a file of a few bytes can repeat a value without end
VALUE = 32  # bytes that each value takes besides
AT_ONCE = 128  # most rows that are unpacked together
MOST_VALUES = 1 << 25  # of a text: a small archive can hold any number of them
MOST_TEXT = 1 << 28  # bytes of a text among other files
MOST_WRONG = 20  # lines that are listed one by one


def is_table(name: str) -> bool:
    """Whether a file's name is that of a table."""
    return name.lower().endswith(TABLES)


def word_of(value: Any) -> str:
    """Return a label, group or split as text, "" for a missing one; 3.0 is 3."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def columns_of(path: Path) -> Table:
    """Read a table; a CSV has its columns' names in its first line.

    Raises:
        UserError: if pyarrow is needed and not installed.
        DataError: with every line that cannot be read.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError([Finding(True, str(path), f"is a folder; give a table ({', '.join(TABLES)})")]) from error
    except OSError as error:
        raise DataError([Finding(True, str(path), f"cannot be read: {error.strerror}")]) from error
    return columns_in(content, str(path))


def columns_in(content: bytes, name: str) -> Table:
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
        columns, wrong = read(_lines(decoded(content, name), name), name)
        if wrong:
            raise DataError(_first(wrong, name))
    if not columns or not next(iter(columns.values())):
        raise DataError([Finding(True, name, "has no rows")])
    return columns


def encoding_of(content: bytes) -> str:
    """Return the encoding that the first bytes of a text say; spreadsheets write UTF-16."""
    return next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "utf-8-sig")


def decoded(content: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        DataError: if it is neither UTF-8, nor UTF-16 or UTF-32 that says so.
    """
    encoding, cure = encoding_of(content), "save the whole file as UTF-8, or convert it: iconv -f {} -t utf-8"
    if encoding == "utf-8-sig" and 0 in content[:2]:  # text of two bytes a letter that begins without a mark
        told = "is not UTF-8 text: it has zero bytes, as UTF-16 has"
        raise DataError([Finding(True, name, told)], cure.format("utf-16le" if content[0] else "utf-16be"))
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        word = encoding.removesuffix("-sig")
        told = f"is not {word.upper()} text: byte {content[error.start]:#04x}"
        given = "latin1" if word == "utf-8" else word
        raise DataError([Finding(True, f"{name}, line {line}", told)], cure.format(given)) from error


def with_class_names(columns: Table, features: Any) -> Table:
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
    return Table(columns | named, columns.lines)


def named(
    columns: Columns,
    role: str,
    given: Mapping[str, str | None],
    path: Path | str,
    needed: bool = True,
    instead: str = "",
) -> tuple[str, list[Any]] | None:
    """Return the column of a role, by name and values.

    Args:
        columns: the table.
        role: a key of `given`, such as "label".
        given: the names that the user chose; None for the one of a usual name, "" for no column.
        path: of the table, for messages.
        needed: whether its absence is an error; else None is returned.
        instead: what else may be typed, for the error.

    Raises:
        ConfigError: if there is no such column, or it is nested.
    """
    chosen = given.get(role)
    if chosen == "" and not needed:
        return None
    if chosen is not None:
        if chosen in columns:
            return chosen, _single(columns, chosen, role, path)
        told = f"{path} has no column {chosen!r}; it has {_listed(columns)}"
        raise ConfigError([Problem(f"data.column.{role}", told, nearest(chosen, columns))])
    known = {name.lower(): name for name in columns}
    found = next((known[name] for name in USUAL.get(role, ()) if name in known), None)
    if found is not None:
        return found, _single(columns, found, role, path)
    if not needed:
        return None
    message = (
        f"{path} has the columns {_listed(columns)}; say which one is the {role}: data.column.{role}=NAME{instead}"
    )
    if suffix(str(path)) in (".csv", ".tsv"):
        message += "; the first line must hold the names of the columns"
    raise ConfigError([Problem(f"data.column.{role}", message)])


def roles_of(
    columns: Columns, given: Mapping[str, str | None], path: Path | str, needed: Collection[str]
) -> dict[str, tuple[str, list[Any]]]:
    """Return the column of each role that there is, by name and values; see `named`.

    Args:
        columns: the table.
        given: the roles, with the names that the user chose.
        path: of the table, for messages.
        needed: the roles whose absence is an error.

    Raises:
        ConfigError: with every role that lacks its column.
    """
    found, errors = {}, list[UserError]()
    for role in given:
        with gathered(errors):
            if own := named(columns, role, given, path, role in needed):
                found[role] = own
    raise_all(errors)
    return found


def not_used(columns: Columns, used: Iterable[str]) -> dict[str, str]:
    """Return what `mlx data make` says of the columns without a role; {} if there are none."""
    left = [name for name in columns if name not in used]
    return {"not used": f"{', '.join(left)} (data=mixed uses them, too)"} if left else {}


def nested(values: Iterable[Any]) -> str:
    """Return that a column holds lists, objects or bytes, as Parquet and JSON may have, in words; or ""."""
    held = next((value for value in values if type(value) in (list, dict, bytes)), None)
    return "" if held is None else f"is {'bytes' if isinstance(held, bytes) else 'nested'}: it holds {held!r:.40}"


def _single(columns: Columns, name: str, role: str, path: Path | str) -> list[Any]:
    """Return a column of single values; a text may be a list of words.

    Raises:
        ConfigError: if it is nested.
    """
    values = columns[name]
    if hasattr(values, "dtype"):
        return values  # an array, which holds no objects
    parts = [part for value in values if isinstance(value, list) for part in value] if role == "text" else []
    rest = (value for value in values if not (role == "text" and isinstance(value, list)))
    if told := nested(chain(rest, parts)):
        cure = f"name a column of single values; there are {_listed(columns)}"
        raise ConfigError([Problem(f"data.column.{role}", f"the column {name} of {path} {told}; {cure}")])
    return values


def nearest(name: str, columns: Columns) -> str:
    """Return the column whose name is closest to one that there is not, as it is typed, or ""."""
    names = {own.lower(): own for own in columns}
    return next((as_typed(names[own]) for own in get_close_matches(name.lower(), names, 1)), "")


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


def _lines(text: str, name: str) -> str:
    """Return a text whose lines end with a line feed; old Macintosh programs wrote another end."""
    text = text if "\n" in text else text.replace("\r", "\n")
    if (count := sum(map(text.count, "\n,;\t"))) > MOST_VALUES:
        raise DataError([Finding(True, name, f"is too large: it has {count} values; at most {MOST_VALUES} are read")])
    return text


def _first(wrong: Sequence[Finding], name: str) -> list[Finding]:
    """Return the first findings, and one that counts the others."""
    more = len(wrong) - MOST_WRONG
    return [*wrong[:MOST_WRONG], *[Finding(True, name, f"has {more} more lines that cannot be read")] * (more > 0)]


def separator(text: str, name: str) -> str:
    """Return what stands between the values of a CSV: the commonest of the marks outside quotes in its first line."""
    first = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    return "\t" if suffix(name) == ".tsv" else max(",;\t", key=first.count)


def _csv(text: str, name: str) -> tuple[Table, list[Finding]]:
    mark = separator(text, name)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    wrong: list[Finding] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1  # on which a row begins; a value with line feeds goes over several
    try:
        names = [column.strip() for column in next(reader, [])]
        line = reader.line_num + 1
        for row in reader:
            if len(row) == len(names):
                rows.append(row)
                lines.append(line)
            elif row:
                values = f"{len(row)} value{'s' * (len(row) != 1)}"
                told = f"has {values}, the first line names {len(names)} column{'s' * (len(names) != 1)}"
                wrong.append(Finding(True, f"{name}, line {line}", told))
            line = reader.line_num + 1
    except csv.Error as error:
        open_quote = 'has a quote (") that is not closed before the end of the file'
        told = open_quote if str(error) == "unexpected end of data" else f"cannot be read: {error}"
        wrong.append(Finding(True, f"{name}, line {line}", told))
        return Table({}), wrong
    if twice := sorted(column for column, count in Counter(names).items() if count > 1):
        wrong.append(Finding(True, f"{name}, line 1", f"names a column twice: {', '.join(twice)}"))
    columns = {column: list(values) for column, values in zip(names, zip(*rows, strict=True), strict=bool(rows))}
    return Table(columns, lines), wrong


def _json_lines(text: str, name: str) -> tuple[Table, list[Finding]]:
    wrong: list[Finding] = []
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    if text.lstrip().startswith("["):
        told = "is a JSON list; write each of its objects on a line of its own, as jq -c '.[]' does"
        return Table({}), [Finding(True, name, told)]
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            told = f"has half a character, \\u{ord(error.object[error.start]):04x}: write both halves, or remove it"
            wrong.append(Finding(True, f"{name}, line {number}", told))
            continue
        except (ValueError, RecursionError) as error:
            wrong.append(Finding(True, f"{name}, line {number}", f"is not JSON: {error}"))
            continue
        if isinstance(row, dict):
            rows.append(row)
            lines.append(number)
        else:
            wrong.append(Finding(True, f"{name}, line {number}", "is not a JSON object {...}"))
    names = dict.fromkeys(column for row in rows for column in row)
    return Table({column: [row.get(column) for row in rows] for column in names}, lines), wrong


def _arrow(content: bytes, name: str) -> Table:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs pyarrow; type: pip install 'metalearn-cli[parquet]'") from error
    source = pyarrow.BufferReader(content)
    try:
        if suffix(name) == ".parquet":
            file = parquet.ParquetFile(source)
            schema, parts = file.schema_arrow, _of_parquet(file, name)
        elif content.startswith(b"ARROW1"):
            file = ipc.open_file(source)
            schema, parts = file.schema, map(file.get_batch, range(file.num_record_batches))
        else:  # datasets writes streams, other programs write files
            schema, parts = (stream := ipc.open_stream(source)).schema, iter(stream)
        columns = _unpacked(parts, schema.names, name)
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        told = f"is damaged or cut short, or is no {suffix(name)[1:]} file: {reason}" if content else "is empty"
        raise DataError([Finding(True, name, told)], "copy or download it again") from error
    return with_class_names(Table(columns), about.get("info", {}).get("features"))


def _of_parquet(file: Any, name: str) -> Iterator[Any]:
    """Return the rows of a Parquet file in parts, each with so few that it is small even if a value is repeated."""
    about = file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    sizes = [group.total_byte_size for group in groups]
    _check_size(max(sum(sizes), 0) + VALUE * values, about.num_rows, name)
    at_once = MOST_BYTES // max(1, *sizes) if sizes else 1
    return iter(file.iter_batches(max(1, min(AT_ONCE, at_once))))


def _unpacked(parts: Iterator[Any], names: Sequence[str], name: str) -> Columns:
    """Return the columns of parts of an Arrow table."""
    import pyarrow

    if len(set(names)) < len(names):
        raise ValueError("it names a column twice")
    columns: Columns = {column: [] for column in names}
    size = rows = 0
    for part in (whole.slice(start, AT_ONCE) for whole in parts for start in range(0, whole.num_rows, AT_ONCE)):
        rows += part.num_rows
        for column, values in zip(names, part.columns, strict=True):
            if isinstance(values, pyarrow.DictionaryArray):  # each of its values becomes one of its own
                values = values.dictionary_decode()
            size += values.nbytes + VALUE * len(values)
            _check_size(size, rows, name)
            columns[column] += values.to_pylist()
    return columns


def _check_size(size: int, rows: int, name: str) -> None:
    """Check how large a table is, before more of it is unpacked."""
    if size > MOST_BYTES or rows > MOST_ROWS:
        most = f"at most {MOST_ROWS} rows and {MOST_BYTES} bytes are read"
        told = f"is too large: its first {rows} rows take {size} bytes; {most}"
        raise DataError([Finding(True, name, told)])

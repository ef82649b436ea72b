"""Your own texts: tables, or folders of text files.

Legend: L ids of a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import SPLIT_WORDS, Files, files_in, source_of, suffix
from metalearn_cli.data.common.layouts import NO_CLASS, beside_splits, folders_of
from metalearn_cli.data.common.manifest import Entry, Manifest, placed, splits_of
from metalearn_cli.data.common.rows import (
    ARROW,
    MOST_TEXT,
    TABLES,
    Table,
    check_roles,
    columns_in,
    columns_of,
    decoded,
    is_table,
    not_used,
    roles_of,
    with_class_names,
    word_of,
)
from metalearn_cli.data.common.texts import Coding, Length, Passage, Vocabulary, filled, text_data

COLUMN = {"text": None, "label": None, "split": None, "group": None}
WHAT = "a table of texts, a folder or archive of such tables, or of text files: one for each class, or a folder of them"
LARGEST = 1 << 30  # bytes of a file
_ABOUT = re.compile("readme|licen[cs]e|copying|notice|changelog|citation", re.IGNORECASE)
"""How the names of texts about the data begin, which may lie beside folders of texts."""
AGAIN = "copy the whole folder again, or write it again with save_to_disk"


def text(
    root: str | None = None,
    split: str = "auto",
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 32,
    column: Mapping[str, str | None] = COLUMN,
    min_items: Annotated[int, Range(1)] = 2,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Texts from files as ids, encoded once and then cached.

    A table has a column of texts and one of labels; several tables are one, and their names may say the split
    (train.csv, test.csv). Without tables, a text file in `root` is a class with a text in each line, or a folder is a
    class with a text in each file. Folders named train, val and test are splits. A folder that Hugging Face's
    `datasets` has saved is read without that package.

    Args:
        root: a table (CSV, JSON lines, Parquet, Arrow), a folder, or a zip or tar file.
        split: how classes are split, see `manifest.placed`.
        tokenizer: "words": lower-cased words, and pieces of rare ones, learnt from the training classes; "bytes": the
            text's UTF-8 bytes; or the folder of an encoder, for its own tokenizer.
        vocabulary: most ids of tokenizer "words", 16 to 1048576; id 0 pads, id 1 is an unknown letter.
        length: ids L of an item, 1 to 65536: longer texts are cut, shorter ones padded.
        column: the columns of a table: "text", "label", and perhaps "split" and "group"; None for the usual names.
        min_items: classes with fewer texts are left out, >= 1.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    check_roles(column, tuple(COLUMN))
    manifest = passages(source_of(root, WHAT), column)
    found = placed(manifest, split, seed, min_items)
    data = text_data("text", found, Coding(tokenizer, vocabulary, length), manifest.about)
    return data.within_groups("groups") if within else data


def passages(source: Path, column: Mapping[str, str | None] = COLUMN) -> Manifest:
    """Return the texts of a table, a folder or an archive, as `text` reads them; their sources are `Passage`s.

    Args:
        source: its path.
        column: the columns of a table.

    Raises:
        UserError: if they cannot be used; a DataError names each file.
    """
    if is_table(source.name) and source.is_file():
        return _of_tables({source.name: columns_of(source)}, {source.name: ""}, column)
    return _of_files(files_in(source), column)


def _of_files(files: Files, column: Mapping[str, str | None]) -> Manifest:
    """Return the texts of a folder or archive."""
    if any(finding.blocks for finding in files.findings):
        raise DataError(files.findings)
    tables = _tables(files)
    manifest = _of_all_tables(files, tables, column) if tables else _of_folders(files)
    return manifest._replace(findings=(*files.findings, *manifest.findings))


def _of_all_tables(files: Files, tables: list[str], column: Mapping[str, str | None]) -> Manifest:
    """Return the texts of the tables of a folder or archive."""
    found: dict[str, Table] = {}
    wrong: list[DataError] = []
    for name in tables:
        try:
            found[name] = _read_table(files, name)
        except DataError as error:
            wrong.append(error)
    if wrong:
        raise DataError([finding for error in wrong for finding in error.findings], wrong[0].cure)
    manifest = _of_tables(found, _splits(tables), column)
    about = {**manifest.about, "files": len(tables), "skipped": dict(files.skipped)}
    return manifest._replace(about=about)


def _tables(files: Files) -> list[str]:
    """Return the names of tables; in a folder that `datasets` has saved, those that it lists, not its caches.

    Raises:
        DataError: with each file that such a folder lists and does not have.
    """
    names = [name for name in files.names if suffix(name) in TABLES]
    missing: list[Finding] = []
    for state in (name for name in files.names if PurePosixPath(name).name == "state.json"):
        folder = PurePosixPath(state).parent
        try:
            own = {str(folder / str(file["filename"])) for file in _json(files, state).get("_data_files", ())}
        except (TypeError, KeyError) as error:
            raise DataError([Finding(True, state, "is not as `datasets` writes it")], AGAIN) from error
        names = [name for name in names if PurePosixPath(name).parent != folder or name in own]
        missing += [Finding(True, name, f"is missing; {state} lists it") for name in sorted(own - {*names})]
    if missing:
        raise DataError(missing, AGAIN)
    return names


def _read_table(files: Files, name: str) -> Table:
    folder = PurePosixPath(name).parent
    try:
        columns = columns_in(_content(files, name), name)
    except DataError as error:
        saved = str(folder / "state.json") in files.names  # by `datasets`
        raise DataError(error.findings, AGAIN if saved and error.cure else error.cure) from error
    about = str(folder / "dataset_info.json")
    return with_class_names(columns, _json(files, about).get("features")) if about in files.names else columns


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        found = json.loads(_content(files, name))
    except (ValueError, RecursionError) as error:
        raise DataError([Finding(True, name, f"is not JSON: {error}")]) from error
    return found if isinstance(found, dict) else {}


def _content(files: Files, name: str) -> bytes:
    try:
        return files.read(name, LARGEST if suffix(name) in ARROW else MOST_TEXT)
    except ValueError as error:
        raise DataError([Finding(True, name, str(error))]) from error


def _splits(names: list[str]) -> dict[str, str]:
    """Return the split that each table's name or folder says ("data/train-00000-of-00002.parquet"), or "" for all."""
    found = {}
    for name in names:
        words = [re.split(r"[^a-z]", part.lower())[0] for part in reversed(PurePosixPath(name).parts)]
        found[name] = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
    told = set(found.values())
    if findings := beside_splits(found):
        raise DataError(findings)
    return found if "train" in told and len(told) > 1 and "" not in told else dict.fromkeys(names, "")


def _of_tables(tables: Mapping[str, Table], splits: Mapping[str, str], column: Mapping[str, str | None]) -> Manifest:
    """Return the texts of tables, each with the split that its name says."""
    entries: list[Entry] = []
    wrong: list[Finding] = []
    used: dict[str, str] = {}
    for name, columns in tables.items():
        roles = roles_of(columns, column, name, ("text", "label"))
        values = {role: found[1] for role, found in roles.items()}
        used |= {role: found[0] for role, found in roles.items()}
        own, odd = splits_of(values.get("split", ()), used.get("split", ""), name, columns.place)
        wrong += odd
        for row, (content, label) in enumerate(zip(values["text"], values["label"], strict=True)):
            where = f"{name}, {columns.place(row)}"
            split = own[row] if own else splits[name]
            group = word_of(values["group"][row]) if "group" in values else ""
            entries.append(Entry(Passage(_joined(content), where), word_of(label), split, group))
    if wrong:
        raise DataError(wrong)
    kept, findings = filled(entries)
    left = not_used({name: own for columns in tables.values() for name, own in columns.items()}, used.values())
    about = {"rows": len(entries), "columns": used, **left, "empty": len(entries) - len(kept)}
    return Manifest(kept, about, findings, place=attrgetter("where"))


def _joined(content: Any) -> str:
    """Return a text; a list of tokens is joined by blanks."""
    if isinstance(content, list | tuple):
        return " ".join(map(str, content))
    return "" if content is None else str(content)


def _of_folders(files: Files) -> Manifest:
    """Return the texts of text files: a class for each file, with a text in each line, or for each folder."""
    names = [name for name in files.names if suffix(name) == ".txt"]
    if not names:
        kinds = sorted({suffix(name) or "no ending" for name in files.names})[:8]
        told = f"has neither tables ({', '.join(TABLES)}) nor texts (.txt)"
        has = f"; it has files of {', '.join(kinds)}" if kinds else ""
        raise DataError([Finding(True, "data.root", told + has)])
    above = {folder for name in names for folder in PurePosixPath(name).parent.parents}
    texts = [name for name in names if PurePosixPath(name).parent not in above or not _ABOUT.match(Path(name).name)]
    places, wrong = folders_of(texts)
    by_folder = any(own for _, own in places.values())
    given = any(split for split, _ in places.values())
    loose = [name for name, (split, own) in places.items() if not own and (by_folder or (given and not split))]
    wrong = [*(Finding(True, name, NO_CLASS) for name in loose), *wrong]
    if any(finding.blocks for finding in wrong):
        raise DataError(wrong)
    entries: list[Entry] = []
    for name, (split, own) in places.items():
        content = decoded(_content(files, name), name)
        if by_folder:
            group = own[0] if len(own) > 1 else ""
            entries.append(Entry(Passage(content, name), "/".join(own[bool(group) :]), split, group))
        else:
            lines = enumerate(content.split("\n"), 1)
            label = PurePosixPath(name).stem
            entries += [Entry(Passage(line, f"{name}, line {n}"), label, split) for n, line in lines if line.strip()]
    about = {
        "files": len(files.names),
        "a class is": "a folder" if by_folder else "a file",
        "skipped": {
            **files.skipped,
            "not text": len(files.names) - len(names),
            "about the data": len(names) - len(texts),
        },
    }
    kept, findings = filled(entries)
    return Manifest(kept, {**about, "empty": len(entries) - len(kept)}, (*wrong, *findings))

"""Your own items of several parts: a table whose rows have a picture, a text, and numbers or categories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import PIL
import torch
from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import Files, files_named, source_of
from metalearn_cli.data.common.findings import shared_groups
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Manifest, Placed, placed
from metalearn_cli.data.common.pixels import LARGEST, Fit, Resampling, Shape, opened
from metalearn_cli.data.common.rows import TABLES, Columns, Place, check_roles, columns_of, is_table, named
from metalearn_cli.data.common.splits import Split, packed
from metalearn_cli.data.common.tables import (
    check_names,
    entries_of,
    examples,
    learn,
    problems_of_columns,
    text_of,
    vectors,
    without_index,
)
from metalearn_cli.data.common.texts import Coding, Length, Passage, Vocabulary, text_data

COLUMN = {"path": None, "text": None, "label": None, "split": None, "group": None}
NONE: Sequence[str] = []
WHAT = "a table in which a row names a picture, has a text, or both, and a label"


def mixed(
    root: str | None = None,
    split: str = "auto",
    size: Annotated[int, Range(8, 1024)] = 32,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    resampling: Resampling = "bicubic",
    bits: Annotated[int, Range(8, 16)] = 16,
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 32,
    column: Mapping[str, str | None] = COLUMN,
    categorical: Sequence[str] = NONE,
    ignore: Sequence[str] = NONE,
    min_items: Annotated[int, Range(1)] = 2,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Rows of a table as items of parts: "image", "text", and "table" for all columns without a role.

    Each part is treated as data=images, data=text and data=table treat it, and all that is learnt is learnt from the
    training classes. Every row needs every part; only numbers and categories may be missing.

    Args:
        root: a table; its paths are relative to its folder.
        split: how classes are split, see `manifest.placed`.
        size: height and width of a picture in pixels, 8 to 1024.
        channels: of a picture: 1 (gray) or 3 (colours); None means 1 if all files are gray, else 3.
        fit: how a picture becomes square: "crop", "pad" or "squash", as for images.
        resampling: the filter that scales it.
        bits: that files of 16 bits make use of, 8 to 16: some cameras have 10 or 12.
        tokenizer: of texts: "words", "bytes", or the folder of an encoder, as for text.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of a text, 1 to 65536.
        column: the columns of "path" and "text", of which one may be missing, of "label", and perhaps of "split" and
            "group"; None for the usual names.
        categorical: columns whose numbers are names.
        ignore: columns that are left out.
        min_items: classes with fewer rows are left out, >= 1.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError lists what is wrong with it.
    """
    check_roles(column, tuple(COLUMN))
    path = source_of(root, WHAT)
    if not path.is_file() or not is_table(path.name):
        raise ConfigError([Problem("data.root", f"{path} is not a file of {', '.join(TABLES)}")])
    whole = columns_of(path)
    check_names(whole, {"categorical": categorical, "ignore": ignore}, path)
    columns = {name: values for name, values in whole.items() if name not in ignore}
    columns, index = without_index(columns, path)
    roles = {role: named(columns, role, column, path, role == "label") for role in COLUMN}
    used = {role: found[0] for role, found in roles.items() if found}
    values = {role: columns[name] for role, name in used.items()}
    features = {name: own for name, own in columns.items() if name not in used.values()}
    if len({"path", "text"} & used.keys()) + bool(features) < 2:
        told = (
            "has one kind of parts: see data=images, data=text and data=table; or name columns: data.column.path=NAME"
        )
        raise ConfigError([Problem("data.root", f"{path} {told}")])
    entries, findings = entries_of(values, path, place=whole.place, split_column=used.get("split", ""))
    files, paths, missing = _pictures(values, path, whole.place)
    texts = [Passage(text_of(text), f"{path}, {whole.place(row)}") for row, text in enumerate(values.get("text", ()))]
    findings += [*missing, *(Finding(True, passage.where, "has no text") for passage in texts if not passage.text)]
    labels = {"label": [entry.label for entry in entries]}
    findings += problems_of_columns(features, labels, categorical, str(path), whole.place)
    if findings:
        raise DataError(findings)
    found = placed(Manifest(entries, findings=tuple(index), place=whole.place), split, seed, min_items)
    shape, coding = Shape(size, channels, fit, resampling, bits), Coding(tokenizer, vocabulary, length)
    about = {"rows": len(entries), "columns": used}
    shown = {name: columns[name] for name in (*(used[role] for role in ("path", "text") if role in used), *features)}

    # outside of `build`: it has a place of its own in the cache
    encoded = {"text": text_data("text", _sources(found, texts.__getitem__), coding)} if texts else {}

    def build() -> Dataset:
        parts: dict[str, Dataset] = {}
        if paths:
            pictures = _sources(found, paths.__getitem__)
            try:
                parts["image"] = image_data("images", pictures, lambda name: opened(files.read(name, LARGEST)), shape)
            except DataError as error:  # its rest is no data set of several parts
                raise DataError(error.findings) from error
        return _joined(found, parts | encoded, features, categorical, about, whole.place, shown)

    key = {
        "table": files_named(path.parent, [path.name]).stamp,
        "pictures": files.stamp,
        "placed": found.plain,
        "used": used,
        "text": [[own.fingerprint, own.preprocessing] for own in encoded.values()],
        "settings": [shape, list(categorical), list(ignore)],
        "pillow": PIL.__version__,
    }
    data = cached("mixed", key, build)
    return data.within_groups("groups") if within else data


def _pictures(values: Columns, path: Path, place: Place) -> tuple[Files, list[str], list[Finding]]:
    """Return the files of a table's pictures, their names by row, and the rows without one."""
    names = [text_of(value).replace("\\", "/") for value in values.get("path", ())]
    files = files_named(path.parent, [name for name in names if name])
    known = set(files.names)
    findings = [
        Finding(
            True, f"{path}, {place(row)}", f"names {name}, which is not in {path.parent}" if name else "has no picture"
        )
        for row, name in enumerate(names)
        if name not in known
    ]
    return files, names, findings


def _sources(found: Placed, source: Callable[[int], Any]) -> Placed:
    """Return entries with a part of their row as source instead of its number."""
    classes = {
        split: {name: [entry._replace(source=source(entry.source)) for entry in own] for name, own in classes.items()}
        for split, classes in found.classes.items()
    }
    return found._replace(classes=classes, findings=())


def _joined(
    found: Placed,
    parts: Mapping[str, Dataset],
    features: Columns,
    categorical: Sequence[str],
    about: Mapping[str, Any],
    place: Place,
    shown: Columns,
) -> Dataset:
    """Return the parts of each item as one data set."""
    rows = {split: [entry.source for entry in found.entries(split)] for split in found.classes}
    learnt = learn(features, rows["train"], categorical)
    table = torch.from_numpy(vectors(features, learnt)) if learnt else None
    splits = {}
    for split, classes in found.classes.items():
        items: dict[str, Tensor] = {}
        for name, part in parts.items():
            own = part.splits[split].items
            assert isinstance(own, Tensor)
            items[name] = own
        if table is not None:
            items["table"] = table[rows[split]]
        counts = torch.tensor([len(entries) for entries in classes.values()])
        splits[split] = Split(items, counts, tuple(classes), sources=packed(map(place, rows[split])))
    findings = [
        # a caption that many pictures have is no leak
        finding._replace(blocks=finding.blocks and name == "image", where=f"{name} of {finding.where}")
        for name, part in parts.items()
        for finding in part.findings
        if finding not in shared_groups(part.splits)
    ]
    vocabulary = {name: n for name, part in parts.items() if isinstance(n := part.facts.vocabulary, int) and n}
    preprocessing = {name: dict(part.preprocessing) for name, part in parts.items()}
    data = Dataset.of(
        "mixed",
        found.protocol,
        splits,
        "mixed",
        {**preprocessing, **({"table": {"columns": learnt}} if learnt else {})},
        vocabulary,
        {**about, "parts": ", ".join(splits["train"].items), "examples": examples(found, shown)},
        found.findings,
    )
    return replace(data, findings=(*data.findings, *findings))

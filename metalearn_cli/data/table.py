"""Your own tables: rows with numbers and categories.

Legend: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import torch

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.data.common.arrays import npz_columns
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import files_named, source_of
from metalearn_cli.data.common.manifest import Manifest, key_of_split, placed
from metalearn_cli.data.common.rows import TABLES, Columns, check_roles, columns_of, is_table, named
from metalearn_cli.data.common.tables import entries_of, learn, problems_of_columns, vectors

COLUMN = {"label": None, "split": None, "group": None, "task": None}
NONE: Sequence[str] = []
WHAT = "a CSV, TSV or JSON lines file, or an .npz file with an array for each column"


def table(
    root: str | None = None,
    split: str = "auto",
    column: Mapping[str, str | None] = COLUMN,
    categorical: Sequence[str] = NONE,
    ignore: Sequence[str] = NONE,
    min_items: Annotated[int, Range(1)] = 2,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Rows of a table as vectors of standardised numbers and of categories.

    A column whose values are all numbers or missing (empty, NA, NaN, null, ?) is standardised, and the median stands
    for what is missing; any other column is a category, with a feature for each of its values. All this is learnt from
    the training classes and kept in `preprocessing`, see `tables.learn`.

    Args:
        root: a CSV, TSV or JSON lines file, or an .npz file with an array [N] for each column.
        split: how classes are split, see `manifest.placed`.
        column: the columns of "label", and perhaps of "split", "group" and "task"; None for the usual names. Rows of
            several tasks have a task each; the classes of an episode are then of one task.
        categorical: columns whose numbers are names.
        ignore: columns that are left out.
        min_items: classes with fewer rows are left out, >= 1.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError lists what is wrong with it.
    """
    check_roles(column, tuple(COLUMN))
    if column.get("task") and column.get("group"):
        raise ConfigError([Problem("data.column.group", "has no effect beside column.task: a task is a group")])
    path = source_of(root, WHAT)
    if not path.is_file() or not (is_table(path.name) or path.suffix.lower() == ".npz"):
        raise ConfigError([Problem("data.root", f"{path} is not a file of {', '.join((*TABLES, '.npz'))}")])
    key = {
        "file": files_named(path.parent, [path.name]).stamp,
        "split": key_of_split(split),
        "column": dict(column),
        "categorical": list(categorical),
        "ignore": list(ignore),
        "min_items": min_items,
        "seed": seed,
    }

    def build() -> Dataset:
        columns = npz_columns(path) if path.suffix.lower() == ".npz" else columns_of(path)
        _check_names(columns, {"categorical": categorical, "ignore": ignore}, path)
        columns = {name: values for name, values in columns.items() if name not in ignore}
        return _data(path, columns, column, tuple(categorical), split, seed, min_items)

    return cached("table", key, build)


def _check_names(columns: Columns, settings: Mapping[str, Sequence[str]], path: Path) -> None:
    problems = []
    for setting, names in settings.items():
        for name in names:
            if name not in columns:
                near = next(iter(get_close_matches(name, columns)), "")
                problems.append(
                    Problem(f"data.{setting}", f"{path} has no column {name!r}", f"[{near}]" if near else "")
                )
    if problems:
        raise ConfigError(problems)


def _data(
    path: Path,
    columns: Columns,
    column: Mapping[str, str | None],
    categorical: Sequence[str],
    split: str,
    seed: int,
    min_items: int,
) -> Dataset:
    roles = {role: named(columns, role, column, path, role == "label") for role in COLUMN}
    used = {role: found[0] for role, found in roles.items() if found}
    features = {name: values for name, values in columns.items() if name not in used.values()}
    entries, findings = entries_of({role: columns[name] for role, name in used.items()}, path)
    classes = {"label": [entry.label for entry in entries]}
    if any(entry.group for entry in entries):
        classes["class"] = [entry.class_name for entry in entries]
    findings += problems_of_columns(features, classes, categorical, str(path))
    if findings:
        raise DataError(findings)
    about = {"rows": len(entries), "columns": used}
    found = placed(Manifest(entries, about), split, seed, min_items)
    learnt = learn(features, [entry.source for entry in found.entries("train")], categorical)
    if not learnt:
        raise DataError([Finding(True, str(path), "has no column but the label that varies in the training classes")])
    items = torch.from_numpy(vectors(features, learnt))
    kept = {each["name"]: "categories" in each for each in learnt}
    constant = [
        Finding(False, name, "is constant in the training classes and is left out")
        for name in features
        if name not in kept
    ]
    return Dataset.of(
        "table",
        found.protocol,
        found.splits(lambda _, own: items[[entry.source for entry in own]]),
        "vector",
        {"columns": learnt},
        about={
            **about,
            "numbers": [name for name, category in kept.items() if not category],
            "categories": [name for name, category in kept.items() if category],
            "features": items.shape[1],
        },
        findings=(*found.findings, *constant),
    )

"""Your own tables: rows with numbers and categories.

Legend: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.data.common.arrays import npz_columns
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import files_named, source_of
from metalearn_cli.data.common.manifest import Manifest, key_of_split, placed
from metalearn_cli.data.common.rows import TABLES, Columns, Table, check_roles, columns_of, is_table, named
from metalearn_cli.data.common.tables import (
    check_names,
    entries_of,
    examples,
    learn,
    problems_of_columns,
    problems_of_targets,
    text_of,
    usable,
    vectors,
    without_index,
)

COLUMN = {"label": None, "target": None, "split": None, "group": None, "task": None}
NONE: Sequence[str] = []
REGRESSION = ", or for a regression data.column.target=NAME data.column.task=NAME"
WHAT = "a CSV, TSV or JSON lines file, or an .npz file with an array for each column"


class Settings(NamedTuple):
    """What the items depend on besides the file; see `table`."""

    split: str
    column: Mapping[str, str | Sequence[str] | None]
    categorical: Sequence[str]
    ignore: Sequence[str]
    min_items: int
    seed: int


def table(
    root: str | None = None,
    split: str = "auto",
    column: Mapping[str, str | Sequence[str] | None] = COLUMN,
    categorical: Sequence[str] = NONE,
    ignore: Sequence[str] = NONE,
    min_items: Annotated[int, Range(1)] = 2,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Rows of a table as vectors of standardised numbers and of categories.

    A column whose values are all numbers or missing (empty, NA, NaN, null, ?) is standardised, and the median stands
    for what is missing; any other column is a category, with a feature for each of its values. All this is learnt from
    the training classes (or tasks) and kept in `preprocessing`, see `tables.learn`. Targets are standardised, too.

    Args:
        root: a CSV, TSV or JSON lines file, or an .npz file with an array [N] for each column.
        split: how classes are split, see `manifest.placed`.
        column: the column of the "label", a class, or of the "target", a number, or several such columns; and perhaps
            of "split", "group" and "task"; None for the usual names. With tasks, an episode is of one task: its classes
            are of that task, or it is that task's regression.
        categorical: columns whose numbers are names.
        ignore: columns that are left out.
        min_items: classes (or tasks) with fewer rows are left out, >= 1.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError lists what is wrong with it.
    """
    check_roles({role: name for role, name in column.items() if role != "target"}, tuple(COLUMN))
    targets = _targets(column)
    path = source_of(root, WHAT)
    if own := sorted(file.name for file in path.iterdir() if is_table(file.name)) if path.is_dir() else []:
        told = f"{path} is a folder, and data=table reads one file: give one, such as {path / own[0]}, or join them"
        raise ConfigError([Problem("data.root", f"{told} into one table")])
    if not path.is_file() or not (is_table(path.name) or path.suffix.lower() == ".npz"):
        raise ConfigError([Problem("data.root", f"{path} is not a file of {', '.join((*TABLES, '.npz'))}")])
    settings = Settings(split, dict(column), list(categorical), list(ignore), min_items, seed)
    key = {"file": files_named(path.parent, [path.name]).stamp, **settings._asdict(), "split": key_of_split(split)}
    data = cached("table", key, lambda: _data(path, settings, targets))
    if targets or not (within or column.get("task")):
        return data
    return data.within_groups("tasks" if column.get("task") else "groups")


def _targets(column: Mapping[str, Any]) -> list[str]:
    """Return the columns of the targets; [] for a classification.

    Raises:
        ConfigError: if they are no names, or other roles do not go with them.
    """
    given = column.get("target")
    targets = [given] if isinstance(given, str) else given or []
    problems = []
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        problems.append(
            Problem("data.column.target", f"must be the name of a column, or a list of names, got {given!r}")
        )
    if targets and column.get("label"):
        problems.append(Problem("data.column.label", "is for classes, and column.target for numbers: remove one"))
    if targets and not column.get("task"):
        told = "is missing: a regression is learnt over many tasks; data.column.task=NAME says which task a row is of"
        problems.append(Problem("data.column.task", told))
    if not targets and column.get("task") and column.get("group"):
        problems.append(Problem("data.column.group", "has no effect beside column.task: a task is a group of classes"))
    if problems:
        raise ConfigError(problems)
    return list(targets)


def _data(path: Path, settings: Settings, targets: Sequence[str]) -> Dataset:
    whole = Table(npz_columns(path)) if path.suffix.lower() == ".npz" else columns_of(path)
    columns: Columns = whole
    check_names(columns, {"categorical": settings.categorical, "ignore": settings.ignore}, path)
    columns = {name: values for name, values in columns.items() if name not in settings.ignore}
    columns, index = without_index(columns, path)
    given = {role: name for role, name in settings.column.items() if isinstance(name, str)}
    needed = "task" if targets else "label"
    roles = {role: named(columns, role, given, path, role == needed, REGRESSION) for role in COLUMN if role != "target"}
    used = {role: found[0] for role, found in roles.items() if found and not (targets and role == "label")}
    numbers = {name: columns[name] for name in targets if named(columns, "target", {"target": name}, path)}
    features = {name: own for name, own in columns.items() if name not in (*used.values(), *numbers)}
    values = {role: columns[name] for role, name in used.items()}
    if targets:
        values["label"] = values.pop("task")
        entries, findings = entries_of(values, path, "task", whole.place, used.get("split", ""))
        findings += problems_of_targets(features, numbers, path, whole.place)
    else:
        entries, findings = entries_of(values, path, place=whole.place, split_column=used.get("split", ""))
    classes = {} if targets else {"label": [entry.label for entry in entries]}
    if classes and any(entry.group for entry in entries):
        classes["class"] = [entry.class_name for entry in entries]
    if targets and findings:
        raise DataError(findings)
    for name in list(features):
        own = problems_of_columns({name: features[name]}, classes, settings.categorical, str(path), whole.place)
        findings += own
        if own:
            del features[name]
    about = {"rows": len(entries), "columns": {**used, **({"target": ", ".join(targets)} if targets else {})}}
    kept_rows = usable(entries, findings, path, whole.place)
    manifest = Manifest(kept_rows, about, (*findings, *index), "task" if targets else "class", place=whole.place)
    found = placed(manifest, settings.split, settings.seed, settings.min_items)
    train = [entry.source for entry in found.entries("train")]
    learnt, scaling = learn(features, train, settings.categorical), learn(numbers, train)
    if not learnt:
        plain = Finding(True, str(path), "has no column of features that varies in the training data")
        raise DataError([*findings, plain])
    if len(scaling) < len(targets):
        raise DataError([Finding(True, str(path), f"has a constant target: {', '.join(targets)}")])
    items = torch.from_numpy(vectors(features, learnt))
    splits = found.splits(lambda _, own: items[[entry.source for entry in own]], whole.place)
    if targets:
        y = torch.from_numpy(vectors(numbers, scaling))
        rows = {split: [entry.source for entry in found.entries(split)] for split in splits}
        splits = {split: replace(own, targets=y[rows[split]]) for split, own in splits.items()}
    kept = {each["name"]: "categories" in each for each in learnt}
    told = "is constant in the training data and is left out"
    return Dataset.of(
        "table",
        found.protocol,
        splits,
        "vector",
        {"columns": learnt, **({"targets": scaling} if targets else {})},
        about={
            **about,
            "numbers": [name for name, category in kept.items() if not category],
            "categories": [name for name, category in kept.items() if category],
            "features": items.shape[1],
            "missing": {name: count for name in kept if (count := sum(not text_of(v) for v in columns[name]))},
            "examples": examples(found, {name: columns[name] for name in (*numbers, *kept)}),
        },
        findings=(*found.findings, *(Finding(False, name, told) for name in features if name not in kept)),
    )

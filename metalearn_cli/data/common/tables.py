"""How rows of a table become vectors, and plain values that say so, to treat other rows in the same way.

Legend: N rows, D features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.check import as_typed, in_shell
from metalearn_cli.core.errors import ConfigError, Finding, Problem, UserError
from metalearn_cli.data.common.arrays import MOST_STANDARDISED
from metalearn_cli.data.common.manifest import Entry, Placed, splits_of
from metalearn_cli.data.common.rows import Columns, Place, nearest, nested, row_place
from metalearn_cli.data.common.splits import spread

MISSING = frozenset({"", "na", "nan", "null", "?"})
"""How tables write that a value is missing, in lower case."""

EXAMPLES = 8  # classes of a split that `mlx data show` prints
MOST_CATEGORIES = 1000
_COMMA = re.compile(r"[+-]?\d+(,\d+)+|[+-]?\d+")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([ T].*)?")
STRAY = 0.5  # a column with a larger share of numbers than this was meant to be numeric


def text_of(value: Any) -> str:
    """Return a value as text; "" if it is missing, and 3.0 as "3"."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return "" if text.lower() in MISSING else text


def number_of(value: Any) -> float | None:
    """Return a value as a number: NaN if it is missing, None if it is no number."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    text = text_of(value)
    if not text:
        return math.nan
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def check_names(columns: Columns, settings: Mapping[str, Sequence[str]], path: Path) -> None:
    """Check settings that are lists of columns.

    Args:
        columns: the table.
        settings: each setting's list.
        path: of the table.

    Raises:
        ConfigError: with each name that the table does not have.
    """
    problems = []
    for setting, names in settings.items():
        for name in names:
            if name not in columns:
                near = nearest(name, columns)
                hint = f"[{near}]" if near else ""
                problems.append(Problem(f"data.{setting}", f"{path} has no column {name!r}", hint))
    if problems:
        raise ConfigError(problems)


def entries_of(
    values: Columns, path: Path, noun: str = "label", place: Place = row_place, split_column: str = ""
) -> tuple[list[Entry], list[Finding]]:
    """Return the rows by number, and what is wrong with their labels and splits.

    Args:
        values: the column of each role that the table has: "label", and perhaps "split", "group" and "task", which is
            a group, too.
        path: of the table.
        noun: what a label is called: "label", or "task" for a regression.
        place: where a row is in the table.
        split_column: the name of the column of the splits.
    """
    entries: list[Entry] = []
    findings: list[Finding] = []
    splits, wrong = splits_of(values.get("split", ()), split_column, path, place)
    groups = values.get("task", values.get("group"))
    for row, label in enumerate(values["label"]):
        where = f"{path}, {place(row)}"
        if not text_of(label):
            findings.append(Finding(True, where, f"has no {noun}"))
        elif noun == "label" and (number := number_of(label)) is not None and not number.is_integer():
            told = f"has the label {label}, which is a number and no class; for a regression over tasks of a table"
            findings.append(Finding(True, where, f"{told}, data.column.target=NAME data.column.task=NAME"))
        if groups and not text_of(groups[row]):
            findings.append(Finding(True, where, f"has no {'task' if 'task' in values else 'group'}"))
        group = text_of(groups[row]) if groups else ""
        entries.append(Entry(row, text_of(label), splits[row] if splits else "", group))
    return entries, [*findings, *wrong]


def examples(found: Placed, columns: Columns) -> list[list[str]]:
    """Return a row of some classes of each split, as `mlx data show` prints it."""
    return [
        [split, name, ", ".join(f"{c} {text_of(v[own[0].source]) or '(missing)'}" for c, v in columns.items())]
        for split, classes in found.classes.items()
        for name, own in spread(list(classes.items()), EXAMPLES)
    ]


def usable(entries: Sequence[Entry], findings: Sequence[Finding], path: Path, place: Place = row_place) -> list[Entry]:
    """Return the rows of a table that no finding is about."""
    wrong = {finding.where for finding in findings}
    return [entry for entry in entries if f"{path}, {place(entry.source)}" not in wrong]


def problems_of_targets(features: Columns, targets: Columns, path: Path, place: Place = row_place) -> list[Finding]:
    """Return what is wrong with the columns of a regression's targets; see `entries_of`."""
    findings = []
    for name, values in targets.items():
        for row, value in enumerate(values):
            number = number_of(value)
            if number is None or not math.isfinite(number):
                findings.append(
                    Finding(True, f"{path}, {place(row)}", f"has no finite number as its {name}: {value!r}")
                )
        findings += [
            Finding(True, f"{path}, column {other}", f"is the target {name}; {_left_out(other)}")
            for other, own in features.items()
            if [*map(text_of, own)] == [*map(text_of, values)]
        ]
    return findings


def learn(columns: Columns, rows: Sequence[int], categorical: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Learn how each column becomes features, from the training rows alone.

    Args:
        columns: the columns of the features.
        rows: the numbers of the training rows.
        categorical: columns whose numbers are names.

    Returns:
        for each column its `name` and: the `categories`, of which "" stands for a missing value, each a feature that is
        1 or 0; or the `median` that replaces a missing number, the `mean` and `scale` of the result, and `indicator`,
        whether a second feature says that the number was missing. Columns that are constant are left out.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    numbers = {name: _numbers(values) for name, values in columns.items() if name not in categorical}
    learnt = _learnt_numbers({name: x[list(rows)] for name, x in numbers.items() if x is not None})
    for name in columns:
        if name not in learnt:
            learnt[name] = _learnt_categories([text_of(columns[name][row]) for row in rows])
    return [{"name": name, **learnt[name]} for name in columns if learnt[name]]


def vectors(columns: Mapping[str, Sequence[Any]], learnt: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Return rows as vectors [N, D].

    Args:
        columns: the values of each column.
        learnt: as `learn` returns it.

    Raises:
        ValueError: if a number is none; it names the column.
    """
    features: list[NDArray[Any]] = []
    for column in learnt:
        values = columns[column["name"]]
        if "categories" in column:
            index = {category: i for i, category in enumerate(column["categories"])}
            chosen = np.array([index.get(text_of(value), -1) for value in values])
            features.append(chosen[:, None] == np.arange(len(index)))
            continue
        x = _numbers(values)
        if x is None:
            raise ValueError(f"{column['name']} must be numbers")
        missing = np.isnan(x)
        features.append((np.where(missing, column["median"], x) - column["mean"]) / column["scale"])
        features += [missing] * column["indicator"]
    return np.column_stack(features).astype(np.float32)


def places_of(learnt: Sequence[Mapping[str, Any]]) -> dict[str, slice]:
    """Return which features of a vector each column became; `learnt` is as `learn` returns it."""
    found, start = dict[str, slice](), 0
    for column in learnt:
        width = len(column["categories"]) if "categories" in column else 1 + column["indicator"]
        found[column["name"]] = slice(start, start + width)
        start += width
    return found


def problems_of_columns(
    columns: Columns,
    classes: Mapping[str, Sequence[str]],
    categorical: Sequence[str],
    where: str,
    place: Place = row_place,
) -> list[Finding]:
    """Return what is wrong with the columns of features.

    Args:
        columns: the columns of the features.
        classes: the columns that must not follow from one feature, such as the label.
        categorical: columns whose numbers are names.
        where: the name of the table.
        place: where a row is in it.
    """
    findings = []
    for name, values in columns.items():
        found = [number_of(value) for value in values]
        texts = [text_of(value) for value in values]
        named, present = f"{where}, column {name}", [text for text in texts if text]
        wrong = [row for row, number in enumerate(found) if number is None]
        numeric = name not in categorical and not wrong
        if told := nested(values):
            findings.append(Finding(True, named, f"{told}; {_left_out(name)}"))
            continue
        for row, number in enumerate(found):
            if numeric and number is not None and math.isinf(number):
                findings.append(Finding(True, f"{where}, {place(row)}", f"has an infinite {name}: {values[row]!s:.40}"))
        if numeric and any(MOST_STANDARDISED < abs(n) < math.inf for n in found if n is not None):
            told = f"has numbers beyond {MOST_STANDARDISED:g}, which cannot be standardised; divide them, or"
            findings.append(Finding(True, named, f"{told} {_left_out(name)}"))
        commas = [text for text in present if "," in text]
        if name not in categorical and commas and all(map(_COMMA.fullmatch, present)):
            told = f"has numbers with a comma, such as {commas[0]}: write a decimal point and no thousands separator"
            findings.append(Finding(True, named, f"{told}; if they are names, {_naming('categorical', name)}"))
            continue
        if name not in categorical and 0 < len(wrong) < (1 - STRAY) * len(present):
            told = f"has numbers, but {place(wrong[0])} has {texts[wrong[0]]!r}"
            more = f" and {len(wrong) - 1} more rows have no numbers" if len(wrong) > 1 else ""
            findings.append(Finding(True, named, f"{told}{more}; correct them, or {_naming('categorical', name)}"))
            continue
        for role, labels in classes.items():
            if len(set(labels)) > 1 and len(set(zip(texts, labels, strict=True))) == len(set(texts)) == len(
                set(labels)
            ):
                told = f"tells the {role}: each of its values belongs to one {role}; {_left_out(name)}"
                findings.append(Finding(True, named, told))
        different = len(set(present))
        if numeric and _counts_rows(found):
            findings.append(Finding(True, named, f"numbers the rows; {_left_out(name)}"))
        if not numeric and name not in categorical and present and all(map(_DATE.fullmatch, present)):
            told = f"has dates, such as {present[0]}, of which each would be a category; {_left_out(name)}"
            findings.append(Finding(True, named, f"{told}; to have them so, {_naming('categorical', name)}"))
        elif not numeric and different == len(texts) > 1:
            told = f"has another value in each row, as an id or a sentence has; {_left_out(name)}"
            findings.append(Finding(True, named, f"{told}; for sentences, data=text"))
        elif not numeric and different > MOST_CATEGORIES:
            told = f"has {different} categories; at most {MOST_CATEGORIES} become features; {_left_out(name)}"
            findings.append(Finding(True, named, told))
    return findings


def without_index(columns: Columns, path: Path) -> tuple[Columns, list[Finding]]:
    """Return columns without the one that pandas' `to_csv` writes first, and that it is left out.

    It has no name, and another whole number in each row.

    Args:
        columns: the table.
        path: of the table.
    """
    numbers = [number_of(value) for value in columns[""]] if next(iter(columns), None) == "" else []
    if not numbers or len({n for n in numbers if n is not None and n.is_integer()}) < len(numbers):
        return columns, []
    told = "has no name and another whole number in each row, as an index of pandas has: left out"
    rest = {name: values for name, values in columns.items() if name}
    return rest, [Finding(False, f"{path}, column 1", told)]


def _left_out(name: str) -> str:
    return f"{_naming('ignore', name)} leaves it out"


def _naming(setting: str, name: str) -> str:
    """Return a setting that lists columns, with one of them, as it is typed in a shell."""
    word = f"data.{setting}=[{as_typed(name)}]"
    return in_shell(word) if "'" in word else word


def _counts_rows(numbers: Sequence[float | None]) -> bool:
    """Whether numbers are those of rows: whole, all different, without a gap."""
    whole = {number for number in numbers if number is not None and number.is_integer()}
    return len(whole) == len(numbers) > 1 and max(whole) - min(whole) == len(numbers) - 1


def _numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN where one is missing; None if a value is no number."""
    found = [number_of(value) for value in values]
    return None if None in found else np.array(found, np.float64)


def _learnt_numbers(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, dict[str, Any]]:
    """Learn from all columns at once: scikit-learn takes a millisecond each time, however little there is."""
    varied = [name for name, x in columns.items() if len(np.unique(x)) > 1]  # all missing numbers count as one
    learnt: dict[str, dict[str, Any]] = {name: {} for name in columns}
    if not varied:
        return learnt
    impute, preprocessing = _sklearn()
    x = np.array([columns[name] for name in varied]).T  # a column lies together, so that it is added as it is alone
    imputer = impute.SimpleImputer(strategy="median").fit(x)
    scaler = preprocessing.StandardScaler().fit(np.asfortranarray(imputer.transform(x)))
    missing = np.isnan(x).any(0)
    for k, name in enumerate(varied):
        learnt[name] = {
            "median": float(imputer.statistics_[k]),
            "mean": float(scaler.mean_[k]),
            "scale": float(scaler.scale_[k]),
            "indicator": bool(missing[k]),
        }
    return learnt


def _learnt_categories(texts: Sequence[str]) -> dict[str, Any]:
    _, preprocessing = _sklearn()
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore").fit(np.array(texts, object)[:, None])
    categories = list(encoder.categories_[0])
    return {"categories": categories} if len(categories) > 1 else {}


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn import impute, preprocessing
    except ImportError as error:
        told = f"tables need scikit-learn ({error}): pip install 'metalearn-cli[table]'"
        raise UserError(told) from error
    return impute, preprocessing

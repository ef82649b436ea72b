from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from metalearn_cli.data.common.rows import Columns
from metalearn_cli.data.common.tables import learn, number_of, places_of, problems_of_columns, text_of, vectors

COLUMNS: Columns = {
    "width": ["1", "", "2.5", "4", "NA", "30"],
    "colour": ["red", "blue", "?", "red", "green", "pink"],
    "mass": [1.0, 2, 3, -1, None, 7],
    "same": ["x", "x", "x", "x", "y", "x"],
}
TRAIN = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("value", "text", "number"),
    [
        (" 3.50 ", "3.50", 3.5),
        (3.0, "3", 3.0),
        ("-1e3", "-1e3", -1000.0),
        (True, "True", 1.0),
        ("red", "red", None),
        ("1_000", "1_000", None),
        ("1,5", "1,5", None),
        ("inf", "inf", math.inf),
        (10**400, str(10**400), math.inf),
    ],
)
def test_a_value_is_text_and_perhaps_a_number(value: object, text: str, number: float | None) -> None:
    assert (text_of(value), number_of(value)) == (text, number)


@pytest.mark.parametrize("value", ["", " ", "NA", "NaN", "nan", "null", "?", None, math.nan])
def test_a_missing_value_has_neither(value: object) -> None:
    assert text_of(value) == ""
    assert math.isnan(number_of(value) or 0.0)


def test_vectors_are_those_of_scikit_learn() -> None:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    rows = np.array([[1, 1], [np.nan, 2], [2.5, 3], [4, -1], [np.nan, np.nan], [30, 7]])
    numbers.fit(rows[TRAIN])
    colours = np.array([["red"], ["blue"], [""], ["red"], ["green"], ["pink"]], object)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(colours[TRAIN])
    width, mass, _ = numbers.transform(rows).T
    found = vectors(COLUMNS, learn(COLUMNS, TRAIN))
    expected = np.column_stack([width, np.isnan(rows[:, 0]), encoder.transform(colours), mass])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.medium
def test_columns_teach_the_same_alone_and_in_one_fit() -> None:
    random = np.random.default_rng(0)
    x = random.lognormal(size=(300, 300)) * random.lognormal(size=300) + 100
    x[random.random(x.shape) < 0.01] = np.nan
    columns: Columns = {f"f{k}": column.tolist() for k, column in enumerate(x.T)}
    rows = range(0, 300, 2)
    alone = [found for name in columns for found in learn({name: columns[name]}, rows)]
    counted = SimpleImputer.fit
    with pytest.MonkeyPatch.context() as patch:
        fits: list[int] = []
        patch.setattr(SimpleImputer, "fit", lambda self, x: (fits.append(x.shape[1]), counted(self, x))[1])
        assert learn(columns, rows) == alone
    assert fits == [300]


def test_other_rows_change_nothing_that_is_learnt() -> None:
    other = {name: [*values[:4], "999", "1000"] for name, values in COLUMNS.items()}
    learnt = learn(COLUMNS, TRAIN)
    assert learnt == learn(other, TRAIN)
    assert [each["name"] for each in learnt] == ["width", "colour", "mass"]  # what is constant in training is left out


def test_a_new_row_is_treated_by_plain_values_alone() -> None:
    learnt = json.loads(json.dumps(learn(COLUMNS, TRAIN)))
    row = vectors({name: values[5:] for name, values in COLUMNS.items()}, learnt)
    np.testing.assert_array_equal(row, vectors(COLUMNS, learnt)[5:])
    with pytest.raises(ValueError, match="width must be numbers"):
        vectors({**COLUMNS, "width": ["wide"] * 6}, learnt)


def test_numbers_may_be_names() -> None:
    columns: Columns = {"postcode": [1, 2, 1, 2]}
    np.testing.assert_array_equal(
        vectors(columns, learn(columns, range(4), ["postcode"])), [[1, 0], [0, 1], [1, 0], [0, 1]]
    )


def test_a_column_without_values_is_left_out() -> None:
    assert learn({"a": ["", "NA", None], "b": ["1", "", "2"]}, range(3))[0]["name"] == "b"


def problems(values: list[object], labels: str = "aabbcc", categorical: tuple[str, ...] = ()) -> list[str]:
    found = problems_of_columns({"c": values}, {"label": list(labels)}, categorical, "t.csv")
    assert all(finding.blocks for finding in found)
    return [f"{finding.where} {finding.what}" for finding in found]


def test_problems_of_columns_say_what_to_type() -> None:
    assert problems([1, 5, 2.5, 8, "", 9]) == []
    assert problems(["x", "y", "x", "y", "", "z"]) == []
    assert problems([1, "Infinity", 2.5, 8, "", 9]) == ["t.csv, row 2 has an infinite c: Infinity"]
    (told,) = problems([1, 5, "5o", "1,5", 8, 9])
    assert told == (
        "t.csv, column c has numbers, but row 3 has '5o' and 1 more rows have no numbers; correct them, or "
        "data.categorical=[c]"
    )
    assert problems([1, 5, "5o", "1,5", 8, 5], categorical=("c",)) == []
    assert problems([7, 7, 8.5, 8.5, 9, 9]) == [
        "t.csv, column c tells the label: each of its values belongs to one label; data.ignore=[c] leaves it out"
    ]
    assert problems([3, 2, 1, 4, 5, 6]) == ["t.csv, column c numbers the rows; data.ignore=[c] leaves it out"]
    (told,) = problems(["u", "v", "w", "x", "y", "z"])
    assert "has another value in each row, as an id or a sentence has; data.ignore=[c]" in told
    for word, held in (("nested", []), ("nested", {"a": [1]}), ("bytes", b"\x00")):
        (told,) = problems([None, 1, held, 2, 1, 2])
        assert told == f"t.csv, column c is {word}: it holds {held!r}; data.ignore=[c] leaves it out"


def test_advice_is_typed_as_the_shell_takes_it() -> None:
    found = problems_of_columns({"2020": [1, 2, 3, 4], "a, b": [1, 2, "x", 3, 5]}, {}, (), "t.csv")
    assert [finding.what.rpartition("; ")[2] for finding in found] == [
        "\"data.ignore=['2020']\" leaves it out",
        "correct them, or \"data.categorical=['a, b']\"",
    ]


def test_many_categories_are_refused() -> None:
    values = [f"n{i % 1001}" for i in range(2002)]
    (told,) = problems(values, "ab" * 1001)
    assert "has 1001 categories; at most 1000 become features; data.ignore=[c]" in told


def test_places_are_where_a_column_changes_a_vector():
    learnt = learn(COLUMNS, TRAIN)
    before = vectors(COLUMNS, learnt)
    places = places_of(learnt)
    assert list(places) == [column["name"] for column in learnt]
    for name, value in (("width", ""), ("colour", "new"), ("mass", 9)):
        changed = (vectors({**COLUMNS, name: [value] * 6}, learnt) != before).any(0)
        inside = np.zeros(before.shape[1], bool)
        inside[places[name]] = True
        assert changed[inside].all() and not changed[~inside].any(), name

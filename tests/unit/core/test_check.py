"""Values against annotations, and what is allowed in words."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from metalearn_cli.core.check import Above, Below, Range, as_typed, counted, describe, fits, in_shell, mismatch

Small = Annotated[int, Range(1, 3)]
Positive = Annotated[float, Above(0)]
Share = Annotated[float, Range(0), Below(1)]
Part = Annotated[float, Above(0), Range(high=1)]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, int),
        (1, float),
        (1.5, float),
        (True, bool),
        ("a", str),
        (None, int | None),
        (3, Small),
        (2, Small | None),
        (5e-324, Positive),
        (1, Positive),
        (0, Share),
        (0.999, Share),
        (1, Part),
        ([0, 0.9], tuple[Share, Share]),
        (-3, Annotated[int, Range(high=0)]),
        ("auto", Literal["auto"] | list[int]),
        ([0], Literal["auto"] | list[int]),
        ([], list[int]),
        ([0.9, 1], tuple[float, float]),
        ([1, 2, 3], tuple[int, ...]),
        ([1, 2, 3], Iterable[int]),
        ({"a": 1}, dict),
        ({"a": 1}, Mapping[str, Any]),
        (object(), Any),
    ],
)
def test_fits(value, annotation):
    assert fits(value, annotation)
    assert mismatch(value, annotation) == ""


@pytest.mark.parametrize(
    ("value", "annotation", "allowed"),
    [
        (1.0, int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        (float("nan"), float, "a number"),
        (float("-inf"), float, "a number"),
        (2**63, int, "a whole number"),
        (-(2**64), float, "a number"),
        ([0.9], tuple[float, float], "a list of 2: a number, a number"),
        (0.9, tuple[float, float], "a list of 2: a number, a number"),
        (["x"], Iterable[int], "a list of a whole number"),
        ("x", float | Path, "a number"),
        ("x", Path, "Path"),
        ("x", Callable[[int], int], "a function, which a config cannot contain"),
        (1, bool, "true or false"),
        (1, str, "text"),
        (0, Small, "a whole number from 1 to 3"),
        (4, Small, "a whole number from 1 to 3"),
        ("2", Small | None, "a whole number from 1 to 3 or null"),
        (0, Annotated[int, Range(1)], "a whole number >= 1"),
        (-1, Annotated[int, Range(0, 2**32 - 1)], "a whole number from 0 to 4294967295"),
        (0, Annotated[float, Range(0.5, 1)], "a number from 0.5 to 1"),
        (0, Positive, "a number > 0"),
        (float("nan"), Positive, "a number > 0"),
        ("1", Positive, "a number > 0"),
        (1, Share, "a number >= 0 and < 1"),
        (-0.1, Share, "a number >= 0 and < 1"),
        (0, Part, "a number > 0 and <= 1"),
        (1.1, Part, "a number > 0 and <= 1"),
        (0, Positive | None, "a number > 0 or null"),
        ([0.9, 1], tuple[Share, Share], "a list of 2: a number >= 0 and < 1, a number >= 0 and < 1"),
        (1.5, Annotated[int, "a remark"], "a whole number"),
        ("c", Literal["a", "b"], "one of a, b"),
        (True, Literal[1], "1"),
        (["x"], list[int], "a list of a whole number"),
        ("abc", list[str], "a list of text"),
        ([1], Mapping[str, Any], "a group of settings"),
    ],
)
def test_does_not_fit(value, annotation, allowed):
    assert not fits(value, annotation)
    assert describe(annotation) == allowed
    assert mismatch(value, annotation) == f"must be {allowed}, got {value!r}"


@pytest.mark.parametrize("value", ["x" * 1000, [[]] * 1000, 16**5000], ids=["text", "list", "number"])
def test_a_long_value_is_not_quoted_in_full(value):
    assert len(mismatch(value, float)) < 300


@pytest.mark.parametrize(
    ("number", "noun", "told"),
    [(1, "class", "1 class"), (2, "class", "2 classes"), (0, "file", "0 files"), (1, "test file", "1 test file")],
)
def test_a_number_and_what_it_counts(number, noun, told):
    assert counted(number, noun) == told


def test_a_value_of_endless_depth_is_not_quoted():
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert mismatch(value, int) == "must be a whole number, got a list too long to show"


@pytest.mark.parametrize(
    "text",
    ["a-b", "", "2020", "-.5", "nan", "Null", "id (nr, old)", "it's", "x]y", "a\\", "a\\'", "a$b `!", "\u00e9"],
)
def test_what_is_advised_is_what_the_shell_and_the_parser_read(text):
    word = f"key=[{as_typed(text)}]"
    (typed,) = shlex.split(in_shell(word))
    assert OverridesParser.create().parse_override(typed).value() == [text]

"""Check plain values (from YAML or JSON) against type annotations, and say in words what is allowed."""

from __future__ import annotations

import json
import re
import shlex
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

_INFINITE = float("inf")


class Range(NamedTuple):
    """The allowed interval of a number, both ends included; use as `Annotated[int, Range(1)]`.

    Several of these in one annotation hold together: `Annotated[float, Range(0), Below(1)]` is [0, 1), and
    `Annotated[float, Above(0), Range(high=1)]` is (0, 1].
    """

    low: float = -_INFINITE
    high: float = _INFINITE

    def holds(self, value: float) -> bool:
        """Whether a number is within."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """Return the interval in words."""
        if self.high == _INFINITE:
            return f">= {self.low:.12g}"
        return f"<= {self.high:.12g}" if self.low == -_INFINITE else f"from {self.low:.12g} to {self.high:.12g}"


class Above(NamedTuple):
    """A lower limit that is not allowed itself; use as `Annotated[float, Above(0)]`."""

    low: float

    def holds(self, value: float) -> bool:
        """Whether a number is above."""
        return value > self.low

    def __str__(self) -> str:
        """Return the limit in words."""
        return f"> {self.low:.12g}"


class Below(NamedTuple):
    """An upper limit that is not allowed itself; use as `Annotated[float, Below(1)]`."""

    high: float

    def holds(self, value: float) -> bool:
        """Whether a number is below."""
        return value < self.high

    def __str__(self) -> str:
        """Return the limit in words."""
        return f"< {self.high:.12g}"


class OnDisk(NamedTuple):
    """Says that a text names a file or folder; use as `Annotated[str, OnDisk()]`.

    What is in it is what a run depends on; where it lies is not.
    """


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


LONGEST = 200
"""Most characters of a value that a message quotes."""

_LISTS = (list, tuple, Sequence, Iterable)


def describe(annotation: Any) -> str:
    """Say in words which values an annotation allows."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Annotated:
        return " ".join([describe(args[0]), " and ".join(map(str, _limits(args)))]).strip()
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args if a in _WORDS or get_origin(a)) or str(annotation)
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)}: {', '.join(map(describe, args))}"
    if origin in (dict, Mapping):
        return "a group of settings"
    if origin in _LISTS and args:
        return f"a list of {describe(args[0])}"
    if origin is Callable:
        return "a function, which a config cannot contain"
    return str(getattr(annotation, "__name__", annotation))


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` fits `annotation`; unknown annotations fit everything.

    A list fits the annotation of a tuple: YAML and JSON have only lists.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        number = isinstance(value, int | float)
        return fits(value, args[0]) and all(limit.holds(value) for limit in _limits(args) if number)
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is tuple and Ellipsis not in args:
        same = isinstance(value, list | tuple) and len(value) == len(args)
        return same and all(fits(v, a) for v, a in zip(value, args, strict=True))
    if origin in _LISTS:
        return isinstance(value, list | tuple) and (not args or all(fits(v, args[0]) for v in value))
    if origin is Callable:
        return callable(value)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return isinstance(value, Mapping)
    if annotation in (int, float):
        # NaN would pass later comparisons, and numbers beyond 64 bits would overflow later
        numbers = int if annotation is int else (int, float)
        finite = isinstance(value, numbers) and not isinstance(value, bool) and abs(value) < float("inf")
        return finite and (isinstance(value, float) or -(2**63) <= value < 2**63)
    return isinstance(value, annotation) if isinstance(annotation, type) and annotation is not Any else True


def _limits(args: tuple[Any, ...]) -> list[Range | Above | Below]:
    """Return the limits in the arguments of `Annotated[...]`."""
    return [limit for limit in args[1:] if isinstance(limit, Range | Above | Below)]


def shown(value: object) -> str:
    """Return a value as messages quote it: on one line, a long one cut off."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def written(value: object) -> str:
    """Return a value of a setting as a command line has it: true, null, 0.1, or a text without quotes.

    >>> written(True), written(None), written("max")
    ('true', 'null', 'max')
    """
    return value if isinstance(value, str) else json.dumps(value)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts: "1 class", "2 classes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def as_typed(text: str) -> str:
    """Return a text as the value of a setting: in quotes, if it has special characters or would be read as a number."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", text) and text.lower() not in ("null", "true", "false") and not _number(text):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + "\\'" * bool(found[2]), text)
    return f"'{escaped}'"


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def in_shell(word: str) -> str:
    """Return a word as it is typed in a shell; one with single quotes of its own in double quotes."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def meant(value: Any, annotation: Any) -> str:
    """Return what a value that does not fit was probably meant as, as it is typed, or "".

    It is "[a]" for a single value where a list belongs, and "1,2" for a list where a single value belongs.
    """
    if isinstance(value, str | int | float) and fits([value], annotation):
        return f"[{value}]"
    return ",".join(map(str, value)) if isinstance(value, list) and all(fits(v, annotation) for v in value) else ""


def mismatch(value: Any, annotation: Any) -> str:
    """Return what is wrong with `value` as the end of a sentence, or "" if it fits."""
    return "" if fits(value, annotation) else f"must be {describe(annotation)}, got {shown(value)}"


def as_schema(annotation: Any) -> dict[str, Any]:
    """Return the values that `fits` an annotation as a JSON Schema, of draft 7."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = as_schema(args[0])
        for limit in _limits(args):
            if isinstance(limit, Range):
                found |= {"minimum": limit.low} if limit.low > -_INFINITE else {}
                found |= {"maximum": limit.high} if limit.high < _INFINITE else {}
            else:
                found |= {"exclusiveMinimum" if isinstance(limit, Above) else "exclusiveMaximum": limit[0]}
        return found
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [as_schema(a) for a in args]}
    if origin is tuple and Ellipsis not in args:
        return {"type": "array", "items": [as_schema(a) for a in args], "minItems": len(args), "maxItems": len(args)}
    if origin in _LISTS:
        return {"type": "array", **({"items": as_schema(args[0])} if args else {})}
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return {"type": "object", **({"additionalProperties": as_schema(args[1])} if args else {})}
    named = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", list: "array"}
    return {"type": named[annotation]} if annotation in named else {}

"""Elements and pictures of a page: HTML that escapes what it is given, and SVG.

Text of runs may be untrusted: `tag` escapes all that is not `Html`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

LEFT, RIGHT = 52, 470
"""The ends of a panel's axis across, in a picture of 480 x 246."""

_TOP, _BOTTOM = 10, 210  # of its axis upwards
_TEXT = 60  # most characters of a value
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *content: str | Iterable[str], **attributes: object) -> Html:
    """Return an element; content and attributes are escaped, unless they are `Html`.

    Args:
        name: of the element.
        content: texts or elements, or lists of them.
        attributes: their names with _ for -, and with _ at the end where Python has a word of its own.
    """
    parts = [part for own in content for part in ([own] if isinstance(own, str) else own)]
    inner = "".join(part if isinstance(part, Html) else escaped(part) for part in parts)
    named = "".join(f' {key.rstrip("_").replace("_", "-")}="{escaped(str(v))}"' for key, v in attributes.items())
    return Html(f"<{name}{named}>{inner}</{name}>")


def escaped(text: str) -> str:
    """Return text as HTML shows it; characters that control something are replaced."""
    return escape(text.translate(_CONTROL)).encode("utf-8", "replace").decode()


def words(x: float, y: float, text: str, anchor: str = "start") -> Html:
    """Return text in a picture; `anchor` says which of its ends is at x: start, middle or end."""
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)


def short(text: str, most: int = _TEXT) -> str:
    """Return text with at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown_value(value: Any) -> str:
    """Return a setting as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else short(str(value))


def drawing(parts: Iterable[Html], width: float, height: float) -> Html:
    """Return an SVG picture that keeps its size and can be moved on a narrow screen."""
    drawing = tag("svg", parts, viewBox=f"0 0 {width} {height}", width=width, height=height, class_="all fixed")
    return tag("div", drawing, class_="wide")


def interval_bar(value: float | None, half: float | None, low: float, high: float) -> Html:
    """Return a value as a dot and its interval as a line, between two ends; with a line at 0 if it is between them."""
    if value is None:
        return Html()
    size = high - low or 1

    def at(number: float) -> float:
        return round(6 + 158 * (number - low) / size, 1)

    zero = [tag("line", x1=at(0), x2=at(0), y1=2, y2=20, class_="zero")] * (low < 0 < high)
    half = half or 0
    parts = [tag("line", x1=6, x2=164, y1=20, y2=20, class_="axis"), *zero]
    parts.append(tag("line", x1=at(value - half), x2=at(value + half), y1=11, y2=11, class_="curve c0"))
    parts.append(tag("circle", cx=at(value), cy=11, r=4, class_="dot c0"))
    return tag("svg", parts, class_="bar", viewBox="0 0 170 22")


def scale(
    values: Sequence[Any], top: float, bottom: float, apart: float
) -> tuple[list[float], list[tuple[Any, float]]]:
    """Return the height of each value on an axis, and its marks: numbers by size, anything else one by one.

    Args:
        values: numbers, or anything.
        top: the place of the largest.
        bottom: the place of the smallest.
        apart: the least distance between the marks of two numbers.
    """
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        names = sorted({shown_value(value) for value in values})
        step = (bottom - top) / max(1, len(names) - 1)
        height = {name: bottom - index * step for index, name in enumerate(names)}
        return [height[shown_value(value)] for value in values], list(height.items())
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low >= 20
    size = (math.log(high / low) if log else high - low) or 1

    def at(value: float) -> float:
        return bottom - (bottom - top) * (math.log(value / low) if log else value - low) / size

    marks = [low]
    for number in sorted(set(numbers)) if len(set(numbers)) <= 6 else ():
        if min(abs(at(number) - at(marks[-1])), abs(at(high) - at(number))) >= apart:
            marks.append(number)
    return [at(value) for value in values], [(value, at(value)) for value in dict.fromkeys([*marks, high])]


def round_numbers(low: float, high: float) -> list[float]:
    """Return three to six round numbers between two."""
    size = high - low
    unit = 10.0 ** math.floor(math.log10(size / 3)) if size > 0 else 1.0
    step = next(unit * factor for factor in (1, 2, 5, 10) if size / (unit * factor) <= 5.5)
    first = math.ceil(low / step)
    return [round(step * index, 12) for index in range(first, math.floor(high / step) + 1)]


def across(low: float, high: float) -> tuple[Callable[[float], float], list[tuple[str, float]]]:
    """Return a function from numbers to places across a panel, and its marks: a text and a place for each."""
    wide = high - low or 1

    def place(number: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (number - low) / wide, 1)

    return place, [(f"{number:.6g}", place(number)) for number in round_numbers(low, high)]


def axes(
    low: float, high: float, marks: Iterable[tuple[str, float]], name: str, percent: bool = False
) -> tuple[Callable[[float], float], list[Html]]:
    """Return the axes of a panel.

    Args:
        low: the lowest number upwards.
        high: the highest.
        marks: across, a text and a place for each.
        name: of what is shown across.
        percent: whether numbers upwards are shares, which are shown in percent.

    Returns:
        A function from numbers to places upwards, and the lines and texts of the axes.
    """
    margin = (high - low) * 0.04 or abs(high) * 0.04 or 1
    low, high = low - margin, high + margin

    def place(number: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (number - low) / (high - low), 1)

    parts = []
    for number in round_numbers(low, high):
        y = place(number)
        shown = f"{100 * number:.4g} %" if percent else f"{number:.4g}"
        parts += [tag("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="axis"), words(LEFT - 6, y + 4, shown, "end")]
    parts += [words(x, _BOTTOM + 16, shown, "middle") for shown, x in marks]
    return place, [*parts, words(RIGHT, _BOTTOM + 32, name, "end")]


def panel(parts: Iterable[Html], told: str) -> Html:
    """Return the picture of a panel with axes; `told` says what it shows."""
    return tag("svg", parts, viewBox="0 0 480 246", class_="all", role="img", aria_label=told)


def marker(x: float, y: float, index: int, *content: Html, **attributes: object) -> Html:
    """Return a mark whose colour and shape are those of a number from 0."""
    shapes = (
        f"M{x - 4},{y}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
        f"M{x - 3.5},{y - 3.5}h7v7h-7z",
        f"M{x},{y - 5}l4.5,8h-9z",
        f"M{x},{y - 5}l5,5l-5,5l-5,-5z",
    )
    return tag("path", *content, d=shapes[(index + index // 8) % 4], class_=f"dot c{index % 8}", **attributes)

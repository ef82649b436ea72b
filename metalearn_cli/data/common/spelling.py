"""How a text becomes ids, in the way of a data set; without torch.

Legend: N texts, L ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.errors import UserError

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""The ids of padding, of a letter that the vocabulary lacks, and of the vocabulary's first piece."""

INSIDE = "##"  # begins a piece that is not the beginning of a word

Tokens = tuple[int, ...]


class Ids(NamedTuple):
    """Texts as ids [N, L] int64, padded with 0, and how many of them were cut."""

    ids: NDArray[np.int64]
    cut: int


def ids_of(texts: Sequence[str], preprocessing: Mapping[str, Any], folder: str | Path = "") -> Ids:
    """Return texts as ids, in the way of a data set.

    Args:
        texts: N of them.
        preprocessing: of the data set.
        folder: its tokenizer's, if that is neither "words" nor "bytes".

    Raises:
        UserError: if the folder has another tokenizer, or none.
    """
    length = preprocessing["length"]
    if preprocessing["tokenizer"] == "bytes":
        return _padded(((1 + byte for byte in text.encode()) for text in texts), length)
    if preprocessing["tokenizer"] == "words":
        spell = _speller(preprocessing["pieces"], length + 1)
        return _padded(((i for word in words_of(text) for i in spell(word)) for text in texts), length)
    from metalearn_cli.data.common.tokenizer import tokenized

    found = tokenized(texts, folder, length)
    if found.preprocessing != preprocessing:
        raise UserError(f"{folder} has another tokenizer than the one of these data")
    return Ids(found.ids, found.cut)


def tokens_of(ids: Sequence[int], preprocessing: Mapping[str, Any], folder: str | Path = "") -> list[str]:
    """Return the tokens of ids as they are written, the opposite of `encoded`.

    Args:
        ids: without padding.
        preprocessing: of the data set.
        folder: its tokenizer's, if that is neither "words" nor "bytes".
    """
    if preprocessing["tokenizer"] == "bytes":
        return [ascii(chr(i - 1))[1:-1] for i in ids]
    if preprocessing["tokenizer"] == "words":
        pieces = preprocessing["pieces"].split(" ")
        return ["[unknown]" if i == UNKNOWN else pieces[i - FIRST] for i in ids]
    from metalearn_cli.data.common.tokenizer import written

    return written(ids, folder)


def words_of(text: str) -> list[str]:
    """Return the lower-cased words and marks of a text: "Don't!" gives don, ', t and !."""
    return re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFKC", text).casefold())


def _speller(pieces: str, most: int) -> Any:
    """Return the function that gives a word's first ids: the longest piece that fits, then the longest one after it."""
    known = {piece: i for i, piece in enumerate(pieces.split(" "), FIRST)}
    longest = max(map(len, known))

    @cache
    def spell(word: str) -> Tokens:
        found: list[int] = []
        start = 0
        while start < len(word) and len(found) < most:
            mark = INSIDE if start else ""
            ends = range(min(len(word), start + longest), start, -1)
            end = next((end for end in ends if mark + word[start:end] in known), 0)
            found.append(known[mark + word[start:end]] if end else UNKNOWN)
            start = end or start + 1
        return tuple(found)

    return spell


def _padded(rows: Iterable[Iterator[int]], length: int) -> Ids:
    """Return rows of ids as an array."""
    found = [list(islice(row, length + 1)) for row in rows]
    ids = np.zeros((len(found), length), np.int64)
    for line, row in zip(ids, found, strict=True):
        line[: len(row)] = row[:length]
    return Ids(ids, sum(len(row) > length for row in found))

"""How a text becomes ids, and plain values that say so, to treat other texts in the same way.

Legend: N texts, L ids.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, Finding, Problem
from metalearn_cli.core.places import expanded
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import state_of
from metalearn_cli.data.common.manifest import Entry, Placed
from metalearn_cli.data.common.spelling import FIRST, INSIDE, PADDING, UNKNOWN, ids_of, words_of
from metalearn_cli.data.common.splits import SPLITS, spread

FEW = 0.05  # share of unknown letters in a split that is told
BYTES = 1 + 256  # a byte's id is its value plus 1
MOST_WORDS = 50_000  # different words that a vocabulary is learnt from, the commonest
LONGEST_WORD = 64  # letters of a word that is learnt whole; a sequence of DNA is one word
MOST_PARTS = 512  # of longer words
SHOWN, WIDTH = 8, 100  # classes of a split that are shown by an example, and its letters

Vocabulary = Annotated[int, Range(16, 1 << 20)]
"""The setting of most ids of a vocabulary."""
Length = Annotated[int, Range(1, 1 << 16)]
"""The setting of the ids of an item."""


class Passage(NamedTuple):
    """A text and where it was found ("a.csv, row 3")."""

    text: str
    where: str


class Coding(NamedTuple):
    """How texts become ids.

    Attributes:
        tokenizer: "words": lower-cased words, and pieces of rare ones; "bytes"; or a folder with `tokenizer.json`.
        vocabulary: most ids of "words".
        length: L; longer texts are cut, shorter ones padded.
    """

    tokenizer: str
    vocabulary: int
    length: int


class Encoded(NamedTuple):
    """Texts as ids [N, L] int64, padded with 0, and how many of them were cut."""

    ids: Tensor
    cut: int


def encoded(texts: Sequence[str], preprocessing: Mapping[str, Any], folder: str | Path = "") -> Encoded:
    """Return texts as ids, see `spelling.ids_of`."""
    ids, cut = ids_of(texts, preprocessing, folder)
    return Encoded(torch.from_numpy(ids), cut)


def text_data(name: str, found: Placed, coding: Coding, about: Mapping[str, Any] | None = None) -> Dataset:
    """Return the data set of a manifest of passages, from the cache if the same was built before.

    A vocabulary is learnt from the training classes only.

    Args:
        name: of the data set.
        found: what is in each split; the entries' sources are `Passage`s.
        coding: how texts become ids.
        about: what was understood so far.

    Raises:
        UserError: if there is no such tokenizer.
    """
    coding = coding._replace(tokenizer=expanded(coding.tokenizer))
    items = {s: {k: [e.source for e in own] for k, own in classes.items()} for s, classes in found.classes.items()}
    key = {
        "name": name,
        "items": hashlib.sha256(repr(items).encode("utf-8", "surrogatepass")).hexdigest(),
        "found": [found.protocol, found.findings],
        "about": about,
        "coding": coding,
        "tokenizer": _stamp(coding.tokenizer),
        "unicode": unicodedata.unidata_version,
    }
    return cached(name, key, lambda: _built(name, found, coding, about or {}))


def filled(entries: Iterable[Entry]) -> tuple[list[Entry], tuple[Finding, ...]]:
    """Return the passages with a text and a label, and findings that name the others."""
    rows = list(entries)
    written = [entry for entry in rows if entry.source.text.strip()]
    empty = [entry for entry in rows if not entry.source.text.strip()]
    bare = [entry for entry in written if not entry.label]
    findings = [
        Finding(blocks, _rows(own), what, tuple(entry.source.where for entry in own))
        for blocks, own, what in (
            (True, bare, "without a label; name the class of each text, or remove it"),
            (False, empty, "without a text: left out"),
        )
        if own
    ]
    return [entry for entry in written if entry.label], tuple(findings)


def plain(text: str) -> str:
    """Return the words of a text, without case and punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text.strip()


def pieces_of(words: Mapping[str, int], size: int) -> list[str]:
    """Return a vocabulary of words and pieces of words; a piece inside a word begins with "##".

    It has the commonest letters, at most half of the size. Then the commonest pair of neighbouring pieces is joined,
    again and again, until the size is reached or no pair occurs twice.

    Args:
        words: the number of times that each occurs.
        size: most pieces.

    Source: Sennrich et al. 2016, "Neural machine translation of rare words with subword units", algorithm 1.
    """
    common = sorted(_short(words).items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
    spelt = [[word[0], *(INSIDE + letter for letter in word[1:])] for word, _ in common]
    times = [count for _, count in common]
    letters: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    owners: dict[tuple[str, str], set[int]] = {}
    for k, (parts, count) in enumerate(zip(spelt, times, strict=True)):
        letters.update(dict.fromkeys(parts, 0))
        for part in parts:
            letters[part] += count
        for pair in pairwise(parts):
            pairs[pair] += count
            owners.setdefault(pair, set()).add(k)
    pieces = dict.fromkeys(sorted(letters, key=lambda letter: (-letters[letter], letter))[: size // 2])
    queue = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(queue)
    while queue and len(pieces) < size:
        count, pair = heapq.heappop(queue)
        if -count != pairs[pair]:  # it has changed since it was queued
            continue
        if pairs[pair] < 2:
            break
        pieces.setdefault(pair[0] + pair[1].removeprefix(INSIDE))
        changed = set()
        for k in owners.pop(pair):
            for old in pairwise(spelt[k]):
                pairs[old] -= times[k]
                changed.add(old)
            spelt[k] = _joined(spelt[k], pair)
            for new in pairwise(spelt[k]):
                pairs[new] += times[k]
                owners.setdefault(new, set()).add(k)
                changed.add(new)
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(queue, (-pairs[other], other))
    return list(pieces)


def _short(words: Mapping[str, int]) -> Mapping[str, int]:
    """Return words as they are, and some parts of long ones: each join of a pair reads all that has the pair again."""
    found = {word: count for word, count in words.items() if len(word) <= LONGEST_WORD}
    long = [(word, count) for word, count in words.items() if len(word) > LONGEST_WORD]
    parts = ((word[at : at + LONGEST_WORD], n) for word, n in long for at in range(0, len(word), LONGEST_WORD))
    for part, count in islice(parts, MOST_PARTS):
        found[part] = found.get(part, 0) + count
    return found


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return pieces with each occurrence of a pair as one piece."""
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part.removeprefix(INSIDE)
        else:
            found.append(part)
    return found


def _stamp(tokenizer: str) -> list[int]:
    """Return what tells a change of a foreign tokenizer.

    Raises:
        ConfigError: if it is none.
    """
    if tokenizer in ("words", "bytes"):
        return []
    file = Path(tokenizer, "tokenizer.json")
    if not file.is_file():
        told = f"is words, bytes or a folder with a tokenizer.json; there is no {file}"
        raise ConfigError([Problem("data.tokenizer", told)])
    return list(state_of(file.stat()))


def _learnt(texts: Sequence[str], coding: Coding) -> tuple[dict[str, Any], int]:
    """Return the preprocessing of a data set, and how many ids it has."""
    if coding.tokenizer == "bytes":
        return {"tokenizer": "bytes", "length": coding.length}, BYTES
    if coding.tokenizer == "words":
        pieces = pieces_of(Counter(word for text in texts for word in words_of(text)), coding.vocabulary - FIRST)
        # one line, because checkpoints contain it
        return {"tokenizer": "words", "length": coding.length, "pieces": " ".join(pieces)}, FIRST + len(pieces)
    from metalearn_cli.data.common.tokenizer import tokenized

    found = tokenized([], coding.tokenizer, coding.length)
    return found.preprocessing, found.vocabulary


def _built(name: str, found: Placed, coding: Coding, about: Mapping[str, Any]) -> Dataset:
    texts = {split: [entry.source.text for entry in found.entries(split)] for split in found.classes}
    preprocessing, vocabulary = _learnt(texts["train"], coding)
    ids = {split: encoded(own, preprocessing, coding.tokenizer) for split, own in texts.items()}
    strange = _strange(ids) if coding.tokenizer == "words" else []
    told = {
        **about,
        "texts": sum(map(len, texts.values())),
        "cut to length": sum(own.cut for own in ids.values()),
        "vocabulary": vocabulary,
        "examples": _examples(found),
    }
    return Dataset.of(
        name,
        found.protocol,
        found.splits(lambda split, _: ids[split].ids, attrgetter("where")),
        "text",
        preprocessing,
        vocabulary,
        told,
        (*found.findings, *_repeated(found), *strange),
    )


def _strange(ids: Mapping[str, Encoded]) -> list[Finding]:
    """Find splits with many letters that the training texts do not have: their texts cannot be told apart."""
    findings = []
    for split, own in ids.items():
        share = float((own.ids == UNKNOWN).sum() / (own.ids != PADDING).sum().clamp(min=1))
        if share > FEW:
            told = f"have letters that no training text has ({100 * share:.0f} %); data.tokenizer=bytes knows all"
            findings.append(Finding(False, f"the texts of {split}", told))
    return findings


def _examples(found: Placed) -> list[list[str]]:
    """Return rows of a split, one of its classes and the beginning of its first text."""
    return [
        [split, name, " ".join(entries[0].source.text.split())[:WIDTH]]
        for split, classes in found.classes.items()
        for name, entries in spread(list(classes.items()), SHOWN)
    ]


def _repeated(found: Placed) -> list[Finding]:
    """Find texts that several splits have, but for case and punctuation."""
    places: dict[str, dict[str, Entry]] = {}
    for split in found.classes:
        for entry in found.entries(split):
            places.setdefault(plain(entry.source.text), {}).setdefault(split, entry)
    findings = []
    for pair in combinations(SPLITS, 2):
        shared = [[own[split] for split in pair] for own in places.values() if own.keys() >= set(pair)]
        if shared:
            named = tuple(" and ".join(entry.source.where for entry in entries) for entries in shared)
            told = f"share {len(shared)} text{'s' * (len(shared) > 1)}, but for case and punctuation"
            findings.append(Finding(False, " and ".join(pair), told, named))
    return findings


def _rows(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} row{'s' * (len(entries) > 1)}"

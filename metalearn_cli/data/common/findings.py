"""Problems of a data set: too few items, copies across splits, values that are not numbers.

Legend: N items, K classes, ... the shape of one item.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from metalearn_cli.core.errors import ConfigError, Finding, UserError
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.splits import SPLITS, Split, group_of, names_of_items, parts_of

COPIED = 0.5  # a class with at least this share of another's items is a copy of it
COMMON = 50  # if more classes share an item, they are not compared pair by pair
NO_NUMBERS = "with values that are not finite (NaN or infinite)"
ALIKE = 0.8  # correlation of the details of two images that look the same
PLAIN = 0.4  # of 255, the mean size of the details of an image without any
SMALLEST = 16  # pixels a side: in fewer, many images look alike
CHUNK = 4096  # images that are compared at once
HUGE = 1e6  # standardised values are far smaller

Owner = tuple[str, int]
"""A class, by its split and number."""


def findings_of(splits: Mapping[str, Split]) -> list[Finding]:
    """Return the problems of classes in splits, whatever they are used for; their items are on the CPU."""
    findings = [Finding(True, name, "is a split that is missing") for name in SPLITS if name not in splits]
    for name, split in splits.items():
        findings += _numbers(name, split)
    return findings + shared_groups(splits) + _copies(splits)


def shared_groups(splits: Mapping[str, Split]) -> list[Finding]:
    """Find groups (alphabets, speakers) with classes in two splits."""
    own = {name: {group_of(label) for label in split.names} - {""} for name, split in splits.items()}
    findings = []
    for one, two in combinations(own, 2):
        if both := sorted(own[one] & own[two]):
            findings.append(Finding(False, f"{one} and {two}", "have classes of the same groups", tuple(both)))
    return findings


def near_copies(splits: Mapping[str, Split]) -> list[Finding]:
    """Find images of two splits that look the same: scaled, recompressed or slightly changed copies.

    Two images count as the same if their details are correlated, see `_details`. Plain images are not compared.
    """
    hashes = {name: _details(split.items) for name, split in splits.items() if isinstance(split.items, Tensor)}
    findings = []
    for one, two in combinations(hashes, 2):
        first, second = hashes[one], hashes[two]
        if first is None or second is None:
            continue
        pairs = [
            (start + int(i), int(j))
            for start in range(0, len(first), CHUNK)
            for i, j in (first[start : start + CHUNK] @ second.T > ALIKE).nonzero()
        ]
        if pairs:
            names = {name: names_of_items(splits[name]) for name in (one, two)}
            told = tuple(f"{names[one][i]} and {names[two][j]}" for i, j in pairs)
            what = f"share {len(pairs)} pair{'s' * (len(pairs) > 1)} of images that look the same"
            findings.append(Finding(False, f"{one} and {two}", what, told))
    return findings


def _details(items: Tensor) -> Tensor | None:
    """Return the details of images as vectors [N, 196] of length 1; zeros for a plain image; None for other items.

    They are what each pixel of the image, scaled to 16x16, differs from its neighbours' mean: light, contrast and a
    gradient over the whole image, as transparency may leave, do not count.
    """
    if items.ndim != 4 or items.dtype != torch.uint8 or min(items.shape[2:]) < SMALLEST:
        return None
    side = (SMALLEST, SMALLEST)
    small = [interpolate(part.float().mean(1, keepdim=True), side, mode="area") for part in items.split(CHUNK)]
    x = torch.cat(small)[:, 0]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    details = (x[:, 1:-1, 1:-1] - around / 4).flatten(1)
    lengths = details.norm(dim=1, keepdim=True)
    return torch.where(lengths > PLAIN * details.shape[1] ** 0.5, details / lengths, 0.0)


def episode_findings(data: Any, way: int, shot: int, query: int) -> list[Finding]:
    """Return, class by class, why a data set cannot give episodes of a shape.

    Args:
        data: a `Dataset`, or a stream of regression tasks.
        way: classes of an episode.
        shot: labelled items of a class.
        query: items of a class to classify.
    """
    findings = []
    usual, fixed = (way, shot, query), getattr(data, "fixed", {})
    for name in SPLITS:
        split = data.splits.get(name)
        way, shot, query = fixed.get(name, usual)
        if split is not None:
            for label, count in zip(split.names, split.counts.tolist(), strict=True):
                if count < shot + query:
                    what = f"has {count} item{'s' * (count != 1)}; shot + query = {shot} + {query} needs {shot + query}"
                    findings.append(Finding(True, f"{name}: {label}", what))
            if len(split.names) < way:
                classes = f"{len(split.names)} class{'es' * (len(split.names) != 1)}"
                findings.append(Finding(True, name, f"has {classes}; way = {way} needs {way}"))
        if getattr(data, "within", False) and split is not None:
            sizes = Counter(group_of(label) for label in split.names)
            if small := sorted(group for group, size in sizes.items() if size < way):
                what = f"has groups of fewer than way = {way} classes, which no episode uses"
                findings.append(Finding(False, name, what, tuple(small)))
        if any(finding.blocks and finding.where.startswith(name) for finding in findings) or not (
            split or data.facts.regression
        ):
            continue
        try:
            episode = data.episodes(name, way=way, shot=shot, query=query, seed=0).batch(0, 4)
        except ConfigError as error:
            findings += [Finding(True, name, f"cannot give episodes: {p.key} {p.message}") for p in error.problems]
        except UserError as error:
            findings.append(Finding(True, name, f"cannot give episodes: {error}"))
        else:
            findings += _episodes(name, episode, way, data.facts.regression)
    return findings


def _episodes(name: str, episode: Episode, way: int, regression: bool) -> list[Finding]:
    """Check items and targets as a learner gets them."""
    findings = []
    for part in ("support", "query"):
        x, y = getattr(episode, f"{part}_x"), getattr(episode, f"{part}_y")
        if not all(values.isfinite().all() for values in parts_of(x).values()):
            findings.append(Finding(True, name, f"gives {part} items {NO_NUMBERS}"))
        if regression and not y.isfinite().all():
            findings.append(Finding(True, name, f"gives {part} targets {NO_NUMBERS}"))
        if not regression and not ((y >= 0) & (y < way)).all():
            span = f"from {int(y.min())} to {int(y.max())}"
            findings.append(Finding(True, name, f"gives {part} labels {span}; they must be from 0 to {way - 1}"))
    return findings


def _numbers(name: str, split: Split) -> list[Finding]:
    """Check the values of a split, class by class."""
    found = {"item": [part for part in parts_of(split.items).values() if part.is_floating_point()]}
    found["target"] = [] if split.targets is None else [split.targets]
    kinds: dict[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
        NO_NUMBERS: (True, lambda x: ~x.isfinite()),
        f"with values beyond {HUGE:g}; standardise them": (False, lambda x: (x.abs() > HUGE) & x.isfinite()),
    }
    findings = []
    for (what, (blocks, wrong)), (noun, parts) in product(kinds.items(), found.items()):
        bad = torch.zeros(len(_class_of(split)), dtype=torch.bool)
        for part in parts:
            bad |= wrong(part.reshape(len(part), -1)).any(1)
        names = names_of_items(split) if bad.any() else []
        wrong_of: dict[int, list[str]] = {}
        for i in bad.nonzero().flatten().tolist():
            wrong_of.setdefault(int(_class_of(split)[i]), []).append(names[i])
        for k, own in wrong_of.items():
            told = f"has {len(own)} {noun}{'s' * (len(own) > 1)} {what}"
            findings.append(Finding(blocks, f"{name}: {split.names[k]}", told, tuple(own)))
    return findings


def _class_of(split: Split) -> Tensor:
    """Return the class [N] of each item."""
    return torch.arange(len(split.counts)).repeat_interleave(split.counts)


def _digests(split: Split) -> list[bytes]:
    """Return a hash of each item, with its target: tasks may have the same items with other targets."""
    targets = [] if split.targets is None else [split.targets]
    parts = [part.reshape(len(part), -1).numpy() for part in (*parts_of(split.items).values(), *targets)]
    rows = (b"".join(row.tobytes() for row in item) for item in zip(*parts, strict=True))
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def _copies(splits: Mapping[str, Split]) -> list[Finding]:
    """Find copies of items by their content, whatever the names of their classes.

    A class that has most of its items in common with a class of another split leaks between the splits. Single copies
    are reported and do not block: simple drawings can be equal.
    """
    owners: dict[bytes, list[tuple[str, int, int]]] = {}
    for name, split in splits.items():
        for i, (digest, k) in enumerate(zip(_digests(split), _class_of(split).tolist(), strict=True)):
            owners.setdefault(digest, []).append((name, k, i))
    copied = [found for found in owners.values() if len(found) > 1]
    if not copied:
        return []
    names = {name: names_of_items(split) for name, split in splits.items()}
    within: dict[Owner, list[str]] = {}
    between: dict[tuple[Owner, Owner], list[str]] = {}
    findings = []
    for found in copied:
        items: dict[Owner, list[str]] = {}
        for name, k, i in found:
            items.setdefault((name, k), []).append(names[name][i])
        for owner, own in items.items():
            within.setdefault(owner, []).extend(f"{other} = {own[0]}" for other in own[1:])
        if len(items) <= COMMON:
            for one, two in combinations(sorted(items), 2):
                between.setdefault((one, two), []).append(f"{items[one][0]} = {items[two][0]}")
        else:
            (name, k), *others = sorted(items)
            what = f"has an item, perhaps an empty one, that {len(others)} other classes have too"
            findings.append(Finding(True, f"{name}: {splits[name].names[k]}", what, tuple(items[name, k][:1])))
    for (name, k), told in within.items():
        if told:
            what = f"has {len(told)} item{'s' * (len(told) > 1)} that repeat{'s' * (len(told) == 1)} others of it"
            findings.append(Finding(False, f"{name}: {splits[name].names[k]}", what, tuple(told)))
    singles: dict[tuple[str, str], list[str]] = {}
    for ((first, k), (second, j)), told in between.items():
        smaller = min(int(splits[first].counts[k]), int(splits[second].counts[j]))
        if len(told) >= COPIED * smaller:
            leak = "leaks into another split" if first != second else "is in the data twice"
            what = f"{leak}: {len(told)} of its items are those of {second}: {splits[second].names[j]}"
            findings.append(Finding(first != second, f"{first}: {splits[first].names[k]}", what, tuple(told)))
        else:
            singles.setdefault((first, second), []).extend(told)
    for (first, second), told in singles.items():
        other = "other classes of it" if first == second else second
        what = f"shares {len(told)} single item{'s' * (len(told) > 1)} with {other}"
        findings.append(Finding(False, first, what, tuple(told)))
    return findings

"""What is wrong with a data set: too few items, copies across splits, numbers that are none.

Legend: N items, K classes, ... the shape of one item.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Finding, UserError
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.dataset import SPLITS, Split

COPIED = 0.5  # share of a class's items from which on a class with the same ones is a copy of it
COMMON = 50  # classes that may share an item before they are no longer looked at pair by pair
NO_NUMBERS = "with values that are no numbers (NaN or infinite)"
HUGE = 1e6  # standardised values do not get there


def findings_of(data: Any) -> list[Finding]:
    """Return what is wrong with a data set, whatever is to be done with it; cheap enough for the start of a stage.

    Args:
        data: a `Dataset`, or a stream of regression tasks.
    """
    if data.regression:
        return []  # drawn, not kept
    findings = [Finding(True, name, "is a split that is missing") for name in SPLITS if name not in data.splits]
    for name, split in data.splits.items():
        findings += _numbers(name, split)
    return findings + _copies(data.splits)


def episode_findings(data: Any, way: int, shot: int, query: int) -> list[Finding]:
    """Return what keeps a data set from giving episodes of a shape, class by class.

    Args:
        data: a `Dataset`, or a stream of regression tasks.
        way: classes of an episode.
        shot: labelled items of a class.
        query: items of a class to be told apart.
    """
    findings = []
    for name in SPLITS:
        split = data.splits.get(name)
        if split is not None:
            for label, count in zip(split.names, split.counts.tolist(), strict=True):
                if count < shot + query:
                    what = f"has {count} items; shot + query = {shot} + {query} needs {shot + query}"
                    findings.append(Finding(True, f"{name}: {label}", what))
            if len(split.names) < way:
                findings.append(Finding(True, name, f"has {len(split.names)} classes; way = {way} needs {way}"))
        if any(finding.where.startswith(name) for finding in findings) or not (split or data.regression):
            continue
        try:
            episode = data.episodes(name, way=way, shot=shot, query=query, seed=0).batch(0, 4)
        except ConfigError as error:
            findings += [Finding(True, name, f"cannot give episodes: {p.key} {p.message}") for p in error.problems]
        except UserError as error:
            findings.append(Finding(True, name, f"cannot give episodes: {error}"))
        else:
            findings += _episodes(name, episode, way, data.regression)
    return findings


def _episodes(name: str, episode: Episode, way: int, regression: bool) -> list[Finding]:
    """Check items and targets as a learner gets them."""
    findings = []
    for part in ("support", "query"):
        x, y = getattr(episode, f"{part}_x"), getattr(episode, f"{part}_y")
        if not x.isfinite().all():
            findings.append(Finding(True, name, f"gives {part} items {NO_NUMBERS}"))
        if regression and not y.isfinite().all():
            findings.append(Finding(True, name, f"gives {part} targets {NO_NUMBERS}"))
        if not regression and not ((y >= 0) & (y < way)).all():
            span = f"from {int(y.min())} to {int(y.max())}"
            findings.append(Finding(True, name, f"gives {part} labels {span}; they must be from 0 to {way - 1}"))
    return findings


def _numbers(name: str, split: Split) -> list[Finding]:
    """Check the values of a split, class by class."""
    if not split.items.is_floating_point():
        return []
    flat = split.items.flatten(1)
    findings = []
    kinds = {
        NO_NUMBERS: (True, ~flat.isfinite().all(1)),
        f"with values beyond {HUGE:g}; standardise them": (False, ((flat.abs() > HUGE) & flat.isfinite()).any(1)),
    }
    for what, (blocks, bad) in kinds.items():
        for k, count in Counter(_class_of(split)[bad].tolist()).items():
            findings.append(Finding(blocks, f"{name}: {split.names[k]}", f"has {count} item{'s' * (count > 1)} {what}"))
    return findings


def _class_of(split: Split) -> Tensor:
    """Return the class [N] of each item."""
    return torch.arange(len(split.counts)).repeat_interleave(split.counts)


def _copies(splits: Any) -> list[Finding]:
    """Find items that are there more than once, by their content: whatever they and their classes are called.

    A class whose items are, for the most part, those of a class of another split leaks that split. Single copies are
    told and do not block: simple drawings coincide.
    """
    owners: dict[bytes, list[tuple[str, int]]] = {}
    for name, split in splits.items():
        rows = split.items.cpu().contiguous().flatten(1).numpy()
        for row, k in zip(rows, _class_of(split).tolist(), strict=True):
            owners.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), []).append((name, k))
    within: Counter[tuple[str, int]] = Counter()
    between: Counter[tuple[tuple[str, int], tuple[str, int]]] = Counter()
    findings = []
    for found in owners.values():
        if len(found) > 1:
            counts = Counter(found)
            within.update({owner: count - 1 for owner, count in counts.items() if count > 1})
            if len(counts) <= COMMON:
                between.update(combinations(sorted(counts), 2))
            else:
                (name, k), *others = sorted(counts)
                what = f"has an item, an empty one perhaps, that {len(others)} other classes have too"
                findings.append(Finding(True, f"{name}: {splits[name].names[k]}", what))
    for (name, k), count in within.items():
        what = f"has {count} item{'s' * (count > 1)} that repeat others of it"
        findings.append(Finding(False, f"{name}: {splits[name].names[k]}", what))
    singles: Counter[tuple[str, str]] = Counter()
    for ((one, i), (two, j)), count in between.items():
        smaller = min(int(splits[one].counts[i]), int(splits[two].counts[j]))
        where = f"{one}: {splits[one].names[i]}"
        if count >= COPIED * smaller:
            leak = "leaks into another split" if one != two else "is there twice"
            what = f"{leak}: {count} of its items are those of {two}: {splits[two].names[j]}"
            findings.append(Finding(one != two, where, what))
        else:
            singles[one, two] += count
    for (one, two), count in singles.items():
        other = "other classes of it" if one == two else two
        findings.append(Finding(False, one, f"shares {count} single items with {other}"))
    return findings

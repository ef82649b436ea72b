"""Decode the items of a manifest, several at a time, into arrays that may be larger than memory."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from metalearn_cli.core.errors import NOTE, DataError, Finding
from metalearn_cli.core.machine import cores
from metalearn_cli.data.common.cache import large
from metalearn_cli.data.common.manifest import Placed, too_small
from metalearn_cli.data.common.splits import Split, packed

log = logging.getLogger("metalearn_cli")

PATIENCE = 5.0  # seconds after which the user is told how long reading takes

Unreadable = Literal["stop", "skip"]
"""Whether items that cannot be read are an error or left out."""

SKIP = "to go on without the files that cannot be read: data.unreadable=skip"


def decoded(
    found: Placed,
    decode: Callable[[Any], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    unreadable: Unreadable,
    order: Mapping[Any, int] | None = None,
) -> tuple[dict[str, Split], list[Finding]]:
    """Return the items that can be read by split and class, and findings about the others.

    Args:
        found: what is in each split.
        decode: returns the item of an entry's source; it raises a ValueError, whose text goes after the source, if that
            cannot be read. Several threads call it.
        shape: of an item.
        dtype: of an item.
        unreadable: what to do with items that cannot be read.
        order: the place of each source where reading is fast in order (a packed archive); None for no such place.

    Raises:
        DataError: if a split has no class left whose items can be read.
    """
    findings: list[Finding] = []
    arrays: dict[str, NDArray[Any]] = {}
    good: dict[str, NDArray[np.bool_]] = {}
    for split in found.classes:
        entries = found.entries(split)
        arrays[split] = own = large(len(entries), *shape, dtype=dtype)
        good[split] = np.ones(len(entries), bool)

        def place(i: int, source: Any, items: NDArray[Any] = own) -> None:
            items[i] = decode(source)

        began, told = time.monotonic(), False
        pool = ThreadPoolExecutor(cores())
        try:
            places = sorted(range(len(entries)), key=lambda i: (order or {}).get(entries[i].source, 0))
            begun = {i: pool.submit(place, i, entries[i].source) for i in places}
            futures = [begun[i] for i in range(len(entries))]
            for i, (entry, future) in enumerate(zip(entries, futures, strict=True)):
                try:
                    future.result()
                except ValueError as error:
                    good[split][i] = False
                    findings.append(Finding(unreadable == "stop", str(entry.source), str(error)))
                if i == 0:  # it also has what is imported
                    began = time.monotonic()
                elif not told and (took := time.monotonic() - began) > PATIENCE:
                    told, whole = True, took / i * len(entries)
                    time_taken = f"{whole:.0f} seconds" if whole < 60 else f"{whole / 60:.1f} minutes"
                    what = "reading %d items of %s takes about %s; it is done once, then cached"
                    log.log(NOTE, what, len(entries), split, time_taken)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, what waits is not begun
    owners = {s: np.repeat(np.arange(len(own)), [len(e) for e in own.values()]) for s, own in found.classes.items()}
    counts = {s: np.bincount(owners[s][good[s]], minlength=len(own)) for s, own in found.classes.items()}
    left: Counter[str] = Counter()  # over all splits, for those of the same classes
    for split, classes in found.classes.items():
        left.update(dict(zip(classes, counts[split].tolist(), strict=True)))
    if small := {name for name, count in left.items() if count < found.min_items}:
        findings.append(too_small(sorted(small), len(left), found.min_items, "classes", "items that can be read"))
    splits = {}
    for split, classes in found.classes.items():
        stays = np.array([name not in small for name in classes]) & (counts[split] > 0)
        if not stays.any():
            raise DataError([*findings, Finding(True, split, "has no class with enough items that can be read")])
        kept = good[split] & stays[owners[split]]
        items = arrays[split] if kept.all() else arrays[split][kept]
        names = tuple(name for name, stay in zip(classes, stays, strict=True) if stay)
        sources = packed(str(e.source) for e, stay in zip(found.entries(split), kept, strict=True) if stay)
        splits[split] = Split(torch.from_numpy(items), torch.from_numpy(counts[split][stays]), names, sources=sources)
    return splits, findings

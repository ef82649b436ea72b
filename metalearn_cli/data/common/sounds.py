"""The data set of the recordings of a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.errors import Finding
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.decoding import SKIP, Unreadable, decoded
from metalearn_cli.data.common.files import Files
from metalearn_cli.data.common.manifest import Manifest, Placed, placed
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.data.common.waves import DECIBELS, LARGEST, QUIET, WINDOW, Shape, fitted, item_of, mixed_of, recorded


def recordings(
    name: str,
    files: Files,
    manifest: Manifest,
    shape: Shape,
    split: str,
    seed: int,
    min_items: int = 2,
    unreadable: Unreadable = "stop",
) -> Dataset:
    """Split and decode the recordings of a manifest, or take them from the cache.

    Args:
        name: of the data set.
        files: the recordings.
        manifest: what they are.
        shape: how a recording becomes an item.
        split: see `manifest.placed`.
        seed: of the split.
        min_items: classes with fewer recordings are left out.
        unreadable: whether recordings that cannot be read are an error or left out.

    Raises:
        UserError: if they cannot be used; a DataError names each.
    """
    found = placed(manifest, split, seed, min_items)
    key = {
        "files": files.stamp,
        "placed": found.plain,
        "shape": shape,
        "unreadable": unreadable,
        "numpy": np.__version__,
    }

    def read(source: str) -> bytes:
        return files.read(source, LARGEST)

    return cached(name, key, lambda: sound_data(name, found, read, shape, unreadable, manifest.about, files.order))


def sound_data(
    name: str,
    found: Placed,
    read: Callable[[Any], bytes],
    shape: Shape,
    unreadable: Unreadable = "stop",
    about: Mapping[str, Any] | None = None,
    order: Mapping[Any, int] | None = None,
) -> Dataset:
    """Decode the recordings of a manifest.

    Args:
        name: of the data set.
        found: what is in each split.
        read: returns the contents of an entry's source; it raises a ValueError if that cannot be read.
        shape: how a recording becomes an item.
        unreadable: whether recordings that cannot be read are an error or left out.
        about: what was understood so far.
        order: see `decoding.decoded`.

    Raises:
        DataError: with each recording that cannot be read.
    """
    silent: dict[str, str] = {}
    rates: Counter[int] = Counter()
    lengths: list[float] = []

    def decode(source: Any) -> NDArray[Any]:
        content = read(source)
        mixed, _ = mixed_of(content, shape)
        rate, seconds = recorded(content)
        rates.update([rate])
        lengths.append(seconds)
        if np.abs(mixed).max() <= QUIET:
            silent[str(source)] = "is silent"
        elif np.ptp(mixed) <= QUIET:
            silent[str(source)] = "is silent: all its samples have the same value"
        return item_of(fitted(mixed, rate, shape), shape)

    dtype = np.float32 if shape.features == "raw" else np.uint8
    splits, findings = decoded(found, decode, shape.item, dtype, unreadable, order)
    quiet = [Finding(False, source, what) for source, what in sorted(silent.items())]
    about = {
        **(about or {}),
        "recordings": len(lengths),
        "sampling rates": {f"{rate} Hz": count for rate, count in rates.most_common()},
        "lengths": f"{min(lengths):.3g} to {max(lengths):.3g} s",
        "cut to length": sum(seconds > shape.seconds for seconds in lengths),
    }
    if max(rates) < shape.rate:
        told = f"is {shape.rate}, but the recordings have at most {max(rates)} samples a second: data.rate={max(rates)}"
        quiet.append(Finding(False, "data.rate", f"{told} loses nothing"))
    preprocessing = {**shape._asdict(), "window": WINDOW, "decibels": DECIBELS, "divide_by": ONE}
    if shape.features == "raw":
        preprocessing = {key: value for key, value in preprocessing.items() if key in ("rate", "seconds", "features")}
    return Dataset.of(
        name,
        found.protocol,
        splits,
        "audio",
        preprocessing,
        about=about,
        findings=(*found.findings, *findings, *quiet),
        cure=SKIP if any(finding.blocks for finding in findings) else "",
    )

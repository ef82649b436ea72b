"""The data set of the images of a manifest.

Legend: N items, C channels, P pixels per side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metalearn_cli.core.errors import Finding
from metalearn_cli.core.items import each
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.decoding import SKIP, Unreadable, decoded
from metalearn_cli.data.common.files import UNREADABLE
from metalearn_cli.data.common.manifest import Placed
from metalearn_cli.data.common.pixels import DEEPEST, ONE, Shape, has_deep_colours, item_of

BLACK, FLAT = 15, 3  # of 255: no brighter image, and no smaller range of values, shows anything
DEEP = 23  # of 255, BLACK for files of 16 bits: 12 of these bits have 15, and scaling may make a pixel brighter
_GRAY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")


def image_data(
    name: str,
    found: Placed,
    read: Callable[[Any], Image.Image],
    shape: Shape,
    unreadable: Unreadable = "stop",
    about: Mapping[str, Any] | None = None,
    order: Mapping[Any, int] | None = None,
) -> Dataset:
    """Decode the images of a manifest.

    Args:
        name: of the data set.
        found: what is in each split.
        read: returns the image of an entry's source; it raises a ValueError if that cannot be read.
        shape: how an image becomes an item.
        unreadable: whether images that cannot be read are an error or left out.
        about: what was understood so far.
        order: see `decoding.decoded`.

    Raises:
        DataError: with each image that cannot be read.
    """
    modes: Counter[str] = Counter()
    sizes: list[tuple[int, ...]] = []
    dark: list[Finding] = []
    bright: dict[str, int] = {}
    several: list[str] = []

    def decode(source: Any) -> NDArray[np.uint8]:
        image = read(source)
        mode, extent = image.mode, image.size
        deep = mode.startswith("I") or has_deep_colours(image)
        pixels, used = item_of(image, shape)
        if _has_more(image):
            several.append(str(source))
        if used > shape.bits:
            bright[str(source)] = used
        if told := _empty(pixels, deep and shape.bits == DEEPEST):
            dark.append(Finding(False, str(source), told))
        modes.update([mode])
        sizes.append(extent)
        return pixels

    item = (shape.channels or 3, shape.size, shape.size)
    splits, findings = decoded(found, decode, item, np.uint8, unreadable, order)
    gray = shape.channels is None and modes.keys() <= set(_GRAY)
    if gray:
        splits = {name: replace(split, items=each(_one_channel, split.items)) for name, split in splits.items()}
    told = {
        **(about or {}),
        "images": len(sizes),
        "modes": dict(modes.most_common()),
        "smallest": list(min(sizes, key=prod, default=())),
        "largest": list(max(sizes, key=prod, default=())),
    }
    return Dataset.of(
        name,
        found.protocol,
        splits,
        "image",
        _preprocessing(shape, 1 if gray else shape.channels or 3),
        about=told,
        findings=(*found.findings, *findings, *_clipped(bright, shape.bits), *_first_only(several), *sorted(dark)),
        cure=SKIP if any(finding.blocks for finding in findings) else "",
    )


def _clipped(bright: Mapping[str, int], bits: int) -> list[Finding]:
    """Return that images, by name and the bits that they use, have more bits than are read."""
    if not bright:
        return []
    most = max(bright.values())
    cure = f"data.bits={most}" if most <= DEEPEST else f"save them with {DEEPEST} bits a pixel"
    many = f"{len(bright)} image{'s use' if len(bright) > 1 else ' uses'} more bits and would become white there"
    return [Finding(True, "data.bits", f"is {bits}, but {many}; {cure}", tuple(sorted(bright)))]


def _first_only(several: Sequence[str]) -> list[Finding]:
    """Return that files, by name, hold more than the picture that is read."""
    if not several:
        return []
    many = "files hold" if len(several) > 1 else "file holds"
    told = f"{len(several)} {many} several pages or frames, of which the first is read; save each as a file of its own"
    return [Finding(False, "data.root", told, tuple(sorted(several)))]


def _empty(pixels: NDArray[np.uint8], deep: bool) -> str:
    """Return why an image shows nothing, or ""; `deep` says that its file has 16 bits and all are read."""
    if pixels.max() <= (limit := DEEP if deep else BLACK):
        told = f"is nearly black: no pixel is brighter than {limit} of {ONE}"
        return f"{told}; if its pixels have 10 or 12 bits, say so: data.bits=12" if deep else told
    return "is nearly of one colour" if np.ptp(pixels, (1, 2)).max() <= FLAT else ""


def _one_channel(items: Tensor) -> Tensor:
    return items[:, :1].contiguous()


def _preprocessing(shape: Shape, channels: int) -> dict[str, Any]:
    return {
        "channels": channels,
        "size": [shape.size, shape.size],
        "fit": shape.fit,
        "resampling": shape.resampling,
        "transparent": "white",
        "bits": shape.bits,
        "divide_by": ONE,
    }


def _has_more(image: Image.Image) -> bool:
    """Whether a file has more pages or frames than the first; the previews of a photograph are none."""
    try:
        return getattr(image, "is_animated", False) and image.format != "MPO"
    except UNREADABLE:  # what follows the first is damaged
        return False

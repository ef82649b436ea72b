"""What kind of files a learner reads, and how one becomes an item; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.data.common import pixels, waves
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.deploy.looks import of_recording


def kind_of(items: str, preprocessing: Mapping[str, Any]) -> str:
    """Return what files are read as: image, audio, text or table; "" if they cannot be.

    Args:
        items: the kind of the items, as in `Facts`.
        preprocessing: how a file becomes one.
    """
    known = {"image": ("size", "image"), "audio": ("rate", "audio"), "text": ("tokenizer", "text")}
    known |= {"vector": ("columns", "table")}
    needed, kind = known.get(items, ("", ""))
    return kind if needed in preprocessing else ""


def decoded(
    content: bytes, kind: str, preprocessing: Mapping[str, Any], most: int = pixels.MOST_PIXELS
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Return the content of a file of a picture or a recording as an item, and the looks of a recording.

    Args:
        content: of the file.
        kind: image or audio.
        preprocessing: how it becomes an item.
        most: pixels or samples that are decoded.

    Raises:
        TooLarge: if there are more.
        ValueError: if it cannot be read; its text goes after the name of the file.
        UserError: if a library is not installed.
    """
    if kind == "image":
        return pixels.as_before(pixels.opened(content, most), preprocessing), None
    shape = waves.shape_of(preprocessing)
    samples = waves.samples_of(content, shape, most)
    _, seconds = waves.recorded(content)
    return waves.item_of(samples, shape), of_recording(samples, shape.rate, seconds)


def floats(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return items as networks take them; bytes become numbers from 0 to 1."""
    found = np.ascontiguousarray(x, np.float32)
    return found / np.float32(ONE) if x.dtype == np.uint8 else found

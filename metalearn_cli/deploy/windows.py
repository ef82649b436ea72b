"""Overlapping windows of a picture, to replace one after the other; without torch.

Legend: M windows, H height, W width, L length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS = 7  # side by side in the height and in the width of a picture; as many again lie between them


def windows(height: int, width: int) -> NDArray[np.bool_]:
    """Return overlapping rectangles [M, H, W] that together cover a picture."""
    rows, columns = (_stretches(length) for length in (height, width))
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)


def spread(values: Any, parts: Any) -> Any:
    """Return for each place [H, W] the mean of the values [M] of the parts [M, H, W] that cover it.

    Args:
        values: an array or a tensor.
        parts: of the same type.
    """
    return (values[:, None, None] * parts).sum(0) / parts.sum(0)


def _stretches(length: int) -> NDArray[np.bool_]:
    """Return overlapping stretches [M, L] that together cover a length."""
    size = max(1, round(length / WINDOWS))
    starts = np.array(sorted({*range(0, length - size, max(1, size // 2)), length - size}))[:, None]
    places = np.arange(length)
    return (places >= starts) & (places < starts + size)

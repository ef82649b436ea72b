"""How an image becomes an item: plain values stored with a checkpoint, to treat other images in the same way."""

from __future__ import annotations

from typing import Any

from metalearn_cli.data.common.splits import ONE


def drawing(pixels: int) -> dict[str, Any]:
    """Return the preprocessing of a drawing that becomes an item [1, P, P] with values in [0, 1].

    Args:
        pixels: height and width P of the item.

    Returns:
        `channels`; `size`, height and width; `resampling`, where box means that each pixel is the mean of those it
        covers; `polarity`, which of ink and paper is 1; `divide_by`, which scales the pixels of a file to [0, 1].
    """
    return {
        "channels": 1,
        "size": [pixels, pixels],
        "resampling": "box",
        "polarity": "ink 1 on 0",
        "divide_by": ONE,
    }

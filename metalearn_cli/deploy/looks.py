"""How items look, to name those that are unlike the examples: a learner's answers on such ones are worse; no torch.

Legend: N items, S examples, M measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.errors import LISTED

_EXTREME = 0.01  # the share of pixels that are the darkest, and of those that are the brightest, of a picture
_SILENT = 1e-5  # loudness of silence, of 1


class Measure(NamedTuple):
    """A number of an item, and how far beyond those of all examples it may be.

    Attributes:
        below: what an item is whose number is too small.
        above: what one is whose number is too large.
        room: what is added.
        factor: what is multiplied by.
    """

    below: str
    above: str
    room: float = 0.0
    factor: float = 1.0


_LENGTH = Measure("shorter", "longer", factor=2.0)
MEASURES = {
    "image": (Measure("darker", "brighter", room=0.1), Measure("less contrast", "more contrast", factor=1.5)),
    "text": (_LENGTH,),
    "audio": (_LENGTH, Measure("quieter", "louder", room=10.0)),
}
"""The measures of each kind of items: brightness and contrast, letters, seconds and decibels."""


def looks_of(x: NDArray[np.float32], kind: str, values: Any) -> NDArray[np.float32] | None:
    """Return the brightness and the contrast [N, 2] of pictures; None of other items, which do not show their own.

    Args:
        x: the items [N, ...].
        kind: of the items, as in `Facts`.
        values: of the items, as in `Facts`.
    """
    if kind != "image" or values != "unit":
        return None
    flat = np.sort(x.reshape(len(x), -1))
    few = max(1, round(_EXTREME * flat.shape[1]))
    contrast = flat[:, -few] - flat[:, few - 1]  # a thin drawing has as much as a bold one
    return np.stack([flat.mean(1), contrast], 1)


def of_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the number of letters [N, 1] of texts, also of those that an item does not hold."""
    return np.array([[len(text)] for text in texts], np.float32)


def of_recording(samples: NDArray[Any], rate: int, seconds: float) -> tuple[float, float]:
    """Return the length and the loudness of a recording.

    Args:
        samples: its beginning, perhaps padded with silence.
        rate: of these, per second.
        seconds: that the whole of it lasts.
    """
    heard = samples[: math.ceil(rate * seconds)]
    return seconds, 20 * math.log10(max(float(np.sqrt(np.square(heard).mean())), _SILENT))


def unlike(kind: str, examples: NDArray[Any], found: NDArray[Any], names: Sequence[str]) -> list[str]:
    """Return in which ways some items are unlike the examples, each with their names; see `ways_of`."""
    return [f"{way}: {_listed(names, which)}" for way, which in ways_of(kind, examples, found).items()]


def ways_of(kind: str, examples: NDArray[Any], found: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return in which ways some items are unlike the examples, and which [N] are so.

    Args:
        kind: of the items.
        examples: the measures of the examples [S, M].
        found: those of the items [N, M].
    """
    ways: dict[str, NDArray[np.bool_]] = {}
    for measure, own, x in zip(MEASURES[kind], examples.T, found.T, strict=True):
        low, high = own.min() / measure.factor - measure.room, own.max() * measure.factor + measure.room
        below, above = x < low, x > high
        if measure.below == "darker":
            turned = (below | above) & (1 - x >= low) & (1 - x <= high)
            ways["dark and bright are exchanged"] = turned
            below, above = below & ~turned, above & ~turned
        ways |= {measure.below: below, measure.above: above}
    return {way: which for way, which in ways.items() if which.any()}


def _listed(names: Sequence[str], which: NDArray[np.bool_]) -> str:
    own = [name for name, chosen in zip(names, which.tolist(), strict=True) if chosen]
    more = f" and {len(own) - LISTED} more" if len(own) > LISTED else ""
    return f"{', '.join(own[:LISTED])}{more}"

"""How pictures look, to name those that are unlike the examples: a learner's answers on such ones are worse.

Legend: N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metalearn_cli.core.errors import LISTED
from metalearn_cli.core.items import Facts

ROOM = 0.1  # of brightness beyond that of all examples
FACTOR = 2.0  # of contrast below the smallest, or above the largest, of the examples


def looks_of(x: Tensor, facts: Facts) -> Tensor | None:
    """Return the brightness and the contrast [N, 2] of pictures; None of other items."""
    if facts.kind != "image" or facts.values != "unit":
        return None
    flat = x.flatten(1)
    return torch.stack([flat.mean(1), flat.std(1)], 1)


def unlike(examples: Tensor, found: Tensor, names: Sequence[str]) -> list[str]:
    """Return in which ways some pictures are unlike the examples, each with their names.

    Args:
        examples: brightness and contrast of the examples [S, 2].
        found: those of the pictures [N, 2].
        names: of the pictures.
    """
    (dark, flat), (bright, rich) = examples.amin(0), examples.amax(0)
    brightness, contrast = found.T
    outside = (brightness < dark - ROOM) | (brightness > bright + ROOM)
    turned = outside & (1 - brightness >= dark - ROOM) & (1 - brightness <= bright + ROOM)
    ways = {
        "dark and bright are exchanged": turned,
        "darker": (brightness < dark - ROOM) & ~turned,
        "brighter": (brightness > bright + ROOM) & ~turned,
        "less contrast": contrast < flat / FACTOR,
        "more contrast": contrast > rich * FACTOR,
    }
    return [f"{way}: {_listed(names, which)}" for way, which in ways.items() if which.any()]


def _listed(names: Sequence[str], which: Tensor) -> str:
    own = [name for name, chosen in zip(names, which.tolist(), strict=True) if chosen]
    more = f" and {len(own) - LISTED} more" if len(own) > LISTED else ""
    return f"{', '.join(own[:LISTED])}{more}"

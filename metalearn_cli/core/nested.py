"""Settings within settings, as flat pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted key; an empty group is a value.

    >>> dict(leaves({"optimizer": {"lr": 0.1}, "steps": 5}))
    {'optimizer.lr': 0.1, 'steps': 5}

    Args:
        values: the settings.
        prefix: what begins every key.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def within(flat: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Return the pairs of a group, with the keys that they have in it.

    >>> within({"optimizer.lr": 0.1, "steps": 5}, "optimizer")
    {'lr': 0.1}
    """
    own = f"{group}."
    return {key.removeprefix(own): value for key, value in flat.items() if key.startswith(own)}

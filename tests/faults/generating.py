"""How bad input is generated."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings


def generated(count: int) -> Any:
    """Return hypothesis' settings for `count` examples, the same ones each time."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # what failed is told as it was drawn: to shrink it would take longer than to read it
        suppress_health_check=list(HealthCheck),
    )

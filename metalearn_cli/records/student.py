"""Student's distribution, apart from the intervals that use it, because it needs no torch."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np


@lru_cache(maxsize=256)
def student_t(freedom: float) -> float:
    """Return t such that 95 % of Student's distribution is between -t and t.

    Args:
        freedom: degrees of freedom, >= 1; not necessarily a whole number.

    Examples:
        >>> round(student_t(1), 3), round(student_t(999), 3)
        (12.706, 1.962)
    """
    if freedom > 1e4:
        return 1.96
    angle, within = student(freedom)
    return float(math.sqrt(freedom) * math.tan(np.interp(0.95, within, angle)))


@lru_cache(maxsize=16)
def student(freedom: float) -> tuple[Any, Any]:
    """Return angles a, and how much of Student's distribution is between -t and t with t = sqrt(freedom) * tan(a)."""
    # the density of a is that of cos(a) ** (freedom - 1)
    angle = np.linspace(0, math.pi / 2, 40_001)
    density = np.cos(angle) ** (freedom - 1)
    within = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return angle, within / within[-1]

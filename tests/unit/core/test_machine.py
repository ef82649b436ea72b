"""How long a call takes, whatever else the machine does meanwhile."""

from __future__ import annotations

import itertools

import pytest

from metalearn_cli.core import machine
from metalearn_cli.core.machine import median_seconds


def test_the_median_of_the_later_calls_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [100.0] * 5 + [1.0, 50.0, 2.0, 3.0, 60.0]  # the first calls warm up, two others are disturbed
    moments = itertools.accumulate(seconds for own in took for seconds in (0.0, own))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(moments))
    calls: list[int] = []
    assert median_seconds(lambda: calls.append(1), calls=5) == pytest.approx(3.0)
    assert len(calls) == 10

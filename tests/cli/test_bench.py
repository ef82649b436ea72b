"""`mlx doctor --bench`."""

from __future__ import annotations

import json

import pytest

from metalearn_cli.cli import bench


@pytest.mark.medium
def test_measures_every_way_and_every_precision(mlx, monkeypatch):
    small = {"tasks": 2, "hidden": 2}
    monkeypatch.setattr(bench, "measure", lambda measure=bench.measure: measure(**small))
    monkeypatch.setattr(bench, "tune", lambda: None)
    monkeypatch.setattr(bench, "TURNS", 1)
    monkeypatch.setattr(bench, "QUERY", 3)
    found = json.loads(mlx("doctor", "--bench", "--json").out)
    ways, precisions = (lines for heading, lines in found.items() if ": " in heading)
    assert ways.keys() == {"auto", "loop", "threads", "groups", "vmap"}
    assert all(" ms, " in line for line in ways.values())
    assert precisions["64-true"].endswith("error 0.0e+00")
    assert 0 < float(precisions["32-true"].split()[-1]) < float(precisions["bf16-mixed"].split()[-1])
    assert precisions["16-mixed"].startswith("not possible here: 16-mixed on cpu")

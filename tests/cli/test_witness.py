"""The numbers of small trainings are those that scripts/witness.json remembers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_the_numbers_are_those_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    witness = importlib.import_module("witness")
    record = json.loads(witness.RECORD.read_text())
    found = witness.testimony()
    if witness.machine() == record["machine"]:
        assert found == record["testimony"]
    for now, then in zip(found, record["testimony"], strict=True):  # other machines round otherwise
        assert now["name"] == then["name"]
        assert now["loss"] == pytest.approx(then["loss"], rel=1e-2, abs=0.1 if then["name"].startswith("run") else 0)

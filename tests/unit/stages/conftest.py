"""What the tests of stages share."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn_cli import stages
from metalearn_cli.core import plugins
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Items, Kind, each
from metalearn_cli.core.random import seeded
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint, read_tensors
from metalearn_cli.stages import session
from metalearn_cli.stages.preparing import Prepared, prepare


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Return a function that gives every stage, in place of the data it asks for, items [3 * 60, ...] of a kind."""

    def give(items: Items, kind: Kind, vocabulary: int | dict[str, int] = 0, tokenizer: str = "") -> Dataset:
        thirds = {s: each(lambda t, i=i: t[60 * i : 60 * (i + 1)], items) for i, s in enumerate(SPLITS)}  # type: ignore[misc]
        names = {s: tuple(f"{s}{k}" for k in range(6)) for s in SPLITS}
        splits = {s: Split(thirds[s], torch.full((6,), 10), names[s]) for s in SPLITS}
        data = Dataset.of(f"{kind}s", "any", splits, kind, {"tokenizer": tokenizer}, vocabulary)
        monkeypatch.setattr(session, "_loaded", lambda spec: data)
        return data

    return give


@pytest.fixture
def images(given: Callable[..., Dataset]) -> Dataset:
    """Give every stage small random images in place of the data it asks for."""
    with seeded(0):
        return given(torch.randint(0, 256, (3 * 60, 1, 16, 16), dtype=torch.uint8), "image")


@pytest.fixture
def go(config: Callable[..., Any], said: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a stage with the given changes."""
    return lambda stage, **changes: stages.run(stage, config(stage, **changes), said)


@pytest.fixture
def interrupted(
    config: Callable[..., Any], said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that begins a stage, stops it by SIGINT in step `stop`, and gives the run's folder."""

    def begin(stage: str, stop: int = 2, **changes: Any) -> str:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(said, "advance", lambda step: os.kill(os.getpid(), signal.SIGINT) if step == stop else None)
            stages.run(stage, config(stage, **changes), said)
        folder: str = runs.list_runs(str(tmp_path / "runs"))[0]["folder"]
        return folder

    return begin


@pytest.fixture
def ready(config: Callable[..., Any]) -> Callable[..., Prepared]:
    """Return a function that prepares a training stage with the given changes."""
    return lambda stage, **changes: prepare(stage, config(stage, **changes), stages.JOBS[stage], session.Session())


@pytest.fixture
def refused(config: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that gives the problems of a stage by key, and sees that nothing was written."""

    def problems(stage: str, **changes: Any) -> dict[str, str]:
        before = sorted(tmp_path.rglob("*"))
        found = []
        for call in (stages.check, lambda *args: stages.run(*args, None)):  # type: ignore[arg-type]
            with pytest.raises(ConfigError) as caught:
                call(stage, config(stage, **changes))
            found.append({problem.key: problem.message for problem in caught.value.problems})
        assert sorted(tmp_path.rglob("*")) == before
        assert found[0] == found[1]
        return found[0]

    return problems


@pytest.fixture
def tensors() -> Callable[[Any], dict[str, torch.Tensor]]:
    """Return a function from a finished run, or a checkpoint's folder, to its tensors."""
    return lambda run: read_tensors(open_checkpoint(Path(run["checkpoint"] if isinstance(run, dict) else run)))


@pytest.fixture
def manifest() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function from a finished run to the manifest of its best checkpoint."""
    return lambda run: json.loads((Path(run["checkpoint"]) / "manifest.json").read_text())


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the packages tests/probes and tests/pieces taken for plug-ins that are installed."""
    monkeypatch.setattr(plugins, "packages", lambda: ("pieces", "probes"))

"""One way to run a command line in the test's own process."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hydra.core.global_hydra import GlobalHydra

from metalearn_cli.cli.main import main


class Answer(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def mlx(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Iterator[Callable[..., Answer]]:
    """Run `mlx` with the given words, in an empty folder; what Hydra keeps globally is put back."""
    monkeypatch.chdir(tmp_path)
    handlers = logging.getLogger().handlers[:]

    def call(*words: str) -> Answer:
        try:
            code = main(words)
        finally:
            GlobalHydra.instance().clear()
        return Answer(code, *capsys.readouterr())

    yield call
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Put something quick in place of the stages; gives the list of (stage, settings) that were run."""
    from metalearn_cli import stages

    calls: list[tuple[str, Any]] = []

    def run(name: str, config: Any, reporter: Any, **facts: Any) -> dict[str, Any]:
        calls.append((name, config))
        reporter.start(name, f"runs/{name}/id-{len(calls)}", 0, 2)
        reporter.metrics(1, {"train/loss": 0.5, "train/lr": 0.1})
        info = {
            "id": f"id-{len(calls)}",
            "stage": name,
            "status": "completed",
            "seconds": 61.0,
            "steps": 2,
            "parent": None,
            "metric": {"name": "val/accuracy", "value": 0.5, "interval": 0.01, "step": 2},
            **facts,
        }
        reporter.finish(info)
        return info

    monkeypatch.setattr(stages, "run", run)
    return calls

"""Something quick in place of the stages."""

from typing import Any

import pytest


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

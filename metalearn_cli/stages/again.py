"""Reuse earlier runs: skip what is done, resume what was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.types import Reporter
from metalearn_cli.records import runs
from metalearn_cli.stages.evaluate import evaluate
from metalearn_cli.stages.evaluation import Evaluation
from metalearn_cli.stages.preparing import Prepared
from metalearn_cli.stages.scores import check_scores
from metalearn_cli.stages.session import Session
from metalearn_cli.stages.training import train


def trained(prepared: Prepared, session: Session, reporter: Reporter, wait: float = 0, **facts: Any) -> dict[str, Any]:
    """Return the completed run of a stage: an existing one, a resumed one, or a new one with these facts."""
    stage = prepared.stage
    found = _found(stage, prepared.key, prepared.config.runs_dir, wait)
    if found and found["status"] == "completed":
        folder = Path(found["folder"]) / "checkpoints" / str(found.get("best"))
        try:
            session.checkpoint(folder)
            runs.read_config(Path(found["folder"]))
        except UserError as error:
            reporter.note(f"{stage}: {error}; it is retrained")
            return train(prepared, session, reporter, **facts)
        reporter.note(f"{stage}: already done with these settings and inputs in {found['folder']}, skipped")
        return {**found, "checkpoint": str(folder)}
    return train(prepared, session, reporter, runs.reopen(Path(found["folder"])) if found else None, **facts)


def evaluated(evaluation: Evaluation, reporter: Reporter, wait: float = 0, **facts: Any) -> dict[str, Any]:
    """Return the completed evaluation: an existing one, or a new one with these facts."""
    found = _found("evaluate", evaluation.key, evaluation.config.runs_dir, wait)
    if found and found["status"] == "completed":
        try:
            check_scores(found, evaluation.config.episodes)
            runs.read_config(Path(found["folder"]))
        except UserError as error:
            reporter.note(f"evaluate: {error}; it is re-evaluated")
            return evaluate(evaluation, reporter, **facts)
        reporter.note(f"evaluate: already done with these settings and inputs in {found['folder']}, skipped")
        return found
    return evaluate(evaluation, reporter, runs.reopen(Path(found["folder"])) if found else None, **facts)


def all_of(stage: str, key: str, runs_dir: str, wait: float) -> list[dict[str, Any]]:
    """Return the runs of some work, newest first; if none is complete, wait until no process works on them.

    Args:
        stage: the command.
        key: identifies the work.
        runs_dir: the folder of all runs.
        wait: seconds to wait for a run that is in use by another process.

    Raises:
        InUseError: if one is still in use then.
    """

    def listed() -> list[dict[str, Any]]:
        return [info for info in runs.list_runs(runs_dir) if info["stage"] == stage and info.get("key") == key]

    same = listed()
    if not same or any(info["status"] == "completed" for info in same):
        return same
    for info in same:
        runs.wait_for(Path(info["folder"]), wait)
    return listed()


def _found(stage: str, key: str, runs_dir: str, wait: float) -> dict[str, Any] | None:
    """Return the newest completed run of this work, else its newest run, else None."""
    same = all_of(stage, key, runs_dir, wait)
    return next((info for info in same if info["status"] == "completed"), same[0] if same else None)

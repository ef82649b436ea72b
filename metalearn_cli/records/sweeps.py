"""What a sweep leaves: its results in `runs/sweeps/<sweep>/`, the output of its jobs in `runs/sweeps/jobs/<job>/`.

A sweep has no other state: whether a job is done, its run says. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import io
import math
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records.runs import beside_of, read_json, write_json, write_text
from metalearn_cli.records.shapes import SWEEP, misshapen

RESULTS = "results.json"
OF_JOB = ("MLX_SWEEP_ID", "MLX_JOB_ID")
"""The variables that tell a process which job of which sweep it is."""

_OF_RUN = ("id", "stage", "status", "seconds", "metric", "scores")


class Outcome(NamedTuple):
    """What came of one job.

    Attributes:
        settings: those in which the jobs of the sweep differ, as they are typed.
        status: completed, pruned, refused, failed (of a disk), crashed, diverged, in use, killed, interrupted or
            not begun.
        error: why it is not completed, in a sentence.
        code: its exit code.
        folder: that of its run, or "" if it had none yet.
        run: its run.json, if it is completed; in a search with `scores`, the values of all objectives.
    """

    settings: dict[str, str]
    status: str = "completed"
    error: str = ""
    code: int = 0
    folder: str = ""
    run: dict[str, Any] | None = None


def folder_of(runs_dir: str, sweep: str) -> Path:
    """Return the folder of a sweep."""
    return Path(runs_dir) / "sweeps" / sweep


def folder_of_job(runs_dir: str, job: str) -> Path:
    """Return the folder of a job, which all sweeps that have this job share."""
    return Path(runs_dir) / "sweeps" / "jobs" / job


def write(folder: Path, facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write what a sweep has come to so far.

    Args:
        folder: the sweep's.
        facts: its id, stage and command.
        outcomes: of its jobs, in their order.
    """
    jobs = [
        outcome._asdict() | {"run": {key: outcome.run.get(key) for key in _OF_RUN} if outcome.run else None}
        for outcome in outcomes
    ]
    write_json(folder / RESULTS, {**facts, "jobs": jobs, "table": table(outcomes)})
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.settings))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*names, "status", "metric", "value", "interval", "seconds", "run", "folder", "error"])
    for outcome in outcomes:
        run = outcome.run or {}
        metric = run.get("metric") or {}
        measured = [metric.get("name"), metric.get("value"), metric.get("interval"), run.get("seconds"), run.get("id")]
        own = [outcome.settings.get(name) for name in names]
        lines.writerow([*own, outcome.status, *measured, outcome.folder, outcome.error])
    write_text(folder / "results.csv", text.getvalue())


def read(runs_dir: str, sweep: str) -> list[Outcome] | None:
    """Return the outcomes of a sweep's jobs; None if no sweep with this id is recorded here.

    Raises:
        UserError: if its record is damaged.
    """
    if (found := _record(runs_dir, sweep)) is None:
        return None
    return [Outcome(*(job.get(field) for field in Outcome._fields)) for job in found["jobs"]]


def command_of(runs_dir: str, sweep: str) -> str | None:
    """Return the command of a sweep; None if no sweep with this id is recorded here.

    Raises:
        UserError: if its record is damaged.
    """
    return (_record(runs_dir, sweep) or {}).get("command")


def pruned(runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return which of some runs a search has stopped early: their ids, each with how far it came."""
    stopped = {run["id"]: run for run in runs if run["status"] == "interrupted" and run.get("sweep")}
    told: dict[str, str] = {}
    for runs_dir, sweep in {(beside_of(Path(run["folder"])), run["sweep"]) for run in stopped.values()}:
        with suppress(UserError):  # nobody knows it then
            jobs = read(runs_dir, sweep) or ()
            told |= {Path(job.folder).name: job.error for job in jobs if job.status == "pruned"}
    return {name: why for name, why in told.items() if name in stopped}


def _record(runs_dir: str, sweep: str) -> dict[str, Any] | None:
    path = folder_of(runs_dir, sweep) / RESULTS
    if not sweep.isalnum() or not path.is_file():
        return None
    found = read_json(path)
    if wrong := misshapen(found, SWEEP):
        raise UserError(f"{path} is damaged: {wrong}")
    return found


def discard(folder: Path, *jobs: Path) -> None:
    """Remove the folders of a sweep in which nothing was begun and of its jobs, and those above that are empty then."""
    for own in (*jobs, folder):
        shutil.rmtree(own, ignore_errors=True)
    for above in dict.fromkeys(above for own in (*jobs, folder) for above in list(own.parents)[:3]):
        with suppress(OSError):
            above.rmdir()


def table(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each point of a sweep, the best first: the mean over its seeds.

    With several objectives, those come first to which no other point is superior in all of them.

    Returns:
        Rows with `settings` (without the seed), the `seeds` and `runs` that are completed, `name` and `value` of the
        metric, its `normalisation`, its `interval`, and `over`, what that is an interval over: seeds or episodes. Of
        a single run also `interval_trainings`, which a chain over several seeds has. In a search also `scores`, the
        values of all objectives; with several of them `best`, whether no other point is superior in all.
    """
    points: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.run:
            own = tuple((key, value) for key, value in outcome.settings.items() if key != "seed")
            points.setdefault(own, []).append(outcome)
    rows = sorted((_row(dict(own), found) for own, found in points.items()), key=_rank)
    for row in rows:
        if len(row.get("scores", ())) > 1:
            row["best"] = not any(_superior(other, row) for other in rows)
    return sorted(rows, key=lambda row: not row.get("best", True))


def _row(settings: dict[str, str], found: Sequence[Outcome]) -> dict[str, Any]:
    runs = [outcome.run for outcome in found if outcome.run]
    metrics = [run.get("metric") or {"name": "", "value": None} for run in runs]
    values = [metric["value"] for metric in metrics]
    known = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    interval, over = metrics[0].get("interval"), "episodes"
    if len(values) > 1:
        interval, over = None, "seeds"
        if known:
            from metalearn_cli.records.student import student_t  # with numpy, which most users of this module need not

            interval = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {
        "settings": settings,
        "seeds": [outcome.settings["seed"] for outcome in found if "seed" in outcome.settings],
        "runs": [run.get("id") for run in runs],
        "name": metrics[0]["name"],
        "normalisation": metrics[0].get("normalisation", "none"),
        "value": math.fsum(values) / len(values) if known else None,
        "interval": interval,
        "over": over,
        **({"interval_trainings": metrics[0].get("interval_trainings")} if len(values) == 1 else {}),
        **({"scores": scores} if (scores := runs[0].get("scores")) else {}),
    }


def _superior(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one of two points with several objectives is as good as the other in all of them, and better in one."""
    pairs = zip(row["scores"], other["scores"], strict=True)
    ranks = [(_rank(mine), _rank(its)) for mine, its in pairs]
    return all(mine <= its for mine, its in ranks) and any(mine < its for mine, its in ranks)


def _rank(row: Mapping[str, Any]) -> tuple[str, bool, float]:
    """Order by the metric, the best first and what is not finite last; different metrics are not compared."""
    value = row["value"]
    if value is None:
        return row["name"], True, 0.0
    return row["name"], False, -value if metric_named(row["name"]).higher_is_better else value

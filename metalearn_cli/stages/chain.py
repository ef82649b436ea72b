"""`mlx run`: the training stages one after the other, then one table of what each of them was worth.

Stages that are already done with the same settings and inputs are skipped, an interrupted one goes on: the chain has no
state of its own besides the runs of its stages.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.core.config import ChainConfig, EvaluateConfig, Training, digest, plain
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Reporter
from metalearn_cli.records import runs
from metalearn_cli.records.metrics import interval
from metalearn_cli.stages.evaluate import evaluate, prepare_evaluation, read_episodes
from metalearn_cli.stages.preparing import MakeJob, prepare
from metalearn_cli.stages.session import Session
from metalearn_cli.stages.training import train


def run_chain(
    config: ChainConfig, make_jobs: dict[str, MakeJob], session: Session, reporter: Reporter, **facts: Any
) -> dict[str, Any]:
    """Run the chain.

    Args:
        config: the settings of all its stages.
        make_jobs: what each training stage trains.
        session: what the stages share.
        reporter: told what happens.
        facts: more entries for run.json.

    Returns:
        The chain's run.json; `table` has one row per stage and protocol, see `_table`.
    """
    values = plain(config)
    values.pop("runs_dir")
    key, began = digest(values), time.monotonic()
    same = [info for info in runs.list_runs(config.runs_dir) if info["stage"] == "run" and info.get("key") == key]
    check_chain(config, make_jobs, session)
    # what `latest` meant when the chain began is what it means when the chain is repeated
    starts = (same[0].get("starts") if same else None) or _starts(config)
    if same:
        run = runs.reopen(Path(same[0]["folder"]), starts=starts)
    else:
        run = runs.create(config.runs_dir, "run", plain(config), key=key, parent=None, starts=starts, **facts)
    try:
        evaluations = [("nothing", _evaluated(_scoring(config, None), session, reporter))]
        start = None
        for stage in config.stages:
            pinned: dict[str, Any] = {**starts.get(stage, {}), **({"init_from": start} if start else {})}
            settings = replace(config.training[stage], **pinned)
            info = _trained(stage, settings, make_jobs[stage], session, reporter)
            start = info["checkpoint"]
            run.update(parent=session.checkpoint(Path(start)).parent_entry)
            evaluations.append((stage, _evaluated(_scoring(config, start), session, reporter)))
        table = _table(evaluations)
        run.update(
            status="completed",
            finished_at=runs.now(),
            seconds=run.info.get("seconds", 0.0) + time.monotonic() - began,
            data=evaluations[-1][1]["data"],
            metric=evaluations[-1][1]["metric"],
            table=table,
        )
        reporter.finish(run.info)
        return {**run.info, "folder": str(run.folder), "checkpoint": start}
    except BaseException as error:
        run.fail(error)
        raise
    finally:
        run.close()


def _starts(config: ChainConfig) -> dict[str, dict[str, str]]:
    """Return the checkpoints that the stages' settings name, as paths: where the first one starts, and teachers."""
    found: dict[str, dict[str, str]] = {}
    for stage, settings in config.training.items():
        named = {"teacher": getattr(settings, "teacher", None)}
        if stage == config.stages[0]:
            named["init_from"] = settings.init_from
        for setting, name in named.items():
            if name is not None:
                folder = runs.find_checkpoint(name, config.runs_dir, TABLE[stage].accepts, setting)
                found.setdefault(stage, {})[setting] = str(folder)
    return found


def check_chain(config: ChainConfig, make_jobs: dict[str, MakeJob], session: Session) -> list[str]:
    """Build and check what every stage needs, so that the last one's mistakes show before the first one begins.

    Returns:
        Lines that say what the stages would run on and start from.

    Raises:
        ConfigError: as `prepare` and `prepare_evaluation` do.
    """
    notes = list(prepare_evaluation(_scoring(config, None), session).notes)
    for stage, settings in config.training.items():
        first = stage == config.stages[0]
        try:
            prepared = prepare(
                stage, settings if first else replace(settings, init_from=None), make_jobs[stage], session
            )
        except ConfigError as error:
            own = TABLE[stage].section
            named = [
                p if p.key.split(".")[0] in config.shared else p._replace(key=f"{own}.{p.key}") for p in error.problems
            ]
            raise ConfigError(named) from error
        notes += prepared.notes
        if (way := prepared.job.model.get("way")) not in (None, config.evaluate.way):
            message = f"must be {way}, the outputs of the head that {stage} trains, got {config.evaluate.way}"
            raise ConfigError([Problem("evaluate.way", message)])
    return notes


def _scoring(config: ChainConfig, ckpt: str | None) -> EvaluateConfig:
    """Return how a checkpoint, or the untrained backbone, is evaluated: always on the same episodes."""
    first = config.training[config.stages[0]]
    backbone, data = None if ckpt else first.backbone, config.evaluate.data or first.data
    return replace(config.evaluate, ckpt=ckpt, backbone=backbone, data=data, algorithm=None)


def _trained(stage: str, settings: Training, make_job: MakeJob, session: Session, reporter: Reporter) -> dict[str, Any]:
    """Return the completed run of a stage: one that is there, one that goes on, or a new one."""
    prepared = prepare(stage, settings, make_job, session)
    found = _found(stage, prepared.key, settings.runs_dir)
    if found and found["status"] == "completed":
        folder = Path(found["folder"]) / "checkpoints" / found["best"]
        try:
            session.checkpoint(folder)
        except UserError as error:
            reporter.note(f"{stage}: {error}; it is trained again")
            return train(prepared, session, reporter)
        reporter.note(f"{stage}: already done with these settings and inputs in {found['folder']}, skipped")
        return {**found, "checkpoint": str(folder)}
    return train(prepared, session, reporter, runs.reopen(Path(found["folder"])) if found else None)


def _evaluated(settings: EvaluateConfig, session: Session, reporter: Reporter) -> dict[str, Any]:
    """Return the completed evaluation: one that is there, or a new one."""
    evaluation = prepare_evaluation(settings, session)
    found = _found("evaluate", evaluation.key, settings.runs_dir)
    if found and found["status"] == "completed":
        reporter.note(f"evaluate: already done with these settings and inputs in {found['folder']}, skipped")
        return found
    return evaluate(evaluation, reporter, runs.reopen(Path(found["folder"])) if found else None)


def _found(stage: str, key: str, runs_dir: str) -> dict[str, Any] | None:
    """Return the newest run that did, or began, this work; a completed one before any other."""
    same = [info for info in runs.list_runs(runs_dir) if info["stage"] == stage and info.get("key") == key]
    return next((info for info in same if info["status"] == "completed"), same[0] if same else None)


def _table(evaluations: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row per stage and protocol: its score, and what it gained over the stage before, on the same episodes.

    A gain is positive where the stage helped, also for errors, of which less is better; its interval is that of the
    mean of the differences episode by episode.
    """
    rows = []
    before: dict[str, torch.Tensor] = {}
    for stage, info in evaluations:
        episodes = read_episodes(Path(info["folder"]))
        scores = {name: torch.tensor(values, dtype=torch.float64) for name, values in episodes.items()}
        for result in info["results"]:
            protocol = result["normalisation"]
            gain: tuple[float | None, float | None] = (None, None)
            if before:
                sign = 1 if metric_named(result["name"]).higher_is_better else -1
                gain = interval(sign * (scores[protocol] - before[protocol]))
            rows.append({"after": stage, **result, "gain": gain[0], "gain_interval": gain[1]})
        before = scores
    return rows

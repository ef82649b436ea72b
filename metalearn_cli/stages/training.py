"""What the training stages share from the first step on: a run's folder, the one loop, and the record of both."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.core.config import plain
from metalearn_cli.core.errors import NonFiniteError, UserError
from metalearn_cli.core.types import Reporter
from metalearn_cli.engine.loop import Ahead, Memory, fit
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import (
    Checkpoints,
    load_into,
    open_checkpoint,
    read_tensors,
)
from metalearn_cli.records.metrics import Recorder, read_metrics
from metalearn_cli.records.plots import learning_curves
from metalearn_cli.stages.preparing import Prepared, enough_memory, misfit, take_up

log = logging.getLogger("metalearn_cli")


def train(prepared: Prepared, reporter: Reporter, run: runs.Run | None = None, **facts: Any) -> dict[str, Any]:
    """Train to the end, in a new run folder or, given one, from its newest checkpoint.

    Args:
        prepared: what to do.
        reporter: told what happens.
        run: the interrupted run to go on with.
        facts: more entries for a new run's run.json.

    Returns:
        The finished run's run.json.
    """
    config, job, stage = prepared.config, prepared.job, prepared.stage
    parent = prepared.parent.parent_entry if prepared.parent else None
    if run is None:
        facts |= {"key": prepared.key, "parent": parent, "data": job.data, "steps": config.steps}
        # what `latest` meant today is what a later `resume` starts from
        pinned = replace(config, init_from=str(prepared.parent.folder) if prepared.parent else None)
        run = runs.create(config.runs_dir, stage, plain(pinned), **facts)
    try:
        with _logging_to(run.folder / "mlx.log"):
            try:
                with enough_memory(stage, config):
                    return _train(prepared, reporter, run)
            except BaseException as error:
                run.fail(error)
                known = isinstance(error, KeyboardInterrupt | UserError)
                log.error("%s: %s", run.info["status"], error, exc_info=not known)
                raise
    finally:
        run.close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Within a block, write the package's log to a file, too."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short: what ends the run then is a result that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Give up what cannot be written."""
        with suppress(OSError):
            super().close()


def _train(prepared: Prepared, reporter: Reporter, run: runs.Run) -> dict[str, Any]:
    config, job, stage = prepared.config, prepared.job, prepared.stage
    began = time.monotonic() - (run.info.get("seconds") or 0.0)
    params, (optimizer, scheduler) = job.params, prepared.optimizer()
    facts = {
        "run": run.info["id"],
        "stage": stage,
        "model": job.model,
        "data": job.data,
        "parent": run.info.get("parent"),
        "config_hash": run.info["key"],
    }
    checkpoints = Checkpoints(run.folder, config.keep, job.metric, job.higher_is_better, facts)
    memory = Memory()
    start = 0
    if found := checkpoints.newest():
        newest, state = found
        start = newest.manifest["step"]
        stored, _ = load_into(params, newest, "")
        with torch.no_grad():
            for name, tensor in stored.items():
                params[name].copy_(tensor)
        if wrong := misfit(optimizer, state["optimizer"]):
            raise UserError(f"{newest.folder} cannot be gone on with: {wrong}")
        take_up(optimizer, scheduler, state["optimizer"], start)
        memory = Memory(**state["memory"])
        prepared = replace(prepared, notes=(*prepared.notes, f"goes on after step {start} of {config.steps}"))
        run.update(**checkpoints.summary(start))  # which a killed process may not have come to
    checkpoints.tidy()
    run.update(status="running", pid=os.getpid())
    reporter.start(stage, str(run.folder), start, config.steps)
    for note in prepared.notes:
        log.info(note)
        reporter.note(note)
    record = Recorder(run.folder, reporter, start)

    def save(step: int, metrics: dict[str, float]) -> None:
        record.sync()  # a checkpoint answers for every line up to its step
        state = {"optimizer": optimizer.state_dict()["state"], "memory": asdict(memory)}
        checkpoints.save(step, params, state, metrics)
        run.update(**checkpoints.summary(step), seconds=time.monotonic() - began)
        checkpoints.tidy()  # last, so that what run.json names is always there

    waiting = 0.0

    drawn = Ahead(job.batches, config.steps)

    def batches(step: int) -> Any:
        nonlocal waiting
        asked = time.monotonic()
        batch = drawn(step)
        waiting += time.monotonic() - asked
        return batch

    def exhausted(step: int) -> bool:
        return config.patience is not None and checkpoints.stale(step, config.every.evaluate) >= config.patience

    fitting = time.monotonic()
    try:
        fit(
            runtime=prepared.runtime,
            params=params,
            optimizer=optimizer,
            scheduler=scheduler,
            batches=batches,
            gradients=job.gradients,
            evaluate=job.evaluate,
            every=config.every,
            seed=config.seed,
            start=start,
            steps=config.steps,
            memory=memory,
            skips=config.nonfinite_limit if config.on_nonfinite == "skip" else 0,
            exhausted=exhausted,
            save=save,
            record=record,
            advance=reporter.advance,
        )
    except BaseException as error:
        with suppress(OSError):  # on a full disk the first error counts
            record.close()
        if isinstance(error, NonFiniteError):
            saved = checkpoints.all()
            last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
            raise NonFiniteError(f"{stage}: {error}; {last}") from error
        raise
    finally:
        drawn.close()
    record.close()
    log.info("data took %.2f %% of the training's time", 100 * waiting / (time.monotonic() - fitting))
    best, done = checkpoints.best, run.info["step"]
    if done < config.steps:
        early = f"ended early after step {done} of {config.steps}: {config.patience} evaluations without a better"
        reporter.note(f"{early} {job.metric} than at step {best['step']}")
        run.info["stopped_early"] = True
    trained = read_tensors(open_checkpoint(checkpoints.folder / best["name"]))
    with torch.no_grad():
        for name, tensor in trained.items():
            params[name].copy_(tensor)
    learning_curves(read_metrics(run.folder), f"{stage} {run.info['id']}", run.folder / "plots" / "learning_curves.png")
    job.pictures(params, run.folder / "plots")
    value, half = best["metrics"][job.metric], best["metrics"].get(f"{job.metric}_interval")
    run.update(
        status="completed",
        finished_at=runs.now(),
        seconds=time.monotonic() - began,
        metric={"name": job.metric, "value": value, "interval": half, "step": best["step"]},
    )
    reporter.finish(run.info)
    return {**run.info, "folder": str(run.folder), "checkpoint": str(checkpoints.folder / best["name"])}

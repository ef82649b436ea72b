"""The training of all training stages: run folder, loop, records and checkpoints."""

from __future__ import annotations

import logging
import math
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch

from metalearn_cli.core.config import Training, plain
from metalearn_cli.core.errors import LostRankError, NonFiniteError, UserError
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Reporter
from metalearn_cli.engine.loop import Ahead, Batch, Plan, fit
from metalearn_cli.engine.optimizer import misfit, take_up
from metalearn_cli.engine.stepper import Memory, Stepper
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import Checkpoints, load_into, read_tensors
from metalearn_cli.records.log import working_on
from metalearn_cli.records.metrics import Recorder, read_metrics
from metalearn_cli.records.plots import learning_curves
from metalearn_cli.records.trackers import Tracking, tracking
from metalearn_cli.stages.preparing import Prepared, enough_memory, write_splits
from metalearn_cli.stages.session import Session

log = logging.getLogger("metalearn_cli")


def train(
    prepared: Prepared, session: Session, reporter: Reporter, run: runs.Run | None = None, **facts: Any
) -> dict[str, Any]:
    """Train to the end, in a new run folder or, given one, from its newest checkpoint.

    Args:
        prepared: what to do.
        session: opens the resulting checkpoint.
        reporter: gets progress and metrics.
        run: the interrupted run to resume.
        facts: more entries for a new run's run.json.

    Returns:
        The finished run's run.json.
    """
    config, job, stage = prepared.config, prepared.job, prepared.stage
    parent, begun = prepared.parent, run is not None
    # a later `resume`, and other ranks, start from the checkpoint that `latest` means now
    pinned = plain(config) | {"init_from": parent["checkpoint"] if parent else None}
    if job.teacher:
        pinned |= {"teacher": job.teacher["checkpoint"]}
    if run is None:
        facts |= {"key": prepared.key, "parent": parent, "data": job.data, "steps": config.steps}
        facts |= {"teacher": job.teacher} if job.teacher else {}
        run = runs.create(config.runs_dir, stage, pinned, **facts)
    trackers = tracking(config.tracker, run, plain(config), reporter.note)
    with working_on(run), enough_memory(stage, config), trackers as told:
        write_splits(session.data(config.data, prepared.runtime), run.folder)
        progress = _Progress(prepared, reporter, run, told)
        with progress.advised(), session.crew.working(prepared.runtime, (stage, pinned, parent if begun else None)):
            progress.fit()
        return progress.finish(session)


def train_along(prepared: Prepared) -> None:
    """Train as a rank other than 0: take the steps of a run, from where rank 0 starts, and write nothing."""
    config, job, ranks = prepared.config, prepared.job, prepared.runtime.ranks
    stepper = _stepper(prepared)
    start, baseline, params, optimizer, memory = ranks.same(_State(0, False, {}, {}, {}))
    _copy(params, job.params)
    take_up(stepper.optimizer, stepper.scheduler, optimizer, start)
    stepper.memory = Memory(**memory)
    stepper.share()
    if job.on_features:
        job = job.on_features(job.params)
    drawn = Ahead(job.batches, config.steps)
    try:
        fit(replace(job, batches=drawn), stepper, _plan(config, start, baseline), _Silent(prepared, stepper))
    finally:
        drawn.close()


class _State(NamedTuple):
    """Where a training starts: what rank 0 sends to the others; see `Plan` and `Stepper`."""

    start: int
    baseline: bool
    params: Params
    optimizer: dict[int, Any]
    memory: dict[str, Any]


def _stepper(prepared: Prepared) -> Stepper:
    """Return what takes the steps of a training."""
    config, job = prepared.config, prepared.job
    skips = config.nonfinite_limit if config.on_nonfinite == "skip" else 0
    return Stepper(prepared.runtime, job.params, *prepared.optimizer(), skips, job.buffers, number=job.learns_from[1])


def _plan(config: Training, start: int, baseline: bool) -> Plan:
    return Plan(start, config.steps, config.every, config.seed, config.runtime.stop_on, baseline)


class _Silent:
    """Where the loop of a rank other than 0 reports to (`engine.loop.RunLog`)."""

    def __init__(self, prepared: Prepared, stepper: Stepper) -> None:
        self._stepper, self._patience = stepper, prepared.config.patience

    def advance(self, done: int) -> None:
        """Do nothing."""

    def measured(self, done: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Send rank 0 this rank's part of the optimizer's state, if it is divided."""
        self._stepper.state()

    def exhausted(self, done: int) -> bool:
        """Return what rank 0 has decided."""
        return self._patience is not None and bool(self._stepper.runtime.ranks.largest(0))


class _Progress:
    """A run in progress: the loop reports to it (`engine.loop.RunLog`).

    Args:
        prepared: what to do.
        reporter: gets progress and metrics.
        run: the folder; if it has a checkpoint, training resumes from it.
        told: gets the metrics that a checkpoint stands behind, and the pictures.
    """

    def __init__(self, prepared: Prepared, reporter: Reporter, run: runs.Run, told: Tracking) -> None:
        self.config, self.job, self.stage = prepared.config, prepared.job, prepared.stage
        self.reporter, self.run, self.told = reporter, run, told
        self.began = time.monotonic() - (run.info.get("seconds") or 0.0)
        self.learnt, self.learning = 0, 0.0  # steps since the last log line, and their seconds
        facts = {
            "run": run.info["id"],
            "stage": self.stage,
            "model": self.job.model,
            "data": self.job.data,
            "parent": run.info.get("parent"),
            **({"teacher": self.job.teacher} if self.job.teacher else {}),
            "config_hash": run.info["key"],
        }
        self.checkpoints = Checkpoints(run.folder, self.config.keep, self.job.metric, facts, prepared.classes)
        self.stepper = _stepper(prepared)
        resumed = self._resumed()
        self.start, self.baseline = resumed or 0, self.job.baseline and resumed is None
        if self.job.on_features:
            self.job = self.job.on_features(self.job.params)
        self.checkpoints.tidy()
        run.update(status="running", pid=os.getpid())
        reporter.start(self.stage, str(run.folder), self.start, self.config.steps)
        goes_on = f"resumes after step {self.start} of {self.config.steps}"
        for note in (*prepared.notes, goes_on) if self.start else prepared.notes:
            reporter.note(note)
        self.record = Recorder(run.folder, reporter, resumed)
        self.told.log(self.record.fresh())
        self.since = time.monotonic()  # when the current step began

    def _resumed(self) -> int | None:
        """Restore the state of the newest checkpoint, and return the steps done; None without a checkpoint."""
        found = self.checkpoints.newest()
        if found is None:
            return None
        newest, state = found
        step: int = newest.manifest["step"]
        stored, _ = load_into(self.job.params, newest, ("",))
        _copy(stored | state.get("unmerged", {}), self.job.params)
        stepper = self.stepper
        if wrong := misfit(stepper.optimizer, state["optimizer"]):
            raise UserError(f"{newest.folder} cannot be resumed from: {wrong}")
        take_up(stepper.optimizer, stepper.scheduler, state["optimizer"], step)
        stepper.memory = Memory(**state["memory"])
        self.run.update(**self.checkpoints.summary(step))  # a killed process may not have written it
        return step

    @contextmanager
    def advised(self) -> Iterator[None]:
        """Within a block that trains, say what to do when another rank has ended.

        Raises:
            LostRankError: in place of one.
        """
        try:
            yield
        except LostRankError as error:
            how = f"resume with: mlx resume {shlex.quote(str(self.run.folder))}"
            raise LostRankError(f"{self.stage}: {error}; {self._last()}; {how}") from error

    def _last(self) -> str:
        """Return which checkpoint there is, in words."""
        saved = self.checkpoints.all()
        return f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"

    def fit(self) -> None:
        """Train, and log how long the loop waited for data."""
        config, ranks = self.config, self.stepper.runtime.ranks
        if ranks.world > 1:
            params = {name: p.detach().cpu() for name, p in self.job.params.items()}
            ranks.same(_State(self.start, self.baseline, params, self.stepper.state(), asdict(self.stepper.memory)))
            self.stepper.share()
        drawn, waited = Ahead(self.job.batches, config.steps), 0.0

        def batches(step: int) -> Batch:
            nonlocal waited
            asked = time.monotonic()
            batch = drawn(step)
            waited += time.monotonic() - asked
            return batch

        began = time.monotonic()
        try:
            fit(replace(self.job, batches=batches), self.stepper, _plan(config, self.start, self.baseline), self)
        except NonFiniteError as error:
            raise NonFiniteError(f"{self.stage}: {error}; {self._last()}") from error
        finally:
            drawn.close()
        log.info("data took %.2f %% of the training's time", 100 * waited / (time.monotonic() - began))
        if self.stepper.memory.skipped == self.run.info["step"]:
            told = "no step had a finite loss and gradient, so nothing was learnt"
            raise NonFiniteError(f"{self.stage}: {told}; lower optimizer.lr, or algorithm.inner_lr")

    def advance(self, done: int) -> None:
        """Report that `done` steps are done."""
        self.learnt, self.learning = self.learnt + 1, self.learning + time.monotonic() - self.since
        self.since = time.monotonic()
        self.reporter.advance(done)

    def measured(self, done: int, values: Mapping[str, float]) -> None:
        """Record values measured after `done` steps."""
        times = {"seconds": round(time.monotonic() - self.began, 3)}
        if self.learnt and any(name.startswith("train/") for name in values):
            kind, number = self.job.learns_from
            times[f"{kind}_per_second"] = round(number * self.learnt / self.learning, 1)
            self.learnt, self.learning = 0, 0.0
        self.record(done, values, times)
        self.since = time.monotonic()

    def save(self, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint."""
        self.record.sync()  # all lines up to a checkpoint's step must be on disk
        params, kept = self.job.params, self.job.merged(self.job.params)
        unmerged = {name: params[name].detach().cpu() for name in params if kept[name] is not params[name]}
        state = {"optimizer": self.stepper.state(), "memory": asdict(self.stepper.memory)}
        self.checkpoints.save(done, kept, state | ({"unmerged": unmerged} if unmerged else {}), scores)
        self.run.update(**self.checkpoints.summary(done), seconds=time.monotonic() - self.began)
        self.checkpoints.tidy()  # last, so that what run.json names is always there
        self.told.log(self.record.fresh())
        self.since = time.monotonic()

    def exhausted(self, done: int) -> bool:
        """Whether training ends early, because `patience` evaluations brought no better score."""
        patience = self.config.patience
        if patience is None:
            return False
        ended = self.checkpoints.stale(done, self.config.every.evaluate) >= patience
        return bool(self.stepper.runtime.ranks.largest(ended))

    def finish(self, session: Session) -> dict[str, Any]:
        """Draw the plots, write the results into run.json, and return it."""
        run, job, best = self.run, self.job, self.checkpoints.best
        name, done = f"val/{job.metric.name}", run.info["step"]
        if done < self.config.steps:
            early = f"ended early after step {done} of {self.config.steps}: {self.config.patience} evaluations without"
            self.reporter.note(f"{early} a better {name} than at step {best['step']}")
            run.info["stopped_early"] = True
        folder = self.checkpoints.folder / best["name"]
        _copy(read_tensors(session.checkpoint(folder)), job.params)
        title = f"{self.stage} {run.info['id']}"
        lines = read_metrics(run.folder)
        learning_curves(lines, title, run.folder / "plots" / "learning_curves.png")
        try:
            job.pictures(job.params, run.folder / "plots")
        except OSError:  # reported like every other write error
            raise
        except Exception as error:  # an error in a component's plots must not fail a trained run
            log.warning("the pictures could not be drawn (%s: %s)", type(error).__name__, error, exc_info=True)
        self.told.pictures(done)
        metric = self._score(name, {**best["metrics"], "step": best["step"]})
        compared = self._compared(lines) if job.baseline else {}
        if best["step"] == 0 and compared:
            before, after = (score["value"] for score in compared.values())
            told = f"{name} was {before:.4f} before training and at best {after:.4f} after it"
            self.reporter.note(f"{self.stage} brought no improvement, so step 0, its start, is handed on: {told}")
        run.update(
            status="completed",
            finished_at=runs.now(),
            seconds=time.monotonic() - self.began,
            metric=metric,
            **compared,
        )
        self.reporter.finish(run.info)
        return {**run.info, "folder": str(run.folder), "checkpoint": str(folder)}

    def _compared(self, lines: list[dict[str, float]]) -> dict[str, Any]:
        """Return the scores of what training started from and of the best that it gave, {} if not recorded."""
        name, sign = f"val/{self.job.metric.name}", 1 if self.job.metric.higher_is_better else -1
        before = [line for line in lines if name in line and not line["step"]]
        after = [line for line in lines if name in line and line["step"]]
        if not before or not after:
            return {}
        best = max(after, key=lambda line: -math.inf if math.isnan(line[name]) else sign * line[name])
        return {"baseline": self._score(name, before[0]), "trained": self._score(name, best)}

    def _score(self, name: str, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the entry of run.json on a metric, measured after a step with others."""
        half = values.get(f"{name}_interval")
        over = {} if half is None else {"over": {"episodes": self.config.val_episodes, "trainings": 1}}
        protocol = {"normalisation": self.job.normalisation}
        return {"name": name, "value": values[name], "interval": half, "step": values["step"], **over, **protocol}


def _copy(source: Params, target: Params) -> None:
    with torch.no_grad():
        for name, tensor in source.items():
            target[name].copy_(tensor)

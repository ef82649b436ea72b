"""What the training stages share up to the first step: from settings to a stage that is ready to run.

A stage says what is trained on what (a `Job`); everything is built and checked here, and nothing is written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.build import Spec, blamed_on, build
from metalearn_cli.core.check import mismatch, shown
from metalearn_cli.core.config import _Training, digest, plain
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.metric import ACCURACY, MSE, Metric
from metalearn_cli.core.network import BACKBONE, Params, network
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Sampler
from metalearn_cli.engine.episodes import OWN, Learner
from metalearn_cli.engine.evaluation import score_episodes
from metalearn_cli.engine.loop import Job
from metalearn_cli.engine.runtime import Runtime, out_of_memory
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import Checkpoint, load_into
from metalearn_cli.records.metrics import interval
from metalearn_cli.stages.learner import fresh_learner, refuse_writing
from metalearn_cli.stages.session import Session

MakeJob = Callable[[Any, Session], Job]


def describe_data(data: Any, spec: Spec) -> dict[str, Any]:
    """Return what run.json and manifests record of a data set, enough to load it again and to recognise it."""
    return {"name": data.name, "protocol": data.protocol, "fingerprint": data.fingerprint, "spec": dict(spec)}


def few_shot_probe(
    backbone: nn.Module, data: Any, config: _Training, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the validation of stages without episodes: what the backbone's features are worth as they are.

    Raises:
        UserError: if the data's validation classes cannot give such episodes, or the backbone writes buffers in one.
    """
    spec = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
    net = network(backbone, None, runtime.under_precision)
    learner = fresh_learner(build(spec, "algorithm"), net, config.way, None, config.seed)
    sampler = data.episodes("val", way=config.way, shot=config.shot, query=config.query, seed=config.seed)
    refuse_writing(learner, sampler.batch(0, 1), runtime)
    return validation(learner, sampler, config.val_episodes, runtime)


def validation(
    learner: Learner, sampler: Sampler, episodes: int, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the few-shot validation of a learner with given tensors: its metric and the metric's interval."""
    name = f"val/{metric_of(sampler).name}"

    def validate(params: Params) -> dict[str, float]:
        mean, half = interval(score_episodes(learner.of(params), sampler, episodes, runtime))
        return {name: mean, f"{name}_interval": half}

    return validate


def metric_of(sampler: Sampler) -> Metric:
    """Return what is measured on a sampler's episodes."""
    return MSE if sampler.regression else ACCURACY


def starting_point(config: _Training, stage: str, session: Session) -> Checkpoint | None:
    """Resolve `init_from`, once."""
    if config.init_from is None:
        return None
    folder = runs.find_checkpoint(config.init_from, config.runs_dir, TABLE[stage].accepts, "init_from")
    return session.checkpoint(folder)


def key_of(stage: str, config: Any, parent: Checkpoint | None, data: dict[str, Any]) -> str:
    """Return what identifies the work of a run: its settings and its inputs, not where it writes."""
    values = plain(config)
    for elsewhere in ("runs_dir", "init_from", "ckpt"):
        values.pop(elsewhere, None)
    return digest([stage, values, parent.sha256 if parent else None, data])


@dataclass(frozen=True)
class Prepared:
    """A stage that is ready to run: everything was built and checked, nothing was written."""

    stage: str
    config: Any
    runtime: Runtime
    job: Job
    parent: Checkpoint | None
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.stage, self.config, self.parent, self.job.data)


def prepare(stage: str, config: _Training, make_job: MakeJob, session: Session) -> Prepared:
    """Build and check everything that a training stage needs, before any work.

    Raises:
        ConfigError: with what the machine, the data or the checkpoint cannot do.
        UserError: likewise.
    """
    problems: list[Problem] = []
    parent = None
    try:
        parent = starting_point(config, stage, session)
    except UserError as error:
        problems.append(Problem("init_from", str(error).removeprefix(f"init_from={config.init_from}: ")))
    try:
        with enough_memory(stage, config):
            job = make_job(config, session)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    runtime = session.runtime(config.runtime)
    notes = [f"{stage}: {runtime.description}; data {job.data['name']} ({job.data['protocol']})", *job.notes]
    if parent:
        source = "" if config.init_from == str(parent.folder) else f"{config.init_from} -> "
        notes.append(f"init_from {source}{parent.folder}{_measured(parent)}")
        params, line = load_into(job.params, parent, _handed_over(job, parent), config.reinit)
        job = replace(job, params=params)
        notes.append(line)
    job = replace(job, params=runtime.place(job.params))
    try_optimizer(config)
    return Prepared(stage, config, runtime, job, parent, tuple(notes))


def _handed_over(job: Job, parent: Checkpoint) -> tuple[str, ...]:
    """Return what the names of the tensors begin with that a checkpoint hands on: the same learner's own ones, too."""
    here, there = (model.get("algorithm") or {} for model in (job.model, parent.manifest["model"]))
    same = here.get("_target_") == there.get("_target_") is not None
    return (BACKBONE, OWN) if same else (BACKBONE,)


def try_optimizer(config: _Training) -> None:
    """Take one step of something small: torch checks few settings before it computes with them.

    Raises:
        ConfigError: with what is wrong with the settings of optimizer or scheduler.
    """
    base: Any = config.optimizer.get("lr")
    if wrong := mismatch(base, float):
        raise ConfigError([Problem("optimizer.lr", wrong)])
    toy = torch.zeros(2, 2, requires_grad=True)
    toy.grad = torch.ones_like(toy)
    trial = build(config.optimizer, "optimizer", params=[toy], fused=_fused(config))
    with blamed_on(config.optimizer, "optimizer"):
        trial.step()
    with blamed_on(config.scheduler, "scheduler"):
        take_up(trial, build(config.scheduler, "scheduler", optimizer=trial), trial.state_dict()["state"], 1)


def make_optimizer(config: _Training, job: Job) -> tuple[Optimizer, LRScheduler]:
    """Build what changes the tensors that learn, each at its own rate; the others need no gradients."""
    base: Any = config.optimizer.get("lr")
    for name, tensor in job.params.items():
        tensor.requires_grad_(name in job.rates)
    groups = [
        {"params": [job.params[n] for n, r in job.rates.items() if r == rate], "lr": base * rate}
        for rate in sorted(set(job.rates.values()))
    ]
    optimizer = build(config.optimizer, "optimizer", params=groups, fused=_fused(config))
    return optimizer, build(config.scheduler, "scheduler", optimizer=optimizer)


def _fused(config: _Training) -> bool | None:
    """Return whether to ask for one kernel for all tensors: where the config asks for no other way."""
    return None if config.optimizer.get("foreach") else True


def take_up(optimizer: Optimizer, scheduler: LRScheduler, memory: dict[str, Any], step: int) -> None:
    """Put optimizer and scheduler where they were after `step` steps; rates follow the settings, which may be new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimizer step before each of the scheduler's
        for _ in range(step):
            scheduler.step()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})


def misfit(optimizer: Optimizer, memory: Any) -> str:
    """Return why a state cannot be this optimizer's after some steps, or "": its kernels do not look at shapes."""
    groups = [
        {**group, "params": [torch.zeros_like(p, requires_grad=True) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    kind: Any = type(optimizer)
    twin: Optimizer = kind(groups)
    for p in (p for group in groups for p in group["params"]):
        p.grad = torch.zeros_like(p)
    twin.step()
    wanted = twin.state_dict()["state"]
    for index, entries in memory.items():
        if index not in wanted:
            return f"the optimizer's state has {shown(index)}, which is no tensor's"
        if not isinstance(entries, dict):
            return f"the optimizer's state of tensor {index} must be an object, got {shown(entries)}"
        for name, value in wanted[index].items() if entries else ():  # empty before the first step
            if _form(entries.get(name)) != _form(value):
                return f"the optimizer's {name} of tensor {index} is missing or of another shape"
    return ""


def _form(value: Any) -> Any:
    return (value.shape, value.is_floating_point()) if isinstance(value, torch.Tensor) else type(value)


def _measured(checkpoint: Checkpoint) -> str:
    metrics = checkpoint.manifest["metrics"]
    shown = [f"{n} {v:.4f}" for n, v in metrics.items() if not n.endswith("_interval")]
    return f" ({', '.join(shown)})" if shown else ""


@contextmanager
def enough_memory(stage: str, config: Any) -> Iterator[None]:
    """Within a block, turn a want of memory into advice.

    Raises:
        UserError: naming the settings that lower it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        values = plain(config)
        values |= {f"runtime.{name}": value for name, value in values["runtime"].items()}
        shown = [f"{name} ({'null' if values[name] is None else values[name]})" for name in TABLE[stage].memory]
        wanted = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
        reason = f", as it {wanted[0].lower()}" if wanted else ""
        message = f"{stage} ran out of memory{reason}; lower {', '.join(shown)}, or the backbone's width"
        if stage == "meta-train" and not config.runtime.gradient_checkpointing:
            message += "; with many adaptation steps, set runtime.gradient_checkpointing=true"
        raise UserError(message) from error

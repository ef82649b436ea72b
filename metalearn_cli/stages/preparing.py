"""What the training stages share up to the first step: from settings to a stage that is ready to run.

A stage says what is trained on what (a `Job`); everything is built and checked here, and nothing is written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.backbones.common.network import Network
from metalearn_cli.core.build import Spec, blamed_on, build
from metalearn_cli.core.check import mismatch, shown
from metalearn_cli.core.config import _Training, digest, plain
from metalearn_cli.core.errors import ConfigError, DataError, Problem, UserError
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Algorithm, Apply, Params, Sampler
from metalearn_cli.engine.evaluation import score_episodes
from metalearn_cli.engine.loop import Gradients
from metalearn_cli.engine.runtime import Runtime, out_of_memory
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import (
    Checkpoint,
    load_into,
    open_checkpoint,
)
from metalearn_cli.records.metrics import interval


@dataclass(frozen=True)
class Job:
    """What a stage contributes to the common loop.

    Attributes:
        params: all tensors, freshly initialised; those of the backbone are named "backbone.*".
        rates: learning-rate multiplier of each tensor that learns.
        batches: the batch of a step.
        gradients: gives the leaves the gradients of a batch's loss.
        evaluate: validation metrics of the tensors, under the names `metric` and others.
        metric: the one that selects the best checkpoint.
        higher_is_better: whether more of it is better.
        model: what a checkpoint says of itself, enough to build the network again.
        data: name, protocol and fingerprint of the data.
        pictures: writes the stage's own pictures into a folder, given trained tensors.
        notes: what the user should see of how the stage computes.
    """

    params: Params
    rates: dict[str, float]
    batches: Callable[[int], Any]
    gradients: Gradients
    evaluate: Callable[[Params], dict[str, float]]
    metric: str
    higher_is_better: bool
    model: dict[str, Any]
    data: dict[str, Any]
    pictures: Callable[[Params, Path], None]
    notes: tuple[str, ...] = ()


MakeJob = Callable[[Any, Runtime], Job]


def load_data(spec: Spec, runtime: Runtime) -> Any:
    """Build a data set and hold it on the device.

    Raises:
        DataError: if something is wrong with it that no training should start on.
    """
    data = build(spec, "data")
    if blocking := [finding for finding in data.findings if finding.blocks]:
        raise DataError(blocking)
    return data.to(runtime.device)


def describe_data(data: Any, spec: Spec) -> dict[str, Any]:
    """Return what run.json and manifests record of a data set, enough to load it again and to recognise it."""
    return {"name": data.name, "protocol": data.protocol, "fingerprint": data.fingerprint, "spec": dict(spec)}


def fresh_network(backbone: Spec, shape: tuple[int, ...], outputs: int | None, seed: int) -> Network:
    """Build a backbone, with a linear head where `outputs` says so, initialised as a function of the seed.

    Backbone and head have streams of their own: every stage with the same seed starts from the same untrained backbone.
    """
    with seeded(seed, "backbone"):
        trunk = build(backbone, "backbone", shape=shape)
    with seeded(seed, "head"):
        return Network(trunk, outputs)


def blocks_of(params: Params) -> list[list[str]]:
    """Return the names of the backbone's tensors by block, from input to output."""
    names = [name for name in params if name.startswith("backbone.")]
    indices = sorted({int(name.split(".")[2]) for name in names})
    return [[name for name in names if name.split(".")[2] == str(index)] for index in indices]


def few_shot_probe(
    backbone: nn.Module, data: Any, config: _Training, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the validation of stages without episodes: what the backbone's features are worth as they are.

    Raises:
        UserError: if the data's validation classes cannot give such episodes.
    """
    spec = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
    apply, own = pure(Network(backbone, None))
    apply = runtime.under_precision(apply)
    sampler = data.episodes("val", way=config.way, shot=config.shot, query=config.query, seed=config.seed)
    validate = validation(build(spec, "algorithm"), apply, sampler, config.val_episodes, "transductive", runtime)
    return lambda params: validate({name: params[name] for name in own})


def validation(
    algorithm: Algorithm, apply: Apply, sampler: Sampler, episodes: int, normalisation: Any, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the few-shot validation of a learner: its metric and the metric's interval."""
    name = f"val/{metric_of(sampler)}"

    def validate(params: Params) -> dict[str, float]:
        mean, half = interval(score_episodes(algorithm, apply, params, sampler, episodes, normalisation, runtime))
        return {name: mean, f"{name}_interval": half}

    return validate


def metric_of(sampler: Sampler) -> str:
    """Return the name of what is measured on a sampler's episodes."""
    return "mse" if sampler.regression else "accuracy"


def starting_point(config: _Training, stage: str) -> Checkpoint | None:
    """Resolve `init_from`, once."""
    if config.init_from is None:
        return None
    return open_checkpoint(runs.find_checkpoint(config.init_from, config.runs_dir, TABLE[stage].accepts, "init_from"))


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
    optimizer: Optimizer
    scheduler: LRScheduler
    parent: Checkpoint | None
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.stage, self.config, self.parent, self.job.data)


def prepare(stage: str, config: _Training, make_job: MakeJob) -> Prepared:
    """Build and check everything that a training stage needs, before any work.

    Raises:
        ConfigError: with what the machine, the data or the checkpoint cannot do.
        UserError: likewise.
    """
    problems: list[Problem] = []
    parent = None
    try:
        parent = starting_point(config, stage)
    except UserError as error:
        problems.append(Problem("init_from", str(error).removeprefix(f"init_from={config.init_from}: ")))
    try:
        runtime = Runtime(config.runtime)
        with enough_memory(stage, config):
            job = make_job(config, runtime)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    notes = [f"{stage}: {runtime.description}; data {job.data['name']} ({job.data['protocol']})", *job.notes]
    if parent:
        source = "" if config.init_from == str(parent.folder) else f"{config.init_from} -> "
        notes.append(f"init_from {source}{parent.folder}{_measured(parent)}")
        params, line = load_into(job.params, parent, "backbone.", config.reinit)
        job = replace(job, params=params)
        notes.append(line)
    job = replace(job, params=runtime.place(job.params))
    return Prepared(stage, config, runtime, job, *_optimizer(config, job), parent, tuple(notes))


def _optimizer(config: _Training, job: Job) -> tuple[Optimizer, LRScheduler]:
    """Build what changes the tensors that learn, each at its own rate; the others need no gradients."""
    base: Any = config.optimizer.get("lr")
    if wrong := mismatch(base, float):
        raise ConfigError([Problem("optimizer.lr", wrong)])
    for name in job.params.keys() - job.rates.keys():
        job.params[name].requires_grad_(False)
    groups = [
        {"params": [job.params[n] for n, r in job.rates.items() if r == rate], "lr": base * rate}
        for rate in sorted(set(job.rates.values()))
    ]
    # one kernel for all tensors, where the optimizer has it and the config asks for no other way
    fused = None if config.optimizer.get("foreach") else True
    optimizer = build(config.optimizer, "optimizer", params=groups, fused=fused)
    # torch checks few of these values before it computes with them: one step of something small shows what is wrong
    toy = torch.zeros(2, 2, requires_grad=True)
    toy.grad = torch.ones_like(toy)
    trial = build(config.optimizer, "optimizer", params=[toy], fused=fused)
    with blamed_on(config.optimizer, "optimizer"):
        trial.step()
    with blamed_on(config.scheduler, "scheduler"):
        take_up(trial, build(config.scheduler, "scheduler", optimizer=trial), trial.state_dict()["state"], 1)
    return optimizer, build(config.scheduler, "scheduler", optimizer=optimizer)


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

"""Code that the training stages share before the first step: from settings to a stage that is ready to run.

A stage gives a `Job`, its training; everything is built and checked here, and nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn_cli.core.build import Spec, build, files_of, mapped
from metalearn_cli.core.config import QUERY, SHOT, WAY, Common, Training, digest, plain
from metalearn_cli.core.errors import ConfigError, Problem, UserError, gathered, raise_all
from metalearn_cli.core.metric import ACCURACY, MSE, SAME_CLASSES, Metric
from metalearn_cli.core.network import BACKBONE, Network, Params
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Dataset, Sampler
from metalearn_cli.engine.episodes import OWN, Learner
from metalearn_cli.engine.evaluation import score_episodes
from metalearn_cli.engine.loop import Job
from metalearn_cli.engine.optimizer import make_optimizer, try_optimizer
from metalearn_cli.engine.runtime import Runtime, out_of_memory
from metalearn_cli.records import classes, runs
from metalearn_cli.records.checkpoint import Checkpoint, load_into, read_classes
from metalearn_cli.records.intervals import over_episodes
from metalearn_cli.records.trackers import check_installed
from metalearn_cli.stages.crossing import other_words
from metalearn_cli.stages.learner import fresh_learner, try_learner
from metalearn_cli.stages.session import Session

INSTEAD = "for a regression, type mlx run, your settings of data, and 'stages=[meta-train]' algorithm=maml"
"""What to do with data that a stage cannot use because it has no classes."""

MakeJob = Callable[[Any, Session], Job]
"""Makes the job of a stage from its own kind of settings."""


def describe_data(data: Dataset, spec: Spec) -> dict[str, Any]:
    """Return the record of a data set in run.json and manifests, enough to load it again and to compare it."""
    return {
        "name": data.name,
        "protocol": data.protocol,
        "fingerprint": data.fingerprint,
        "preprocessing": dict(data.preprocessing),
        "spec": dict(spec),
        **({"whole": data.whole} if data.whole else {}),
    }


def write_splits(data: Dataset, folder: Path) -> None:
    """Write splits.json, the classes of each split, which `data.split=` of own data reads.

    Nothing is written if there are no classes, or if each is in every split.
    """
    if data.splits and not data.protocol.startswith(SAME_CLASSES):
        names = {name: list(split.names) for name, split in data.splits.items()}
        runs.write_json(folder / "splits.json", {"data": data.name, "protocol": data.protocol, **names})


def seen_before(earlier: Sequence[Mapping[str, Any]], data: Dataset, spec: Spec, split: str) -> dict[str, Any] | None:
    """Return which classes of a split earlier stages were trained on, see `classes.seen`.

    None if there are none, if tasks are generated, or if the data is an ordinary classification.
    """
    if split not in data.splits or data.protocol.startswith(SAME_CLASSES):
        return None
    every = (name for own in data.splits.values() for name in own.names)
    return classes.seen(earlier, classes.trained_on(split, data.name, spec, data.splits[split].names), every)


CommonT = TypeVar("CommonT", bound=Common)


_USUAL = {"way": WAY, "shot": SHOT, "query": QUERY}


def fitted(config: CommonT, data: Dataset, trained: Mapping[str, Any] = {}) -> CommonT:
    """Return settings with `way`, `shot` and `query` as numbers.

    Args:
        config: the settings; None stands for the usual number, or the largest that every split allows.
        data: the data.
        trained: what a checkpoint records on its learner: these numbers are then the usual ones.
    """
    most, usual = data.limits, _USUAL | _of_training(trained)
    shot = config.shot or usual["shot"]
    most_way = max(most.way, 1 if data.facts.regression else 2)
    way = config.way or trained.get("way") or min(usual["way"], most_way)
    return replace(config, way=way, shot=shot, query=config.query or min(usual["query"], max(most.items - shot, 1)))


def fitted_note(asked: Common, config: Common, data: Dataset, trained: Mapping[str, Any] = {}) -> list[str]:
    """Return lines on the numbers that `fitted` has chosen: those of a checkpoint, and those below the usual."""
    before = _of_training(trained)
    keys = ("shot",) if data.facts.regression else ("way", "shot", "query")
    chosen = {key: getattr(config, key) for key in keys if getattr(asked, key) is None}
    taken = [f"{key} {value}" for key, value in chosen.items() if value == before.get(key)]
    usual = _USUAL | before
    fewer = [f"{key} {value} (usually {usual[key]})" for key, value in chosen.items() if value != usual[key]]
    notes = [f"as in the checkpoint's training: {', '.join(taken)}"] * bool(taken)
    return notes + [f"as many as {data.name} allows: {', '.join(fewer)}"] * bool(fewer)


def _of_training(trained: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of the episodes that a checkpoint's learner was validated on, as far as they are recorded."""
    head = {"way": trained["way"]} if trained.get("way") else {}
    return {**trained.get("val_episode", {}), **head}


def as_seen(images: Tensor, data: Dataset) -> Tensor:
    """Return images [..., C, H, W] for a picture: gray photographs keep their tones, drawings are dark on white.

    Spectrograms are turned over, so that low frequencies are at the bottom.
    """
    images = images.flip(-2) if data.facts.kind == "audio" else images
    gray = images.shape[-3] == 1 and "polarity" not in data.preprocessing
    return images.expand(*images.shape[:-3], 3, *images.shape[-2:]) if gray else images


def few_shot_probe(
    net: Network, data: Dataset, config: Training, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the validation of stages without episodes: the few-shot quality of the backbone's features.

    Raises:
        UserError: if the data's validation classes cannot give such episodes, or the backbone writes buffers in one.
    """
    spec = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
    learner = fresh_learner(build(spec, "algorithm"), net, config.episode.way, None, config.seed)
    sampler = data.episodes("val", **config.episode._asdict(), seed=config.seed)
    try_learner(learner, sampler.batch(0, 1), runtime)
    return validation(learner, sampler, config.val_episodes, runtime)


def probe_protocol(net: Network) -> str:
    """Return the protocol of `few_shot_probe`."""
    return "transductive" if net.batch_statistics else "none"


def validation(
    learner: Learner, sampler: Sampler, episodes: int, runtime: Runtime
) -> Callable[[Params], dict[str, float]]:
    """Return the few-shot validation of a learner with given tensors: its metric and the metric's interval."""
    name = f"val/{metric_of(sampler).name}"

    def validate(params: Params) -> dict[str, float]:
        scores = score_episodes(learner.of(params), sampler, episodes, runtime).scores
        return {name: scores.double().mean().item(), f"{name}_interval": over_episodes(scores)}

    return validate


def metric_of(sampler: Sampler) -> Metric:
    """Return the metric of a sampler's episodes."""
    return MSE if sampler.regression else ACCURACY


def named_checkpoint(stage: str, setting: str, config: Common, session: Session) -> Checkpoint | None:
    """Open the checkpoint that a setting of a stage names, if it names one.

    Raises:
        ConfigError: if there is no such checkpoint.
    """
    name = getattr(config, setting)
    if name is None:
        return None
    try:
        return session.checkpoint(runs.find_checkpoint(name, config.runs_dir, accepted(stage, setting), setting))
    except UserError as error:
        raise ConfigError([Problem(setting, str(error).removeprefix(f"{setting}={name}: "))]) from error


def accepted(stage: str, setting: str) -> tuple[str, ...]:
    """Return the stages whose checkpoints a setting of a stage may name; any network can teach."""
    return TABLE["evaluate" if setting == "teacher" else stage].accepts


def check_dealt(kind: str, component: object, module: nn.Module, config: Training, number: int) -> None:
    """Check that the batches of a stage can be dealt to several ranks, if there are several.

    Args:
        kind: the setting of what has the loss, "model" or "method".
        component: what has the loss.
        module: what computes the batch's features.
        config: the settings.
        number: items of a batch.

    Raises:
        ConfigError: with what is in the way.
    """
    world = config.runtime.devices
    if not isinstance(world, int) or world == 1:
        return
    problems, name = list[Problem](), type(component).__name__
    if number < world:
        problems.append(Problem("batch_size", f"must be at least {world}, an item for each rank, got {number}"))
    if getattr(component, "whole_batch", False):
        told = f"must be 1 with {name}, which compares the items of a whole batch with each other"
        problems.append(Problem("runtime.devices", f"{told}; or choose another {kind}"))
    own = (part for part in module.modules() if isinstance(part, _BatchNorm))
    if layer := next((part for part in own if any(p.requires_grad for p in part.parameters())), None):
        told = f"must be 1 with torch's {type(layer).__name__}, whose statistics would be those of a part of a batch"
        problems.append(Problem("runtime.devices", f"{told}; or choose backbone.norm=batch or group"))
    if problems:
        raise ConfigError(problems)


def check_folds(setting: str, checkpoint: Checkpoint, data: Mapping[str, Any]) -> None:
    """Check that a checkpoint was not trained on other folds of the same data: on classes that are now test.

    Args:
        setting: what names the checkpoint.
        checkpoint: the checkpoint.
        data: see `describe_data`.

    Raises:
        ConfigError: if it was.
    """
    trained = checkpoint.manifest["data"]
    for seen in (trained, *trained.get("also", {}).values()):
        if of_another_fold(seen, data):
            told = f"{checkpoint.folder} was trained on {seen.get('name')} ({seen.get('protocol')})"
            here = f"so that it may have seen test classes of {data['protocol']}"
            fold = (seen.get("spec") or {}).get("fold") or "null"
            raise ConfigError([Problem(setting, f"{told}, {here}; type data.fold={fold}")])


def of_another_fold(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of data are of the same data, split in other ways by folds; see `describe_data`."""
    whole = [data.get("whole", data.get("fingerprint")) for data in (one, other)]
    return whole[0] == whole[1] and one.get("fingerprint") != other.get("fingerprint")


def identity(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes recorded data what it is, see `describe_data`: all but where it was read from."""
    also = {name: identity(other) for name, other in data.get("also", {}).items()}
    return {key: value for key, value in data.items() if key not in ("spec", "also")} | ({"also": also} if also else {})


def essence(config: Common) -> dict[str, Any]:
    """Return settings without those that only say where something is or goes; see `identity` and sha256 for what it is.

    Where a backbone's setting names a file or folder, its contents stand in place of its path.
    """
    elsewhere = ("runs_dir", "tracker", "init_from", "ckpt", "teacher", "data", "also")
    found = {key: value for key, value in plain(config).items() if key not in elsewhere}
    if "backbone" in found:
        found["backbone"] = mapped(found["backbone"], _with_contents)
    return found


def _with_contents(spec: dict[str, Any]) -> dict[str, Any]:
    return spec | {name: _contents(Path(path)) for name, path in files_of(spec, "backbone").items()}


def _contents(path: Path) -> dict[str, str]:
    """Return the sha256 of a file, or of each settings and weights file in a folder."""
    if path.is_file():
        return {"": runs.sha256_of(path)}
    return {file.name: runs.sha256_of(file) for file in path.iterdir() if file.suffix in (".json", ".safetensors")}


def key_of(stage: str, config: Common, data: dict[str, Any], *inputs: dict[str, Any] | None) -> str:
    """Return a hash that identifies the work of a run: its settings and its inputs, not any folder.

    Args:
        stage: the command.
        config: its settings.
        data: see `describe_data`.
        inputs: the record of each checkpoint that it starts from, or None.
    """
    return digest([stage, essence(config), *(entry and entry["sha256"] for entry in inputs), identity(data)])


@dataclass(frozen=True)
class Prepared:
    """A stage that is ready to run: everything was built and checked, nothing was written."""

    stage: str
    config: Training
    runtime: Runtime
    job: Job
    parent: dict[str, Any] | None  # see `Checkpoint.parent_entry`
    classes: Sequence[Mapping[str, Any]]  # what it and the stages before it train on, see `read_classes`
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """See `key_of`."""
        teacher = () if self.job.teacher is None else (self.job.teacher,)
        return key_of(self.stage, self.config, self.job.data, self.parent, *teacher)

    def optimizer(self) -> tuple[Optimizer, LRScheduler]:
        """Build the optimizer of the tensors that learn, and its scheduler."""
        return make_optimizer(self.config.optimizer, self.config.scheduler, self.job.params, self.job.rates)


def prepare(
    stage: str, config: Training, make_job: MakeJob, session: Session, recorded: dict[str, Any] | None = None
) -> Prepared:
    """Build and check everything that a training stage needs, before any work.

    Args:
        stage: its name.
        config: its settings.
        make_job: what it trains.
        session: what the command has built already.
        recorded: the parent of a run that has checkpoints of its own to resume from: it may be gone since.

    Raises:
        ConfigError: with what the machine, the data or the checkpoint cannot do.
        UserError: likewise.
    """
    errors: list[UserError] = []
    parent, job, gone, short = None, None, "", list[str]()
    try:
        parent = named_checkpoint(stage, "init_from", config, session)
    except ConfigError as error:
        gone = error.problems[0].message
        errors += [error] * (recorded is None)
    with gathered(errors):
        check_installed(config.tracker)
    with gathered(errors):
        try_optimizer(config.optimizer, config.scheduler)
    with gathered(errors), enough_memory(stage, config):
        asked, data = config, session.data(config.data, session.runtime(config.runtime))
        config = fitted(config, data)
        short = fitted_note(asked, config, data)
        job = make_job(config, session)
    if gone and recorded and job and job.begin:
        errors.append(ConfigError([Problem("init_from", f"{gone}; the {stage} method needs it to the end")]))
    raise_all(errors)
    assert job is not None
    _check_rates(stage, job)
    runtime = session.runtime(config.runtime)
    notes = [f"{stage}: {runtime.description}; data {job.data['name']} ({job.data['protocol']})", *short, *job.notes]
    if job.normalisation != "none":
        notes.append(f"the validation {job.metric.name} is {job.normalisation}")
    if weights := config.backbone.get("weights"):
        use = "not used, as init_from has all tensors" if parent else "all tensors are from this file"
        notes.append(f"backbone.weights {weights}: {use}")
    if job.keeps_start and not recorded and (told := random_start(config)):
        notes.append(told)
    if gone:
        notes.append(f"init_from {config.init_from} is gone; it is not needed, as the run has checkpoints of its own")
    if parent:
        check_folds("init_from", parent, job.data)
        source = "" if config.init_from == str(parent.folder) else f"{config.init_from} -> "
        notes.append(f"init_from {source}{parent.folder}{_measured(parent)}")
        params, line = _loaded(job, parent, config.reinit)
        job = replace(job, params=params)
        notes.append(line)
    teacher = session.checkpoint(Path(job.teacher["checkpoint"])) if job.teacher else None
    earlier = [record for checkpoint in (parent, teacher) if checkpoint for record in read_classes(checkpoint)]
    for split in ("val", "test"):
        if found := seen_before(earlier, data, config.data, split):
            notes.append(f"warning: {classes.told(found)}; name the classes of each split with data.split=FILE")
    job = replace(job, params=runtime.place(job.params))
    if job.begin:
        job.begin(job.params)
    specs = [config.data, *getattr(config, "also", {}).values()]
    own = classes.joined([*earlier, *(_trained_on(stage, session.data(s, runtime), s) for s in specs)])
    return Prepared(stage, config, runtime, job, parent.parent_entry if parent else recorded, own, tuple(notes))


def random_start(config: Training) -> str:
    """Return a warning that a stage starts from random weights, "" if it does not."""
    if config.init_from is not None or files_of(config.backbone, "backbone"):
        return ""
    return (
        "warning: this method keeps to the weights that it starts from, and these are random, so that its features are"
        " nearly those of an untrained network; name a checkpoint with init_from=RUN"
    )


def _loaded(job: Job, parent: Checkpoint, reinit: Sequence[str]) -> tuple[Params, str]:
    """Load what a checkpoint hands over, see `load_into`.

    Raises:
        ConfigError: if tensors have other shapes; where a vocabulary is the cause, not the backbone, this is told.
    """
    try:
        return load_into(job.params, parent, _handed_over(job, parent), reinit)
    except ConfigError as error:
        told = other_words(parent.manifest["data"], job.data)
        if told and job.model.get("backbone") == parent.manifest["model"].get("backbone"):
            raise ConfigError([Problem("init_from", told)]) from error
        raise


def _trained_on(stage: str, data: Dataset, spec: Spec) -> dict[str, Any]:
    """Return the record of a stage's training classes; it has none if tasks are generated."""
    return classes.trained_on(stage, data.name, spec, data.splits["train"].names if "train" in data.splits else ())


def _check_rates(stage: str, job: Job) -> None:
    """Check the learning-rate multipliers.

    Raises:
        ConfigError: with the tensor that has a wrong rate, or the component if no tensor learns.
    """
    key = {"pretrain": "model", "transfer": "method", "meta-train": "algorithm"}[stage]
    for name, rate in job.rates.items():
        if name not in job.params:
            raise ConfigError([Problem(key, f"gives a rate to {name}, but neither the network nor {key} has it")])
        if not 0 <= rate < float("inf"):
            raise ConfigError([Problem(key, f"gives {name} the rate {rate}; it must be a number >= 0")])
    if not any(job.rates.values()):
        raise ConfigError([Problem(key, "lets no tensor learn: all rates are 0, or there are none")])


def _handed_over(job: Job, parent: Checkpoint) -> tuple[str, ...]:
    """Return the prefixes of the names of tensors that a checkpoint hands on.

    These are those of the backbone; if the learner or model is the same, also those of the learner's own tensors and of
    tensors that follow the backbone instead of learning.
    """
    there = parent.manifest["model"]
    same = [k for k in ("algorithm", "model") if k in job.model and _target(job.model, k) == _target(there, k)]
    following = tuple(name for name in job.params if name not in (*job.rates, *job.buffers))
    more = {"algorithm": (OWN,), "model": following}
    return (BACKBONE, *(prefix for key in same for prefix in more[key]))


def _target(model: dict[str, Any], key: str) -> Any:
    return (model.get(key) or {}).get("_target_")


def _measured(checkpoint: Checkpoint) -> str:
    metrics = checkpoint.manifest["metrics"]
    shown = [f"{n} {v:.4f}" for n, v in metrics.items() if not n.endswith("_interval") and v is not None]
    return f" ({', '.join(shown)})" if shown else ""


@contextmanager
def enough_memory(stage: str, config: Common) -> Iterator[None]:
    """Within a block, turn an out-of-memory error into advice.

    Raises:
        UserError: with the settings that lower the memory.
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

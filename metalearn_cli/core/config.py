"""The settings of each stage as frozen dataclasses: what they mean, which values they may have.

`parse` turns a plain mapping (from Hydra, from a run's config.json) into one of them and reports every problem at once.
The defaults are in configs/, not here: a stage never uses a value that its config does not show.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from metalearn_cli.core.build import Spec, problems_of
from metalearn_cli.core.check import Range, meant, mismatch, shown
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE, TRAINING

SEEDS = 2**32
"""How many seeds there are."""

WAY, SHOT, QUERY, TRAIN_QUERY = 5, 1, 15, 5
"""What null stands for in `way`, `query` and `train_query` where the data allows it."""

Count = Annotated[int, Range(1)]
Folds = Annotated[int, Range(3)]
Normalisation = Literal["transductive", "inductive"]
TaskBatching = Literal["auto", "loop", "threads", "groups", "vmap"]
Signal = Literal["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]
Precision = Literal["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed"]


@dataclass(frozen=True)
class Runtime:
    """Where and how the numbers are computed."""

    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"]
    """Kind of device; auto takes the best available."""
    devices: Literal["auto"] | Count | list[int]
    """1 or auto: the first device; N: N processes that share each step, each with a device; [i]: that with index i."""
    precision: Precision
    """Number format of weights and computation, by Lightning Fabric's names."""
    threads: Count | None
    """CPU threads, at most one per core; null = one per core, or what OMP_NUM_THREADS or a container's quota says."""
    task_batching: TaskBatching
    """How the tasks of a meta-batch run, see `engine.tasks`."""
    task_chunk: Count | None
    """Tasks in one batch of vmap or groups; null = a number that is usually fast."""
    task_compile: bool
    """Whether the gradients of tasks are compiled, see `engine.tasks`."""
    gradient_checkpointing: bool
    """Whether adaptation steps are recomputed instead of stored, see `core.functional.checkpointing`."""
    tuned: bool
    """Whether memory allocator and denormal numbers are set for speed, see `engine.runtime.tune`."""
    stop_on: list[Signal]
    """Signals besides SIGINT and SIGTERM on which a run saves a checkpoint and ends."""
    shard: bool
    """Whether the optimizer's state is divided among ranks, see `engine.shards`."""
    anomaly: bool
    """Name the operation behind a gradient that is NaN; slower."""


@dataclass(frozen=True)
class Every:
    """Steps between two log lines, evaluations and checkpoints."""

    log: Count
    evaluate: Count
    save: Count


class EpisodeShape(NamedTuple):
    """The numbers of an episode: classes, labelled items and query items of each class."""

    way: int
    shot: int
    query: int


@dataclass(frozen=True)
class Common:
    """Settings that every command has."""

    seed: Annotated[int, Range(0, SEEDS - 1)]
    runs_dir: str
    """Folder of all runs, relative to the current directory."""
    tracker: list[Literal["tensorboard", "mlflow", "wandb"]]
    """Programs that get copies of a run's values, settings and pictures, see `records.trackers`."""
    runtime: Runtime
    way: Count | None
    """Classes per episode on which few-shot accuracy is measured; null = 5, or as many as the data allows."""
    shot: Count | None
    """Labelled items per class (the support set); null = 1."""
    query: Count | None
    """Items per class to classify (the query set); null = 15, or as many as the data allows."""

    @property
    def episode(self) -> EpisodeShape:
        """The numbers of an episode, once they are fitted to the data; see `stages.preparing.fitted`."""
        assert self.way is not None and self.shot is not None and self.query is not None
        return EpisodeShape(self.way, self.shot, self.query)


@dataclass(frozen=True)
class Training(Common):
    """Settings that the three training stages share."""

    backbone: Spec
    data: Spec
    init_from: str | None
    """null, latest, latest:<stage>, a run id, or the path of a run or checkpoint folder."""
    reinit: list[str]
    """Prefixes of tensor names that are initialised instead of loaded."""
    steps: Count
    """Optimizer steps."""
    optimizer: Spec
    scheduler: Spec
    every: Every
    keep: Count
    """How many of the newest checkpoints are kept, besides the best one."""
    val_episodes: Annotated[int, Range(2)]
    """Validation episodes at each evaluation."""
    patience: Count | None
    """Training ends early after this many evaluations in a row without improvement; null = never."""
    on_nonfinite: Literal["stop", "skip"]
    """What to do at a step whose loss or gradient is not finite: stop the run, or skip the step."""
    nonfinite_limit: Count
    """For skip: most steps in a row that are skipped; one more stops the run."""


@dataclass(frozen=True)
class PretrainConfig(Training):
    """`mlx pretrain`."""

    model: Spec
    batch_size: Annotated[int, Range(2)]
    """Items per step."""


@dataclass(frozen=True)
class TransferConfig(Training):
    """`mlx transfer`."""

    method: Spec
    batch_size: Annotated[int, Range(2)]
    """Labelled items per step."""
    teacher: str | None
    """A second checkpoint that a method learns from, named as init_from; of transfer if its classifier teaches."""
    also: dict[str, Spec]
    """More data sets, whose items are added to each batch, by the names that the method uses."""


@dataclass(frozen=True)
class MetaTrainConfig(Training):
    """`mlx meta-train`."""

    algorithm: Spec
    tasks: Count
    """Episodes per step (the meta-batch)."""
    train_way: Count | None
    """Classes per training episode; null = way."""
    train_shot: Count | None
    """Labelled items per class in training episodes; null = shot."""
    train_query: Count | None
    """Query items per class in training episodes; null = 5, but at most query."""
    normalisation: Normalisation
    """Protocol of batch statistics in training and validation."""


@dataclass(frozen=True)
class EvaluateConfig(Common):
    """`mlx evaluate`; null for `way` and `shot` is first what the checkpoint's own learner was validated with."""

    ckpt: str | None
    """As init_from; null evaluates an untrained `backbone` on `data`."""
    weights_seed: Annotated[int, Range(0, SEEDS - 1)] | None
    """Seed of weights that are not in the checkpoint; null = `seed`, which is that of the episodes."""
    backbone: Spec | None
    """Only for ckpt=null; a checkpoint has its own."""
    data: Spec | None
    """null = the checkpoint's own."""
    algorithm: Spec | None
    """null = the checkpoint's own, or nearest_centroid where it has none."""
    split: Literal["test", "val"]
    episodes: Annotated[int, Range(2)]
    """Fixed episodes; the same for every checkpoint and algorithm."""
    varying: bool
    """Whether each episode draws its way and shots, see `data.common.varying`; way, shot and query have no effect."""
    normalisation: list[Normalisation]
    """Protocols to report where the network has batch statistics."""
    select: dict[str, Any]
    """Values of the learner's settings to choose from, see `stages.select`; {} for none."""
    also_within: bool
    """Whether episodes within one group are scored besides those from all classes."""
    calibration: Annotated[int, Range(0)]
    """Validation episodes that fit a temperature, see `records.calibration`; 0 measures no calibration."""


@dataclass(frozen=True)
class DataConfig(Common):
    """`mlx data check`, `make` and `show`."""

    data: Spec


@dataclass(frozen=True)
class Sweep:
    """How `mlx -m` runs the jobs of a sweep."""

    slots: Literal["auto"] | Count
    """Jobs at once; 1: in this process, one after the other; more: each in a process of its own."""
    slots_per_gpu: Count
    """Most jobs at once on one GPU."""
    fail_fast: bool
    """Whether the first job that fails ends the sweep."""
    params: dict[str, Any]
    """Settings as for the command line: {"seed": "1,2,3"}; what is typed replaces them."""


@dataclass(frozen=True)
class Search:
    """What `mlx -m` searches for, with Optuna."""

    trials: Count
    """How many points are tried."""
    objective: str | list[str]
    """The validation metrics of which the best is sought, such as val/accuracy."""
    pruner: Literal["median", "hyperband", "none"]
    """Which rule of Optuna stops trials that fall behind."""


@dataclass(frozen=True)
class Slurm:
    """What each job of a sweep asks SLURM for; null: what the cluster gives."""

    partition: str | None
    account: str | None
    time: str | None
    """As for sbatch: "4:00:00"; a number in YAML would be one of seconds or of minutes."""
    gpus: Count | None
    cpus: Count | None
    mem: str | Count | None
    """As for sbatch: "16G", or a number of MB."""
    lines: list[str]
    """More lines of its script: options in #SBATCH comments first, then commands."""


@dataclass(frozen=True)
class Ray:
    """The cluster of Ray, and what each job of a sweep asks it for."""

    address: str | None
    """As for ray.init; null: RAY_ADDRESS, or a cluster on this machine, which is started if there is none."""
    cpus: Count
    gpus: Annotated[float, Range(0)] | None
    """Less than 1: jobs share a GPU; null: one where there are any, or its share."""


@dataclass(frozen=True)
class SweepConfig:
    """The settings of `mlx -m` itself; parts that its file does not have are None."""

    sweep: Sweep
    search: Search | None
    slurm: Slurm | None
    ray: Ray | None


STAGES: dict[str, type[Common]] = {
    "pretrain": PretrainConfig,
    "transfer": TransferConfig,
    "meta-train": MetaTrainConfig,
    "evaluate": EvaluateConfig,
}


@dataclass(frozen=True)
class ChainConfig:
    """`mlx run`: the training stages, each with its settings, and how to evaluate their checkpoints."""

    stages: tuple[str, ...]
    seeds: int
    """Trainings of each stage, >= 1: with its seed, its seed plus 1, and so on."""
    folds: Folds | None
    """Cross-validation: each of so many folds of the data's classes is test once; null = the data's own split."""
    runs_dir: str
    wait: Annotated[float, Range(0)]
    """Seconds to wait for a run of the chain that another process works on."""
    training: dict[str, Training]
    evaluate: EvaluateConfig
    own: dict[str, tuple[str, ...]]
    """Settings in the section of each stage; all others are at the top level, for every stage."""
    first: ChainConfig | None = None
    """A chain that runs before; this one starts from its last checkpoint."""


OF_EXPERIMENTS = ("tier", "tiers", "after")
"""Settings of `mlx run` that say which version of an experiment runs, and after which other one."""

Config = TypeVar("Config")


def parse(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Turn plain values into the settings of a stage.

    Raises:
        ConfigError: with every unknown, missing or wrong setting, also those of components. What only their
            constructors check is found when a stage builds them.
    """
    values, homeless = _at_home(values, "")
    if problems := [*homeless, *_problems(cls, values, "")]:
        raise ConfigError(problems)
    return _construct(cls, values)


_PARTS: dict[str, type[Any]] = {"search": Search, "slurm": Slurm, "ray": Ray}
"""The parts of a sweep's settings that some of its files have."""


def parse_sweep(values: Mapping[str, Any]) -> SweepConfig:
    """Turn the plain values of `sweep.*` into settings; a part is there if all of its settings are.

    Raises:
        ConfigError: as `parse`.
    """
    values, problems = _at_home(values["sweep"], "sweep")
    classes = {name: cls for name, cls in _PARTS.items() if _hints(cls).keys() <= values.keys()}
    own = {name: {key: values[key] for key in _hints(cls)} for name, cls in classes.items()}
    known = {key for part in own.values() for key in part}
    classes["sweep"], own["sweep"] = Sweep, {key: value for key, value in values.items() if key not in known}
    problems += [p for name, cls in classes.items() for p in _problems(cls, own[name], "sweep.")]
    if problems := [*problems, *_no_objectives(own.get("search", {}).get("objective"))]:
        raise ConfigError(problems)
    parts: dict[str, Any] = dict.fromkeys(_PARTS)
    return SweepConfig(**parts | {name: _construct(cls, own[name]) for name, cls in classes.items()})


def _no_objectives(value: Any) -> list[Problem]:
    """Return the problems of a search's objectives that their types do not say."""
    names = value if isinstance(value, list) else [value]
    if not names or len({*map(str, names)}) < len(names):
        return [Problem("sweep.objective", f"must be one metric or different ones, got {shown(value)}")]
    told = "must be a validation metric, such as val/accuracy: what is chosen by a test makes its result too good"
    return [
        Problem("sweep.objective", f"{told}; got {name}", "" if names is value else f"val/{name.rpartition('/')[2]}")
        for name in names
        if isinstance(name, str) and not re.fullmatch(r"val/\w+", name)
    ]


def parse_chain(values: Mapping[str, Any], first: ChainConfig | None = None) -> ChainConfig:
    """Turn the plain values of `mlx run` into the settings of each of its stages.

    Settings at the top level (data, backbone, way, ...) hold for every stage; settings in the section of a stage
    replace them for that stage. The sections of stages that are left out are checked, too.

    Args:
        values: the settings.
        first: the chain that runs before this one, named by the setting `after`.

    Raises:
        ConfigError: with the problems of all stages, each under its key in `mlx run`.
    """
    values, problems = _at_home(values, "")
    sections = {name: stage.section for name, stage in TABLE.items()}
    apart = {"stages", "seeds", "folds", "wait", *OF_EXPERIMENTS, *sections.values()}
    shared = {key: value for key, value in values.items() if key not in apart}
    stages = [stage for stage in TRAINING if stage in _listed(values.get("stages"))]
    if not stages or values.get("stages") != stages:
        allowed = f"must be a list of one or more of {', '.join(TRAINING)}, in this order"
        given = values.get("stages")
        near = {_closest(str(name).replace("_", "-"), TRAINING) for name in (_listed(given) or [given])}
        meant_stages = f"[{','.join(stage for stage in TRAINING if stage in near)}]" if all(near) else ""
        problems.append(Problem("stages", f"{allowed}, got {shown(given)}", meant_stages))
    if wrong := mismatch(values.get("seeds"), Count):
        problems.append(Problem("seeds", wrong))
    if wrong := mismatch(values.get("folds"), Folds | None):
        problems.append(Problem("folds", wrong))
    names = {stage: {f.name for f in fields(STAGES[stage])} - {"ckpt"} for stage in STAGES}  # the chain sets the ckpt
    known = set().union(*names.values())
    for key, value in shared.items():
        takers = [sections[stage] for stage in (*(stages or TRAINING), "evaluate") if key in names[stage]]
        if key not in known:
            close = _closest(key, known | apart)
            problems.append(Problem(key, "no such setting of run", close))
        elif takers and all(_replaced(value, key, values.get(section)) for section in takers):
            for name in (f"{key}.{part}" for part in value) if isinstance(value, Mapping) else (key,):
                theirs = " or ".join(f"{section}.{name}" for section in takers)
                problems.append(Problem(name, f"has no effect, because every stage has its own; set {theirs}"))
    if wrong := mismatch(values.get("wait"), Annotated[float, Range(0)]):
        problems.append(Problem("wait", wrong))
    if first and stages:
        problems += _not_after(first, stages[0], values)
    merged: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        section = values.get(sections[stage])
        used = stage in stages or stage == "evaluate"
        if not isinstance(section, Mapping):
            told = Problem(sections[stage], f"must be the settings of {stage}, got {shown(section)}")
            problems += [told] * (used or section is not None)
            continue
        merged[stage] = _laid_over({k: v for k, v in shared.items() if k in names[stage]}, section)
        problems += [Problem(f"{sections[stage]}.ckpt", "no such setting of run")] * ("ckpt" in section)
        if stage == "evaluate":
            merged[stage]["ckpt"] = None
        for problem in _problems(STAGES[stage], merged[stage], ""):
            own = problem.key.split(".")[0] not in shared or _has(section, problem.key)
            if used or _has(section, problem.key):  # what a stage that is left out lacks is no problem
                problems.append(problem._replace(key=f"{sections[stage]}.{problem.key}") if own else problem)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    training: dict[str, Any] = {stage: _construct(STAGES[stage], merged[stage]) for stage in stages}
    most = SEEDS - max(settings.seed for settings in training.values())
    if values["seeds"] > most:
        raise ConfigError([Problem("seeds", f"must be <= {most} with this seed, got {values['seeds']}")])
    return ChainConfig(
        stages=tuple(stages),
        seeds=values["seeds"],
        folds=values["folds"],
        runs_dir=values["runs_dir"],
        wait=values["wait"],
        training=training,
        evaluate=_construct(EvaluateConfig, merged["evaluate"]),
        own={stage: tuple(sorted(values[sections[stage]])) for stage in (*stages, "evaluate")},
        first=first,
    )


def _not_after(first: ChainConfig, stage: str, values: Mapping[str, Any]) -> list[Problem]:
    """Return why a chain that begins with a stage cannot start from the last checkpoint of another chain."""
    problems = []
    if values.get("folds") is not None:
        told = "must be null, because what `after` names has trained on classes of the folds; or write after=null"
        problems.append(Problem("folds", told))
    if values.get("init_from") is not None:
        problems.append(
            Problem("init_from", "must be null, because the chain starts from what `after` names; or write after=null")
        )
    if (last := first.stages[-1]) not in TABLE[stage].accepts:
        allowed = " or ".join(TABLE[stage].accepts)
        problems.append(Problem("after", f"ends with {last}, but {stage} starts from a checkpoint of {allowed}"))
    return problems


def plain(config: Any) -> dict[str, Any]:
    """Return a stage's settings as plain values, the inverse of `parse`."""
    return asdict(config)


def digest(value: Any) -> str:
    """Return the sha256 (hex) of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _at_home(value: Any, key: str) -> tuple[Any, list[Problem]]:
    """Return settings with the home folder in place of each ~ that begins a value, and those that nobody knows."""
    if isinstance(value, Mapping | list):
        pairs = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        found = {name: _at_home(part, f"{key}.{name}" if key else str(name)) for name, part in pairs}
        problems = [problem for _, own in found.values() for problem in own]
        parts = {name: part for name, (part, _) in found.items()}
        return (parts if isinstance(value, Mapping) else list(parts.values())), problems
    if not isinstance(value, str) or not value.startswith("~"):
        return value, []
    path = expanded(value)
    unknown = Problem(key, f"{value.partition('/')[0]} is no home folder; write the whole path, got {shown(value)}")
    return path, [unknown] * path.startswith("~")


def _laid_over(values: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return shared settings with a stage's own over them: single ones of a group, unless it is another component."""
    found = dict(values)
    for key, value in own.items():
        found[key] = value if _replaced(values.get(key), key, own) else _laid_over(values[key], value)
    return found


def _replaced(value: Any, key: str, own: Any) -> bool:
    """Whether a stage's own settings leave nothing of a shared value."""
    group = isinstance(value, Mapping) and isinstance(own, Mapping) and isinstance(own.get(key), Mapping)
    return isinstance(own, Mapping) and key in own and not (group and "_target_" not in own[key])


def _has(values: Any, key: str) -> bool:
    """Whether values have a dotted key, or end on the way to it in something that is no group."""
    for part in key.split("."):
        if not isinstance(values, Mapping):
            return True
        if part not in values:
            return False
        values = values[part]
    return True


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple | Mapping) else ()


def _closest(name: object, known: Any) -> str:
    return next(iter(get_close_matches(str(name), list(known))), "")


_hints: Callable[..., dict[str, Any]] = cache(get_type_hints)


def _construct(cls: type[Config], values: Mapping[str, Any]) -> Config:
    hints = _hints(cls)
    return cls(
        **{
            name: _construct(hints[name], value) if is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )


def _problems(cls: type, values: Mapping[str, Any], prefix: str) -> list[Problem]:
    hints = _hints(cls, include_extras=True)
    problems = [
        Problem(f"{prefix}{key}", "no such setting", _closest(key, hints)) for key in values if key not in hints
    ]
    for name, annotation in hints.items():
        key = f"{prefix}{name}"
        if name not in values:
            problems.append(Problem(key, "is missing"))
            continue
        value = values[name]
        if is_dataclass(annotation):
            if isinstance(value, Mapping):
                problems += _problems(_hints(cls)[name], value, f"{key}.")
            else:
                problems.append(Problem(key, f"must be a group of settings, got {shown(value)}"))
        elif annotation == Spec or (annotation == Spec | None and value is not None):
            problems += problems_of(value, key)
        elif annotation == dict[str, Spec] and isinstance(value, Mapping):
            for entry, spec in value.items():
                problems += [p._replace(key=f"{key}.{entry}{p.key[4:]}") for p in problems_of(spec, "data")]
        elif wrong := mismatch(value, annotation):
            problems.append(Problem(key, wrong, meant(value, annotation)))
    return problems

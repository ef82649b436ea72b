"""Evaluation: a learner's score on fixed episodes of unseen classes, with its 95 % intervals.

This is the only stage that reads test classes. The episodes depend only on the data, their shape and the seed, so every
checkpoint and algorithm is scored on the same ones, and any two results can be compared in pairs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch

from metalearn_cli.core.build import Spec, build, problems_of
from metalearn_cli.core.config import EvaluateConfig, Normalisation, plain
from metalearn_cli.core.errors import ConfigError, Problem, UserError, gathered, raise_all
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.network import BACKBONE, Params
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Algorithm, Dataset, Episode, Reporter, Sampler
from metalearn_cli.data.common.splits import group_of
from metalearn_cli.data.common.varying import VaryingSampler
from metalearn_cli.engine.episodes import Learner
from metalearn_cli.engine.evaluation import Outcomes, of_its_way, score_episodes
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import Checkpoint, load_into, read_classes
from metalearn_cli.records.classes import told
from metalearn_cli.records.log import working_on
from metalearn_cli.records.plots import reliability_picture
from metalearn_cli.stages.crossing import check_items, crossed, trained_on
from metalearn_cli.stages.frozen import ONCE, scored_on_features
from metalearn_cli.stages.learner import check_learner, fresh_learner, fresh_network, try_learner
from metalearn_cli.stages.preparing import (
    check_folds,
    describe_data,
    enough_memory,
    fitted,
    fitted_note,
    key_of,
    metric_of,
    named_checkpoint,
    seen_before,
)
from metalearn_cli.stages.scores import (
    HARDEST,
    PLACES,
    POOLED,
    WITHIN,
    Calibrated,
    Scores,
    calibrated,
    mean_of,
    scores_of_classes,
    worst_decile,
)
from metalearn_cli.stages.select import combinations, with_values
from metalearn_cli.stages.session import Session

log = logging.getLogger("metalearn_cli")

RELIABILITY = "plots/reliability.png"

_BATCHES, _BATCH = 20, 100  # training items whose features a learner's statistics are of

FLOORS = {
    False: {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"},
    True: {"_target_": "metalearn_cli.algorithms.from_scratch.FromScratch"},
}
"""The learner for checkpoints without one, by whether the data is a regression."""


class Draw(NamedTuple):
    """The first `episodes` of a stream, and how they are scored on features, see `scored_on_features`."""

    sampler: Sampler
    episodes: int
    on_features: Callable[[], tuple[Learner, Sampler]] | None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to run: everything was built and checked, nothing was written."""

    config: EvaluateConfig
    runtime: Runtime
    learner: Learner
    tested: Draw
    fitting: Draw | None  # what a temperature is fitted on; None without `config.calibration`
    protocols: tuple[Normalisation | None, ...]  # (None,) if the network has no batch statistics
    parent: Checkpoint | None
    data: dict[str, Any]
    algorithm: dict[str, Any]  # the learner's settings as they are used
    random_head: bool  # whether the learner has a head that no checkpoint brought
    seen: dict[str, Any] | None  # the classes that training has seen, see `records.classes.seen`
    notes: tuple[str, ...]
    base: Callable[[], Params] | None  # measures the learner's own tensors, see `Algorithm.base`
    candidates: tuple[Candidate, ...]  # what `config.select` allows; () if nothing is to be chosen
    within: Evaluation | None = None  # the same on episodes within one group, for `config.also_within`

    @property
    def sampler(self) -> Sampler:
        """The episodes of the result."""
        return self.tested.sampler

    @property
    def key(self) -> str:
        """What identifies the result."""
        return key_of("evaluate", self.config, self.data, self.parent.parent_entry if self.parent else None)


class Candidate(NamedTuple):
    """A combination of values of the learner's settings; see `stages.select`."""

    values: dict[str, Any]
    prepared: Callable[[Literal["val", "test"]], Evaluation]  # the learner with these values, on a split


def prepare_evaluation(config: EvaluateConfig, session: Session, given: Mapping[str, Any] | None = None) -> Evaluation:
    """Build and check everything that an evaluation needs.

    Args:
        config: its settings.
        session: what is built already.
        given: settings of the learner to lay over those that the checkpoint's was trained with, where it is the same
            learner; None takes `config.algorithm` as it is.

    Raises:
        ConfigError: with what the checkpoint, the data or the machine cannot do.
        UserError: likewise.
    """
    errors: list[UserError] = []
    parent = None
    with gathered(errors):
        parent = named_checkpoint(config.ckpt, config, TABLE["evaluate"].accepts, "ckpt", session)
    with gathered(errors), enough_memory("evaluate", config):
        runtime = session.runtime(config.runtime)
        if config.data is not None:
            session.data(config.data, runtime)
    raise_all(errors)
    model, recorded = (parent.manifest["model"], parent.manifest["data"]) if parent else ({}, {})
    _check(config, parent)
    backbone: Any = model.get("backbone") or config.backbone
    data_spec: Any = config.data or recorded.get("spec")
    needed = {"backbone": backbone, "data": data_spec}
    if absent := [key for key, spec in needed.items() if spec is None]:
        raise ConfigError([Problem(key, f"ckpt=null needs one; choose it with {key}=NAME") for key in absent])
    with enough_memory("evaluate", config):
        data = session.data(data_spec, runtime)
    if parent:
        check_folds("ckpt", parent, describe_data(data, data_spec))
    spec, changed = _spec(config.algorithm, model.get("algorithm"), given, FLOORS[data.facts.regression])
    candidates = _candidates(config, spec, parent, session)
    if config.algorithm is not None or given:
        config = replace(config, algorithm=spec)  # what is recorded is what was used
    algorithm: Algorithm = build(spec, "algorithm")
    if problems := check_learner(algorithm, data.facts.regression, config.runtime.precision):
        raise ConfigError(problems)
    if parent:
        check_items(parent, data, data_spec)
    asked, config = config, fitted(config, data, model.get("way") if _same(spec, model.get("algorithm")) else None)
    way = config.episode.way
    sampler = _sampler(data, config, config.split)
    if config.episodes != (count := getattr(sampler, "count", None) or config.episodes):
        message = f"must be {count}, as {data.name}/{config.split} has {count} fixed episodes, got {config.episodes}"
        raise ConfigError([Problem("episodes", message)])
    answers = data.facts.outputs or way
    drawn = config.seed if config.weights_seed is None else config.weights_seed
    net = fresh_network(backbone, data.facts, answers if algorithm.traits.head else None, drawn, runtime)
    protocols: tuple[Normalisation | None, ...] = tuple(config.normalisation) if net.batch_statistics else (None,)
    if algorithm.traits.uses_queries:
        protocols = ("transductive",)
    learner = fresh_learner(algorithm, net, answers, None, drawn).at(1.0)
    if config.varying and (algorithm.traits.head or _sizes(learner) != _sizes(_wider(learner, spec, drawn))):
        told_of = f"{type(algorithm).__name__} has tensors for one number of classes, so that the way cannot vary"
        raise ConfigError([Problem("varying", f"{told_of}; set it to false, or type algorithm=nearest_centroid")])
    first = sampler.batch(0, 1)
    try_learner(of_its_way(learner, first) if config.varying else learner, first, runtime)
    random_head = (
        algorithm.traits.head and algorithm.traits.learns and not (parent and _same(spec, model.get("algorithm")))
    )
    drawn_from = f"{'tasks' if data.facts.regression else 'classes'} of {config.split}"
    notes = [f"evaluate: {runtime.description}; data {data.name} ({data.protocol}), {drawn_from}"]
    notes += [_told(sampler)] if config.varying else fitted_note(asked, config, data)
    tensors = learner.tensors
    if parent and algorithm.traits.head and not algorithm.traits.learns:
        notes.append(f"{type(algorithm).__name__} starts from random weights; {parent.folder} gives the architecture")
    elif parent:
        tensors, line = _loaded(tensors, parent, spec, way)
        notes += [f"ckpt {config.ckpt} -> {parent.folder}"] * (config.ckpt != str(parent.folder)) + [line, *changed]
        if random_head and config.weights_seed is None:  # a chain draws one on purpose, and says so in its table
            name, module = type(algorithm).__name__, str(spec["_target_"]).split(".")[-2]
            why = f"the checkpoint has no head of {name}'s, so that this scores an untrained, random one"
            notes.append(
                f"warning: {why}; train one with: mlx meta-train init_from={parent.manifest['run']} algorithm={module}"
            )
        line = crossed(trained_on(parent), data, _shape(sampler, config))
        notes += [line] * bool(line)
    seen = seen_before(read_classes(parent), data, data_spec, config.split) if parent else None
    if seen:
        notes.append(f"warning: {told(seen)}; the score is too high for classes that training has not seen")
    learner = learner.of(runtime.place(tensors))

    def draw(sampler: Sampler, episodes: int) -> Draw:
        return Draw(sampler, episodes, scored_on_features(learner, sampler, episodes, backbone, runtime))

    def draws(data: Dataset) -> tuple[Draw, Draw | None]:
        tested = _sampler(data, config, config.split)
        fitting = draw(_fitting(config, data), config.calibration) if config.calibration else None
        return draw(tested, config.episodes), fitting

    tested, fitting = draws(data)
    notes += [ONCE] * bool(tested.on_features)
    base = partial(_base, learner, data, config.seed, runtime)
    found = Evaluation(
        config=config,
        runtime=runtime,
        learner=learner,
        tested=tested,
        fitting=fitting,
        protocols=protocols,
        parent=parent,
        data=describe_data(data, data_spec),
        algorithm=spec,
        random_head=random_head,
        seen=seen,
        notes=tuple(notes),
        base=base if learner.own and hasattr(algorithm, "base") else None,
        candidates=candidates,
    )
    if not config.also_within:
        return found
    tested, fitting = draws(_within(data))
    return replace(found, within=replace(found, tested=tested, fitting=fitting))


def _within(data: Dataset) -> Dataset:
    """Return a data set whose episodes are within one group.

    Raises:
        ConfigError: if it has no groups, or its episodes are within one already.
    """
    names = [name for split in data.splits.values() for name in split.names]
    message = ""
    if data.facts.regression:
        message = f"needs groups of classes, and {data.name} is a regression; type also_within=false"
    elif ungrouped := [name for name in names if not group_of(name)]:
        message = f"needs a group for every class of {data.name}, and {ungrouped[0]} has none; type also_within=false"
    elif getattr(data, "within", False) or getattr(data, "fixed", {}):
        message = f"cannot be added to {data.name} ({data.protocol}), whose episodes are not from all classes"
    if message:
        raise ConfigError([Problem("also_within", message)])
    grouped: Any = data
    within: Dataset = grouped.within_groups("groups")
    return within


def _fitting(config: EvaluateConfig, data: Dataset) -> Sampler:
    """Return the validation episodes that a temperature is fitted on.

    Raises:
        ConfigError: if there are none, or no temperature for them.
    """
    message = ""
    if data.facts.regression:
        message = f"is of classifiers, and {data.name} is a regression; take it away"
    elif config.split != "test":
        message = f"fits a temperature on validation classes, so that split must be test, got {config.split!r}"
    if message:
        raise ConfigError([Problem("calibration", message)])
    sampler = _sampler(data, config, "val")
    if config.calibration > (count := getattr(sampler, "count", None) or config.calibration):
        raise ConfigError([Problem("calibration", f"must be at most {count}, the episodes of {data.name}/val")])
    return sampler


def _candidates(
    config: EvaluateConfig, spec: Spec, parent: Checkpoint | None, session: Session
) -> tuple[Candidate, ...]:
    """Return the candidates of `config.select`; each is built once, so that what is wrong is told before any runs.

    Raises:
        ConfigError: with what is wrong.
    """
    if not config.select:
        return ()
    pinned = replace(config, ckpt=str(parent.folder) if parent else None, select={})

    def prepared(values: dict[str, Any], split: Literal["val", "test"]) -> Evaluation:
        changed = replace(pinned, algorithm=with_values(spec, values), split=split)
        if split == "val":  # the choice needs the scores alone
            changed = replace(changed, calibration=0, also_within=False)
        return prepare_evaluation(changed, session)

    errors: list[UserError] = []
    found = combinations(config.select, spec, config.split)
    for values in found:
        with gathered(errors):
            prepared(values, "val")
    raise_all(errors)
    return tuple(Candidate(values, partial(prepared, values)) for values in found)


def _sampler(data: Dataset, config: EvaluateConfig, split: str) -> Sampler:
    """Return the episodes of a split, of varying way and shot if the settings say so.

    Raises:
        ConfigError: if the data cannot give such episodes, or several varying ones would be one batch.
    """
    if not config.varying:
        return data.episodes(split, **config.episode._asdict(), seed=config.seed)
    if (batching := config.runtime.task_batching) in ("vmap", "groups"):
        message = f"{batching} needs episodes of the same size, and these vary; use loop or threads"
        raise ConfigError([Problem("runtime.task_batching", message)])
    if data.facts.regression:
        raise ConfigError([Problem("varying", f"{data.name} has no classes, whose number could vary; set it to false")])
    return VaryingSampler(cast(Any, data), split, config.seed)


def _wider(learner: Learner, spec: Spec, seed: int) -> Learner:
    """Return a new learner of the same kind for one class more."""
    return fresh_learner(build(spec, "algorithm"), learner.net, learner.way + 1, None, seed)


def _sizes(learner: Learner) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in learner.own.items()}


def _told(sampler: Any) -> str:
    bounds = sampler.varying
    least, most = bounds["way"]
    items = f"at most {bounds['support']} labelled items, {bounds['query']} queries of each class"
    return f"varying way and shot: {least} to {most} classes, {items}; way, shot and query have no effect"


def _check(config: EvaluateConfig, parent: Checkpoint | None) -> None:
    """Check that settings fit the checkpoint, and that its components may be built.

    Raises:
        ConfigError: with all problems.
    """
    if parent:
        model, recorded = parent.manifest["model"], parent.manifest["data"]
        specs = {"backbone": model.get("backbone"), "algorithm": model.get("algorithm"), "data": recorded.get("spec")}
        wrong = [p for key, spec in specs.items() if spec is not None for p in problems_of(spec, key)]
        if wrong:
            manifest = parent.folder / "manifest.json"
            raise ConfigError([Problem("ckpt", f"{manifest}: {p.key} {p.message}") for p in wrong])
        if config.backbone is not None:
            raise ConfigError([Problem("backbone", "is only for ckpt=null: a checkpoint has its own")])
    if not config.normalisation:
        raise ConfigError([Problem("normalisation", "must name at least one of transductive, inductive")])


def _spec(
    chosen: Spec | None, trained: Spec | None, given: Mapping[str, Any] | None, floor: Spec
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the learner to score, and lines that say what is not as its file or the checkpoint has it.

    Args:
        chosen: the learner that the user chose, with the settings of its file and those given.
        trained: the checkpoint's.
        given: see `prepare_evaluation`.
        floor: what scores where neither is there.

    Raises:
        ConfigError: if settings are given that the learner does not have, or of no learner.
    """
    if trained is None and chosen is None and given:
        message = "there is no learner to set it of: the checkpoint has none; choose one with algorithm=NAME"
        raise ConfigError([Problem(f"algorithm.{key}", message) for key in given])
    if given is None or trained is None or not _same(chosen or trained, trained):
        return dict(chosen or trained or floor), []
    spec = {**trained, **given}
    if problems := problems_of(spec, "algorithm"):
        raise ConfigError(problems)
    notes = [
        f"algorithm.{key}: {value!r}, not {trained.get(key)!r} as in the checkpoint"
        for key, value in given.items()
        if value != trained.get(key)
    ]
    for key, value in (chosen or {}).items():
        if value != spec.get(key, value):
            notes.append(
                f"algorithm.{key}: {spec[key]!r} as in the checkpoint; for {value!r} type algorithm.{key}={value}"
            )
    return spec, notes


def _same(one: Spec, other: Spec | None) -> bool:
    """Whether two learners are the same but for their settings."""
    return other is not None and one.get("_target_") == other.get("_target_")


def _loaded(tensors: Params, parent: Checkpoint, algorithm: Spec, way: int) -> tuple[Params, str]:
    """Load what a checkpoint has trained: everything if the learner is its own, else only the backbone."""
    model = parent.manifest["model"]
    trained_here = _same(algorithm, model.get("algorithm"))
    if trained_here and model["way"] not in (None, way):
        message = f"the checkpoint's head is for way = {model['way']}, got {way}"
        raise ConfigError([Problem("way", message)])
    return load_into(tensors, parent, ("",) if trained_here else (BACKBONE,), setting="ckpt")


def evaluate(evaluation: Evaluation, reporter: Reporter, run: runs.Run | None = None, **facts: Any) -> dict[str, Any]:
    """Score every protocol on the same episodes, in a new run folder or an unfinished one.

    Returns:
        The run's run.json; `results` has one entry per protocol, the scores of single episodes are in episodes.csv;
        `selected`, where settings were to be chosen, is the table of `_selected`.
    """
    config = evaluation.config
    parent = evaluation.parent.parent_entry if evaluation.parent else None
    if run is None:
        facts |= {"key": evaluation.key, "parent": parent, "data": evaluation.data, "algorithm": evaluation.algorithm}
        if evaluation.parent:
            facts["training"] = trained_on(evaluation.parent)
        run = runs.create(config.runs_dir, "evaluate", plain(config), **facts)
    began = time.monotonic()
    with working_on(run):
        trials = len(evaluation.candidates)
        each = len(evaluation.protocols) * (config.episodes + config.calibration)
        steps = trials * config.episodes + each * (2 if config.also_within else 1)
        reporter.start("evaluate", str(run.folder), 0, steps)
        for note in evaluation.notes:
            reporter.note(note)
        if evaluation.candidates:
            evaluation, selected = _selected(evaluation.candidates, reporter)
            run.update(algorithm=evaluation.algorithm, selected=selected)
        results = _results(evaluation, partial(_after, reporter.advance, trials * config.episodes), run.folder)
        if evaluation.within:
            advance = partial(_after, reporter.advance, trials * config.episodes + each)
            more = _results(evaluation.within, advance, run.folder / PLACES[WITHIN])
            results = [{**r, "drawn": POOLED} for r in results] + [{**r, "drawn": WITHIN} for r in more]
        run.update(
            status="completed",
            finished_at=runs.now(),
            seconds=time.monotonic() - began,
            metric=results[0],
            results=results,
            episodes_hash=evaluation.sampler.hash(config.episodes),
        )
        reporter.finish(run.info)
        return {**run.info, "folder": str(run.folder)}


def _results(evaluation: Evaluation, advance: Callable[[int], None], folder: Path) -> list[dict[str, Any]]:
    """Score an evaluation's learner, write the files with its scores to a folder, and return the results."""
    folder.mkdir(exist_ok=True)
    kept = _scored(evaluation, evaluation.protocols, advance)
    kept.write(folder)
    kept.write_classes(folder, metric_of(evaluation.sampler).name)
    if kept.calibration:
        _draw_reliability(kept.calibration, folder)
    return [_result(evaluation, protocol, kept) for protocol in kept.protocols]


def _selected(candidates: Sequence[Candidate], reporter: Reporter) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Score candidates on validation episodes, under the first protocol.

    Returns:
        The evaluation of the best one on test episodes; and for each candidate its `values`, its score, see `mean_of`,
        and whether it was `chosen`.
    """
    table: list[dict[str, Any]] = []
    for index, candidate in enumerate(candidates):
        trial = candidate.prepared("val")
        before = index * trial.config.episodes
        kept = _scored(trial, trial.protocols[:1], partial(_after, reporter.advance, before))
        (protocol,) = kept.protocols
        table.append({"values": candidate.values, **_result(trial, protocol, kept)})
    sign = 1 if metric_named(table[0]["name"]).higher_is_better else -1
    goodness = [sign * row["value"] if math.isfinite(row["value"]) else -math.inf for row in table]
    best = goodness.index(max(goodness))
    for index, row in enumerate(table):
        row["chosen"] = index == best
    values = ", ".join(f"{key}={value}" for key, value in table[best]["values"].items())
    episodes = table[best]["over"]["episodes"]
    reporter.note(f"select: {values}, the best of {len(table)} on {episodes} validation episodes")
    return candidates[best].prepared("test"), table


def _scored(
    evaluation: Evaluation, protocols: Sequence[Normalisation | None], advance: Callable[[int], None]
) -> Scores:
    """Return the scores of an evaluation's learner under protocols; `advance` is called with the episodes scored."""
    config, sampler, fitting = evaluation.config, evaluation.sampler, evaluation.fitting
    calibration = {}
    with enough_memory("evaluate", config):
        outcomes = _outcomes(evaluation, evaluation.tested, protocols, advance)
        if fitting:
            before = len(protocols) * config.episodes
            fitted = _outcomes(evaluation, fitting, protocols, partial(_after, advance, before))
            calibration = {name: calibrated(fitted[name], found) for name, found in outcomes.items()}
    classes, higher = sampler.classes(config.episodes), metric_of(sampler).higher_is_better
    return Scores(
        protocols={name: found.scores for name, found in outcomes.items()},
        classes=classes,
        shots=getattr(sampler, "shots", lambda episodes: ())(config.episodes),
        by_class={name: scores_of_classes(found, classes, higher) for name, found in outcomes.items()},
        calibration=calibration,
    )


def _outcomes(
    evaluation: Evaluation, draw: Draw, protocols: Sequence[Normalisation | None], advance: Callable[[int], None]
) -> dict[str, Outcomes]:
    """Return what an evaluation's learner did in some episodes, by protocol."""
    learner, sampler = draw.on_features() if draw.on_features else (evaluation.learner, draw.sampler)
    own = evaluation.base() if evaluation.base else evaluation.learner.own
    began, timed = time.monotonic(), _Timed(sampler)
    outcomes: dict[str, Outcomes] = {}
    for index, protocol in enumerate(protocols):
        outcomes[protocol or "none"] = score_episodes(
            learner._replace(own=own, normalisation=protocol or "transductive"),
            timed,
            draw.episodes,
            evaluation.runtime,
            partial(_after, advance, index * draw.episodes),
            evaluation.fitting is not None,
        )
    seconds = time.monotonic() - began
    log.info("data took %.2f s, summed over threads, of the evaluation's %.2f s", timed.seconds, seconds)
    return outcomes


def _draw_reliability(calibration: Mapping[str, Calibrated], folder: Path) -> None:
    """Draw plots/reliability.png, a row for each protocol."""
    panels = {}
    for protocol, found in calibration.items():
        label = "" if protocol == "none" else f"{protocol}, "
        panels[f"{label}before"] = found.before
        panels[f"{label}after, temperature {found.temperature or 1:.3g}"] = found.after
    reliability_picture(panels, folder / RELIABILITY)


def _base(learner: Learner, data: Dataset, seed: int, runtime: Runtime) -> Params:
    """Return a learner's own tensors as statistics of the features of random training items, see `Algorithm.base`."""
    algorithm: Any = learner.algorithm
    net, z = learner.net, []
    with torch.no_grad():
        for step in range(_BATCHES):
            x, _ = data.batch("train", "all", _BATCH, seed, step)
            z.append(net.features(net.params, runtime.cast(x)))
    measured: Params = algorithm.base(torch.cat(z))
    return measured


class _Timed:
    """A sampler that adds up the seconds that its episodes take to draw."""

    def __init__(self, sampler: Sampler) -> None:
        self.way, self.regression = sampler.way, sampler.regression
        self.hash, self.classes = sampler.hash, sampler.classes
        if hasattr(sampler, "varying"):
            self.varying = sampler.varying
        self._sampler, self.seconds = sampler, 0.0

    def batch(self, step: int, tasks: int) -> Episode:
        """Draw."""
        began = time.monotonic()
        drawn = self._sampler.batch(step, tasks)
        self.seconds += time.monotonic() - began
        return drawn


def _after(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


def _result(evaluation: Evaluation, protocol: str, scores: Scores) -> dict[str, Any]:
    config, metric, found = evaluation.config, metric_of(evaluation.sampler), scores.protocols[protocol][None]
    calibration = scores.calibration.get(protocol)
    return {
        "name": f"{config.split}/{metric.name}",
        **mean_of(found, scores.classes),
        "worst_decile": worst_decile(found, metric.higher_is_better),
        # a class of a single episode is hard by chance
        "hardest": [own._asdict() for own in scores.by_class[protocol] if own.episodes > 1][:HARDEST],
        **({"calibration": calibration.told(config.calibration)} if calibration else {}),
        "normalisation": protocol,
        **({"fixed": True} if getattr(evaluation.sampler, "count", None) else {}),
        "learner": type(evaluation.learner.algorithm).__name__,
        "random_head": evaluation.random_head,
        **({"trained_on": evaluation.seen} if evaluation.seen else {}),
        **_shape(evaluation.sampler, config),
    }


def _shape(sampler: Any, config: EvaluateConfig) -> dict[str, Any]:
    """Return the numbers of an episode, or their bounds if they vary."""
    return {"varying": sampler.varying} if config.varying else config.episode._asdict()

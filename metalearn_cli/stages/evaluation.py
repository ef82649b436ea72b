"""What an evaluation is, and how it is prepared; `stages.evaluate` runs it.

An evaluation is a learner's score on fixed episodes of unseen classes, see `stages.evaluation_episodes`, with its 95 %
intervals. It is the only stage that reads test classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from metalearn_cli.core.build import Spec, build
from metalearn_cli.core.config import EvaluateConfig, Normalisation
from metalearn_cli.core.errors import ConfigError, Problem, UserError, gathered, raise_all
from metalearn_cli.core.network import BACKBONE, Params
from metalearn_cli.core.types import Algorithm, Dataset, Sampler
from metalearn_cli.engine.episodes import Learner
from metalearn_cli.engine.evaluation import of_its_way
from metalearn_cli.engine.ranks import Crew
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records.checkpoint import Checkpoint, load_into, read_classes
from metalearn_cli.records.classes import told
from metalearn_cli.records.names import name_of
from metalearn_cli.stages.crossing import check_items, crossed, trained_on
from metalearn_cli.stages.evaluation_episodes import (
    fitting_episodes,
    numbers_of,
    tested_episodes,
    varying_note,
    within_one_group,
)
from metalearn_cli.stages.evaluation_inputs import Choice, Inputs, chosen_learner, open_inputs
from metalearn_cli.stages.frozen import ONCE, scored_on_features
from metalearn_cli.stages.learner import check_learner, check_protocols, fresh_learner, fresh_network, try_learner
from metalearn_cli.stages.preparing import (
    describe_data,
    fitted,
    fitted_note,
    key_of,
    seen_before,
)
from metalearn_cli.stages.select import combinations, with_values
from metalearn_cli.stages.session import Session

_BATCHES, _BATCH = 20, 100  # training items whose features a learner's statistics are of
_CLASSES, _SHOWN = 10, 20  # of the embedding map: most classes, and most items of each


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
    mapped: Sampler | None  # of an episode, whose labelled items `records.embedding` is of; None for a regression
    protocols: tuple[Normalisation | None, ...]  # (None,) if the network has no batch statistics
    parent: Checkpoint | None
    data: dict[str, Any]
    algorithm: dict[str, Any]  # the learner's settings as they are used
    untrained_head: bool  # whether the learner has a head that no checkpoint brought
    seen: dict[str, Any] | None  # the classes that training has seen, see `records.classes.seen`
    notes: tuple[str, ...]
    base: Callable[[], Params] | None  # measures the learner's own tensors, see `Algorithm.base`
    crew: Crew  # the other ranks
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
    inputs = open_inputs(config, session)
    choice = chosen_learner(config.algorithm, inputs, given)
    candidates = _candidates(config, choice.spec, inputs.parent, session)
    if config.algorithm is not None or given:
        config = replace(config, algorithm=choice.spec)  # what is recorded is what was used
    algorithm = _algorithm(choice.spec, inputs, config)
    trained = inputs.model if choice.trained else {}
    asked, config = config, fitted(config, inputs.data, trained)
    sampler = tested_episodes(config, inputs.data)
    fresh = _fresh(algorithm, choice.spec, config, inputs)
    _try(fresh, sampler, config, inputs.runtime)
    learner, loaded = _loaded(fresh, choice, config, inputs)
    seen = _seen(config.split, inputs)
    tested, fitting = _draws(learner, config, inputs, inputs.data)
    notes = [
        _opening(config, inputs),
        *([varying_note(sampler)] if config.varying else fitted_note(asked, config, inputs.data, trained)),
        *loaded,
        _head_note(learner, choice, config, inputs),
        _data_note(learner, numbers_of(sampler, config), inputs),
        _seen_note(seen),
        ONCE if tested.on_features else "",
    ]
    evaluation = Evaluation(
        config=config,
        runtime=inputs.runtime,
        learner=learner,
        tested=tested,
        fitting=fitting,
        mapped=_mapped(config, inputs.data),
        protocols=_protocols(config, learner),
        parent=inputs.parent,
        data=describe_data(inputs.data, inputs.data_spec),
        algorithm=choice.spec,
        untrained_head=_has_untrained_head(algorithm, choice),
        seen=seen,
        notes=tuple(filter(None, notes)),
        base=_base(learner, config.seed, inputs),
        crew=session.crew,
        candidates=candidates,
    )
    if not config.also_within:
        return evaluation
    tested, fitting = _draws(learner, config, inputs, within_one_group(inputs.data))
    return replace(evaluation, within=replace(evaluation, tested=tested, fitting=fitting))


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


def _algorithm(spec: Spec, inputs: Inputs, config: EvaluateConfig) -> Algorithm:
    """Build the algorithm of the learner, and check that it and the checkpoint fit the data.

    Raises:
        ConfigError: if they do not.
    """
    algorithm: Algorithm = build(spec, "algorithm")
    problems = check_learner(algorithm, inputs.data.facts, config.runtime.precision)
    if problems := problems + check_protocols(algorithm, config.normalisation):
        raise ConfigError(problems)
    if inputs.parent:
        recorded = inputs.parent.manifest
        check_items(recorded["model"], recorded["data"], inputs.data, inputs.data_spec)
    return algorithm


def _fresh(algorithm: Algorithm, spec: Spec, config: EvaluateConfig, inputs: Inputs) -> Learner:
    """Return the learner with random tensors.

    Args:
        algorithm: how it learns.
        spec: the settings that it was built from.
        config: the evaluation's settings.
        inputs: of the evaluation.

    Raises:
        ConfigError: if it does not fit the network, or cannot have a varying number of classes.
    """
    facts = inputs.data.facts
    answers = facts.outputs or config.episode.way
    seed = config.seed if config.weights_seed is None else config.weights_seed
    net = fresh_network(inputs.backbone, facts, answers if algorithm.traits.head else None, seed, inputs.runtime)
    learner = fresh_learner(algorithm, net, answers, None, seed).at(1.0)
    if not config.varying:
        return learner
    wider = None if algorithm.traits.head else fresh_learner(build(spec, "algorithm"), net, answers + 1, None, seed)
    if wider is None or _sizes(learner) != _sizes(wider):
        message = f"{type(algorithm).__name__} has tensors for one number of classes, so that the way cannot vary"
        raise ConfigError([Problem("varying", f"{message}; set it to false, or type algorithm=nearest_centroid")])
    return learner


def _sizes(learner: Learner) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in learner.own.items()}


def _try(learner: Learner, sampler: Sampler, config: EvaluateConfig, runtime: Runtime) -> None:
    """Answer the first episode, see `try_learner`."""
    first = sampler.batch(0, 1)
    try_learner(of_its_way(learner, first) if config.varying else learner, first, runtime)


def _loaded(fresh: Learner, choice: Choice, config: EvaluateConfig, inputs: Inputs) -> tuple[Learner, list[str]]:
    """Return the learner with the tensors that the checkpoint has trained, on the device, and lines on them.

    These are all tensors if the learner is the checkpoint's own, else those of the backbone.

    Raises:
        ConfigError: if they do not fit.
    """
    parent, tensors, notes = inputs.parent, fresh.tensors, list[str]()
    if parent and _from_scratch(fresh.algorithm):
        name = type(fresh.algorithm).__name__
        notes.append(f"{name} starts from random weights; {parent.folder} gives the architecture")
    elif parent:
        way = config.episode.way
        if choice.trained and inputs.model["way"] not in (None, way):
            message = f"the checkpoint's head is for way = {inputs.model['way']}, got {way}"
            raise ConfigError([Problem("way", message)])
        prefixes = ("",) if choice.trained else (BACKBONE,)
        tensors, line = load_into(tensors, parent, prefixes, setting="ckpt")
        notes += [f"ckpt {config.ckpt} -> {parent.folder}"] * (config.ckpt != str(parent.folder))
        notes += [line, *choice.notes]
    return fresh.of(inputs.runtime.place(tensors)), notes


def _from_scratch(algorithm: Algorithm) -> bool:
    """Whether a learner takes nothing from a checkpoint but the architecture."""
    return algorithm.traits.head and not algorithm.traits.learns


def _has_untrained_head(algorithm: Algorithm, choice: Choice) -> bool:
    """Whether a learner has a head that should have been trained, and no checkpoint brought it."""
    return algorithm.traits.head and algorithm.traits.learns and not choice.trained


def _seen(split: str, inputs: Inputs) -> dict[str, Any] | None:
    """Return which classes of a split training has seen, see `seen_before`."""
    if not inputs.parent:
        return None
    return seen_before(read_classes(inputs.parent), inputs.data, inputs.data_spec, split)


def _draws(learner: Learner, config: EvaluateConfig, inputs: Inputs, data: Dataset) -> tuple[Draw, Draw | None]:
    """Return the episodes of the result, and those that a temperature is fitted on, from some data.

    Raises:
        ConfigError: if the data does not have such episodes.
    """

    def draw(sampler: Sampler, episodes: int) -> Draw:
        on_features = scored_on_features(learner, sampler, episodes, inputs.backbone, inputs.runtime)
        return Draw(sampler, episodes, on_features)

    tested = draw(tested_episodes(config, data), config.episodes)
    fitting = draw(fitting_episodes(config, data), config.calibration) if config.calibration else None
    return tested, fitting


def _mapped(config: EvaluateConfig, data: Dataset) -> Sampler | None:
    """Return an episode with as many items of each class as there are, but for one query; None for a regression."""
    if data.facts.regression or getattr(data, "fixed", {}):
        return None
    limits = data.limits
    return data.episodes(config.split, min(limits.way, _CLASSES), min(limits.items - 1, _SHOWN), 1, config.seed)


def _protocols(config: EvaluateConfig, learner: Learner) -> tuple[Normalisation | None, ...]:
    if learner.algorithm.traits.uses_queries:
        return ("transductive",)
    return tuple(config.normalisation) if learner.net.batch_statistics else (None,)


def _opening(config: EvaluateConfig, inputs: Inputs) -> str:
    """Return a line on the device and the data."""
    data = inputs.data
    drawn_from = f"{'tasks' if data.facts.regression else 'classes'} of {config.split}"
    return f"evaluate: {inputs.runtime.description}; data {data.name} ({data.protocol}), {drawn_from}"


def _head_note(learner: Learner, choice: Choice, config: EvaluateConfig, inputs: Inputs) -> str:
    """Return a warning of an untrained head beside a checkpoint, or ""."""
    # with a seed of its own, a chain draws a head on purpose, and says so in its table
    if not inputs.parent or not _has_untrained_head(learner.algorithm, choice) or config.weights_seed is not None:
        return ""
    name = name_of("algorithm", choice.spec)
    why = f"the checkpoint has no head for {name}, so that this scores an untrained one"
    run = inputs.parent.manifest["run"]
    return f"warning: {why}; train one with: mlx meta-train init_from={run} algorithm={name}"


def _data_note(learner: Learner, tested: Mapping[str, Any], inputs: Inputs) -> str:
    """Return a line on how data and episodes differ from those of training, or ""; `tested` are their numbers."""
    if not inputs.parent or _from_scratch(learner.algorithm):
        return ""
    return crossed(trained_on(inputs.parent), inputs.data, tested)


def _seen_note(seen: Mapping[str, Any] | None) -> str:
    if not seen:
        return ""
    return f"warning: {told(seen)}; the score is too high for classes that training has not seen"


def _base(learner: Learner, seed: int, inputs: Inputs) -> Callable[[], Params] | None:
    """Return what measures a learner's own tensors, see `Algorithm.base`; None if they are not statistics."""
    if not learner.own or not hasattr(learner.algorithm, "base"):
        return None
    return partial(_measured, learner, inputs.data, seed, inputs.runtime)


def _measured(learner: Learner, data: Dataset, seed: int, runtime: Runtime) -> Params:
    """Return a learner's own tensors as statistics of the features of random training items, see `Algorithm.base`."""
    algorithm: Any = learner.algorithm
    net, z = learner.net, []
    with torch.no_grad():
        for step in range(_BATCHES):
            x, _ = data.batch("train", "all", _BATCH, seed, step)
            z.append(net.features(net.params, runtime.cast(x)))
    measured: Params = algorithm.base(torch.cat(z))
    return measured

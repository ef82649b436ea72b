"""`mlx run`: the training stages one after the other, then a table with the gain of each.

Stages already done with the same settings and inputs are skipped, an interrupted one is resumed: a chain has no state
besides the runs of its stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.build import Spec
from metalearn_cli.core.config import ChainConfig, EvaluateConfig, MetaTrainConfig, TransferConfig, digest, plain
from metalearn_cli.core.errors import ConfigError, Problem, UserError, gathered, raise_all
from metalearn_cli.core.metric import SAME_CLASSES, metric_named
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Reporter
from metalearn_cli.records import runs
from metalearn_cli.records.log import working_on
from metalearn_cli.records.names import name_of
from metalearn_cli.records.selected import chosen
from metalearn_cli.stages.again import all_of, evaluated, trained
from metalearn_cli.stages.crossing import check_items
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.evaluation_inputs import FLOORS
from metalearn_cli.stages.preparing import (
    CommonT,
    MakeJob,
    accepted,
    describe_data,
    essence,
    fitted,
    fitted_note,
    identity,
    metric_of,
    prepare,
    random_start,
)
from metalearn_cli.stages.scores import INTERVALS, OF_ONE, PLACES, POOLED, Scores, mean_of, worst_decile
from metalearn_cli.stages.select import combinations, with_values
from metalearn_cli.stages.session import Session


def run_chain(
    config: ChainConfig, make_jobs: dict[str, MakeJob], session: Session, reporter: Reporter, **facts: Any
) -> dict[str, Any]:
    """Run the chain.

    Args:
        config: the settings of all its stages.
        make_jobs: makes the job of each training stage.
        session: shared by the stages.
        reporter: gets progress and metrics.
        facts: more entries for run.json.

    Returns:
        The chain's run.json; `table` has one row per checkpoint, learner and protocol, see `_table`; `evaluations` has
        the ids of the runs that scored them, see `_scored_by`.
    """
    check_chain(config, make_jobs, session)
    if config.first:
        of_first = {key: value for key, value in facts.items() if key != "typed"}  # which are this chain's words
        config = _after(run_chain(config.first, make_jobs, session, reporter, **of_first), config)
    config = _fitted(config, session, reporter)
    key = _key(config, session)
    same = all_of("run", key, config.runs_dir, config.wait)
    # a repeated chain starts from the checkpoint that `latest` meant the first time
    starts = _moved(same[0].get("starts") if same else None, config.runs_dir) or _starts(config)
    if same:
        run = runs.reopen(Path(same[0]["folder"]), starts=starts)
    else:
        run = runs.create(config.runs_dir, "run", plain(config), key=key, parent=None, starts=starts, **facts)
    with working_on(run):
        trainings: list[list[_Row]] = []
        for one in _trainings(config):
            if one.name:
                reporter.note(one.name)
            trainings.append([])
            with _blamed_on_folds(one):
                for row in _training(one.config, starts, make_jobs, one.session or session, reporter):
                    trainings[-1].append(row)
                    if len(trainings) == 1 and row.after in config.stages:
                        run.update(parent=row.evaluation["parent"])
        ordered = [sorted(rows, key=lambda row: not row.common) for rows in trainings]
        table = _table(ordered, config.folds or 1)
        last = table[-1]["after"], table[-1]["learner"]
        result = next(row for row in table if (row["after"], row["learner"]) == last)
        run.update(
            status="completed",
            finished_at=runs.now(),
            # that of its parts, so that what an earlier command did counts, too
            seconds=sum(row.trained + row.evaluation["seconds"] for rows in trainings for row in rows),
            data=_all_folds(trainings[0][-1].evaluation["data"], config.folds),
            metric={k: v for k, v in result.items() if k not in ("after", "selected") and "gain" not in k},
            table=table,
            evaluations=[_scored_by(cells) for cells in zip(*ordered, strict=True)],
        )
        reporter.finish(run.info)
        return {**run.info, "folder": str(run.folder), "checkpoint": run.info["parent"]["checkpoint"]}


def _after(done: dict[str, Any], config: ChainConfig) -> ChainConfig:
    """Return settings of a chain that starts from the last checkpoint of another one, which is done."""
    begin = config.stages[0]
    started = replace(config.training[begin], init_from=done["checkpoint"])
    return replace(config, training={**config.training, begin: started}, first=None)


class _Training(NamedTuple):
    """One training of the stages.

    Attributes:
        config: the settings.
        name: a line that says which one it is, or "" for the only one.
        session: a fold has its own, so that one fold at a time is in memory; None for the chain's.
    """

    config: ChainConfig
    name: str
    session: Session | None


def _trainings(config: ChainConfig) -> Iterator[_Training]:
    """Yield each training: every fold for the first seed, then for the next."""
    folds = config.folds or 1
    of = config.seeds * folds
    for index in range(of):
        seed, k = divmod(index, folds)
        own = _with_seed(config, seed)
        name = f"training {index + 1} of {of}" if of > 1 else ""
        if config.folds:
            yield _Training(_with_fold(own, k + 1), f"{name}: fold {k + 1} of {folds} is test", Session())
        else:
            yield _Training(own, name, None)


class _Row(NamedTuple):
    """A row of the table, from one training.

    Attributes:
        after: the stage that wrote the checkpoint; "start" for the chain's initial checkpoint, "nothing" for none.
        common: whether its learner is the common one, which scores every checkpoint, not the meta-trained one.
        evaluation: run.json of its evaluation.
        trained: seconds of the training that only this row counts.
    """

    after: str
    common: bool
    evaluation: dict[str, Any]
    trained: float = 0.0


def _training(
    config: ChainConfig,
    starts: Mapping[str, Mapping[str, str]],
    make_jobs: dict[str, MakeJob],
    session: Session,
    reporter: Reporter,
) -> Iterator[_Row]:
    """Train the stages that are not done, and score each checkpoint with a common learner.

    The meta-trained learner is scored before and after meta-training, too: a change of learner is not a stage's gain.
    """

    def scored(ckpt: str | None, algorithm: Spec | None, seed: int | None) -> dict[str, Any]:
        settings = _scoring(config, ckpt, algorithm, seed)
        if algorithm == floor:  # what is selected are settings of the meta-trained learner
            settings = replace(settings, select={})
        return evaluated(prepare_evaluation(settings, session), reporter, config.wait)

    first = config.training[config.stages[0]]
    start = starts.get(config.stages[0], {}).get("init_from")
    before = "start" if start else "nothing"
    regression = session.data(_tested(config), session.runtime(first.runtime)).facts.regression
    floor, reads_checkpoint = FLOORS[regression], not regression  # a network from scratch is the same after any stage
    if start and reads_checkpoint:
        yield _Row("start", True, scored(start, floor, None))
    else:
        yield _Row("nothing", True, scored(None, floor, first.seed))
    took = 0.0
    for stage in config.stages:
        settings = config.training[stage]
        if isinstance(settings, MetaTrainConfig):
            yield _Row(before, False, scored(start, settings.algorithm, settings.seed))
        pinned: dict[str, Any] = {**starts.get(stage, {}), **({"init_from": start} if start else {})}
        prepared = prepare(stage, replace(settings, **pinned), make_jobs[stage], session)
        done = trained(prepared, session, reporter, config.wait)
        start, took = done["checkpoint"], took + done["seconds"]
        before = stage
        if reads_checkpoint:
            yield _Row(stage, True, scored(start, floor, None), took)
            took = 0.0
        if isinstance(settings, MetaTrainConfig):
            yield _Row(stage, False, scored(start, None, None), took)
            took = 0.0


def _tested(config: ChainConfig) -> Spec:
    """Return the settings of the data that every checkpoint is scored on."""
    return config.evaluate.data or config.training[config.stages[0]].data


def _with_seed(config: ChainConfig, index: int) -> ChainConfig:
    """Return the settings of the training with this index: `index` is added to every stage's seed."""
    training = {stage: replace(settings, seed=settings.seed + index) for stage, settings in config.training.items()}
    return replace(config, training=training)


def _with_fold(config: ChainConfig, k: int) -> ChainConfig:
    """Return the settings with fold `k` as test, in every stage that uses the data of the evaluation."""
    tested = _tested(config)

    def folded(spec: Spec) -> Spec:
        same = all(spec.get(key) == tested.get(key) for key in ("_target_", "root", "parts"))
        return {**spec, "fold": f"{k}/{config.folds}"} if same else spec

    training: dict[str, Any] = {}
    for stage, settings in config.training.items():
        training[stage] = replace(settings, data=folded(settings.data))
        if isinstance(settings, TransferConfig):
            also = {name: folded(spec) for name, spec in settings.also.items()}
            training[stage] = replace(training[stage], also=also)
    return replace(config, training=training, evaluate=replace(config.evaluate, data=folded(tested)))


@contextmanager
def _blamed_on_folds(training: _Training) -> Iterator[None]:
    """Within a block, name the setting `folds` in errors of a fold, instead of the data's.

    Raises:
        ConfigError: in place of one with the key data.fold, or another one for a fold.
    """
    try:
        yield
    except ConfigError as error:
        if training.config.folds is None:
            raise
        problems = []
        for key, message, *rest in error.problems:
            small = key.rpartition(".")[2] in ("way", "shot", "query")
            message += f"; or type fewer folds than {training.config.folds}" * small
            problems.append(Problem("folds" if key.endswith("data.fold") else key, message, *rest))
        raise ConfigError(dict.fromkeys(problems)) from error


def _all_folds(data: dict[str, Any], folds: int | None) -> dict[str, Any]:
    """Return the record of the data of all folds from that of the first one."""
    if folds is None:
        return data
    protocol = data["protocol"].replace(f"fold 1 of {folds}", f"{folds} folds")
    spec = {**data["spec"], "fold": None}
    return {**data, "protocol": protocol, "fingerprint": data["whole"], "spec": spec}


def _fitted(config: ChainConfig, session: Session, reporter: Reporter) -> ChainConfig:
    """Return the settings with `way` and `query` as numbers that all folds allow; say which are unusual."""
    every = [_fitted_to(one.config, one.session or session) for one in _trainings(replace(config, seeds=1))]
    training: dict[str, Any] = {}
    for stage, settings in config.training.items():
        training[stage] = _least(settings, [each.training[stage] for each in every])
    evaluate = _least(config.evaluate, [each.evaluate for each in every])
    tested = _tested(config)
    data = session.data(tested, session.runtime(config.evaluate.runtime))
    for note in fitted_note(config.evaluate, evaluate, data):
        reporter.note(note)
    return replace(config, training=training, evaluate=evaluate)


def _fitted_to(config: ChainConfig, session: Session) -> ChainConfig:
    """Return the settings with `way` and `query` as numbers that their data allows, see `preparing.fitted`."""
    training = {}
    for stage, settings in config.training.items():
        training[stage] = fitted(settings, session.data(settings.data, session.runtime(settings.runtime)))
    tested = _tested(config)
    evaluate = fitted(config.evaluate, session.data(tested, session.runtime(config.evaluate.runtime)))
    return replace(config, training=training, evaluate=evaluate)


def _least(settings: CommonT, fitted_ones: Sequence[CommonT]) -> CommonT:
    """Return settings with the smallest `way` and `query` of some that are fitted to data."""
    episodes = [each.episode for each in fitted_ones]
    return replace(settings, way=min(e.way for e in episodes), query=min(e.query for e in episodes))


def _key(config: ChainConfig, session: Session) -> str:
    """Return the key of a chain: settings and inputs, but no paths; for `latest`, see `starts`."""
    parts = []
    settings: Any
    for stage, settings in [*config.training.items(), ("evaluate", _scoring(config, None, None, None))]:
        runtime = session.runtime(settings.runtime)
        specs = {"": settings.data, **getattr(settings, "also", {})}
        data = {name: identity(describe_data(session.data(spec, runtime), spec)) for name, spec in specs.items()}
        parts.append([stage, essence(settings), data])
    named = {f"{stage}.{s}": name for stage, found in _named(config).items() for s, name in found.items()}
    for key, name in named.items():
        if not name.startswith("latest"):
            stage, setting = key.rsplit(".", 1)
            folder = runs.find_checkpoint(name, config.runs_dir, accepted(stage, setting), setting)
            named[key] = session.checkpoint(folder).sha256
    return digest([config.seeds, config.folds, parts, named])


def _moved(starts: dict[str, dict[str, str]] | None, runs_dir: str) -> dict[str, dict[str, str]]:
    """Return recorded `starts` with their current paths."""
    found = {stage: own.items() for stage, own in (starts or {}).items()}
    return {stage: {s: runs.found_again(path, runs_dir) for s, path in own} for stage, own in found.items()}


def _named(config: ChainConfig) -> dict[str, dict[str, str]]:
    """Return the checkpoints in the stages' settings: `init_from` of the first one, and teachers."""
    found: dict[str, dict[str, str]] = {}
    for stage, settings in config.training.items():
        named = {"teacher": getattr(settings, "teacher", None)}
        if stage == config.stages[0]:
            named["init_from"] = settings.init_from
        if given := {setting: name for setting, name in named.items() if name is not None}:
            found[stage] = given
    return found


def _starts(config: ChainConfig) -> dict[str, dict[str, str]]:
    """Return the checkpoints in the stages' settings, as paths."""
    return {
        stage: {
            setting: str(runs.find_checkpoint(name, config.runs_dir, accepted(stage, setting), setting))
            for setting, name in named.items()
        }
        for stage, named in _named(config).items()
    }


def check_chain(config: ChainConfig, make_jobs: dict[str, MakeJob], session: Session) -> list[str]:
    """Build and check everything that the stages need, so that all errors are reported before the first one begins.

    Returns:
        Lines on the device, data and initial checkpoints of the stages.

    Raises:
        ConfigError: as `prepare` and `prepare_evaluation` do.
    """
    specs = [settings.data for settings in config.training.values()] + [config.evaluate.data or {}]
    if config.folds and (named := [spec["fold"] for spec in specs if spec.get("fold")]):
        told = f"must be null, as folds={config.folds} takes every fold; got {named[0]}"
        raise ConfigError([Problem("data.fold", told)])
    notes: list[str] = check_chain(config.first, make_jobs, session) if config.first else []
    for one in _trainings(replace(config, seeds=1)):
        with _blamed_on_folds(one):
            notes += _check(one.config, make_jobs, one.session or session)
    return list(dict.fromkeys(notes))


def _check(config: ChainConfig, make_jobs: dict[str, MakeJob], session: Session) -> list[str]:
    """Check one training of each stage, see `check_chain`."""
    errors: list[UserError] = []
    notes: list[str] = []
    tested = None
    with gathered(errors):
        evaluation = prepare_evaluation(replace(_scoring(config, None, None, None), select={}), session)
        tested = session.data(_tested(config), evaluation.runtime)
        config = replace(config, evaluate=replace(config.evaluate, way=evaluation.config.way))
        notes += evaluation.notes
    with gathered(errors):
        _check_select(config, session)
    errors = [_in_section(error, "evaluate", config) for error in errors]
    for stage, settings in config.training.items():
        first = stage == config.stages[0]
        before = len(errors)
        with gathered(errors):
            settings = settings if first else replace(settings, init_from=None)
            prepared = prepare(stage, settings, make_jobs[stage], session)
        if len(errors) > before:
            errors[-1] = _in_section(errors[-1], stage, config)
            continue
        starts_here = first and not config.first  # else there will be a checkpoint
        notes += [note for note in prepared.notes if starts_here or note != random_start(settings)]
        inductive = "transductive" not in config.evaluate.normalisation  # not every learner can be that
        if isinstance(settings, MetaTrainConfig) and (config.evaluate.varying or inductive):
            with gathered(errors):
                prepare_evaluation(_scoring(config, None, settings.algorithm, settings.seed), session)
        if tested is not None:
            with gathered(errors):
                check_items(prepared.job.model, prepared.job.data, tested, _tested(config))
        errors[before:] = [_in_section(error, "evaluate", config) for error in errors[before:]]
        way = prepared.job.model.get("way")
        if not config.evaluate.varying and way not in (None, config.evaluate.way):
            message = f"must be {way}, the outputs of the head that {stage} trains, got {config.evaluate.way}"
            errors.append(ConfigError([Problem("evaluate.way", message)]))
    raise_all(errors)
    return notes


def _check_select(config: ChainConfig, session: Session) -> None:
    """Check that `evaluate.select` fits the learner that is meta-trained.

    Raises:
        ConfigError: with what does not fit, or if nothing is meta-trained.
    """
    learner = config.training.get("meta-train")
    if not config.evaluate.select:
        return
    if not isinstance(learner, MetaTrainConfig):
        message = "chooses settings of the learner that meta-train trains, and stages has no meta-train"
        raise ConfigError([Problem("select", message)])
    prepare_evaluation(_scoring(config, None, learner.algorithm, learner.seed), session)


def _in_section(error: UserError, stage: str, config: ChainConfig) -> UserError:
    """Return an error of a stage with its keys as they are in the settings of `mlx run`."""
    if not isinstance(error, ConfigError):
        return error
    section, own = TABLE[stage].section, config.own[stage]
    keys = [f"{section}.{p.key}" if p.key.split(".")[0] in own else p.key for p in error.problems]
    return ConfigError([p._replace(key=key) for p, key in zip(error.problems, keys, strict=True)])


def _scoring(config: ChainConfig, ckpt: str | None, algorithm: Spec | None, seed: int | None) -> EvaluateConfig:
    """Return the settings that evaluate a checkpoint, or the untrained backbone, always on the same episodes.

    Args:
        config: the chain's settings.
        ckpt: the checkpoint; None for the untrained backbone.
        algorithm: the learner that scores it; None for the checkpoint's.
        seed: seed of the weights that are not in the checkpoint.
    """
    first = config.training[config.stages[0]]
    backbone, data = None if ckpt else first.backbone, _tested(config)
    return replace(config.evaluate, ckpt=ckpt, backbone=backbone, data=data, algorithm=algorithm, weights_seed=seed)


def names_in(config: ChainConfig, algorithm: Spec) -> list[str]:
    """Return the names that a meta-trained learner may have in the results: what is selected may change it."""
    try:
        every = combinations(config.evaluate.select, algorithm, config.evaluate.split)
    except ConfigError:
        every = [{}]  # the run says what is wrong
    return list(dict.fromkeys(name_of("algorithm", with_values(algorithm, values)) for values in every))


def scored_as(config: ChainConfig, session: Session) -> list[tuple[str, str, str, str]]:
    """Return what a chain's rows are about, each once: metric, learner, protocol, and how episodes are drawn.

    Raises:
        UserError: if an evaluation cannot be prepared.
    """
    first = config.training[config.stages[0]]
    regression = session.data(_tested(config), session.runtime(first.runtime)).facts.regression
    trained = [settings.algorithm for settings in config.training.values() if isinstance(settings, MetaTrainConfig)]
    found: list[tuple[str, str, str, str]] = []
    for algorithm in (FLOORS[regression], *trained):
        settings = replace(_scoring(config, None, algorithm, first.seed), select={})
        evaluation = prepare_evaluation(settings, session)
        metric = metric_of(evaluation.sampler).name
        names = names_in(config, algorithm) if algorithm in trained else [name_of("algorithm", algorithm)]
        for name, drawn in product(names, PLACES if settings.also_within else (POOLED,)):
            found += [(metric, name, protocol or "none", drawn) for protocol in evaluation.protocols]
    return found


def _table(trainings: list[list[_Row]], folds: int) -> list[dict[str, Any]]:
    """Return a row per checkpoint, learner and protocol: its score, and its gain over the row before.

    A gain is the mean difference, episode by episode, with the same learner and protocol; it is positive for an
    improvement, also if the metric is an error. The first row of each learner has none. Scores and gains have the
    intervals of `mean_of`; those of gains are named "gain_interval" and so on. `selected` has what each evaluation
    selected, see `records.selected`.

    Args:
        trainings: the rows of each training; all folds for one seed follow each other.
        folds: of cross-validation, whose episodes are taken together; 1 for none.
    """
    rows = []
    before: dict[tuple[bool, str, str], Tensor] = {}
    for cells in zip(*trainings, strict=True):
        after, common, evaluation, _ = cells[0]
        more: dict[str, Any] = {"folds": folds} if folds > 1 else {}
        if any(choices := [chosen(cell.evaluation) for cell in cells]):
            more["selected"] = choices
        # folds of items have the same classes, which are then left out in all folds at once
        apart = 1 if evaluation["data"]["protocol"].startswith(SAME_CLASSES) else folds
        for result in evaluation["results"]:
            protocol, drawn = result["normalisation"], result.get("drawn", POOLED)
            found = [_read(cell.evaluation, drawn) for cell in cells]
            classes = [episode for each in found[:folds] for episode in each.classes]
            scores = torch.stack([each.protocols[protocol] for each in found]).unflatten(0, (-1, folds)).flatten(1)
            earlier = before.get((common, protocol, drawn))
            sign = 1 if metric_named(result["name"]).higher_is_better else -1
            gained = None if earlier is None else mean_of(sign * (scores - earlier), classes, apart)
            gain = {
                "gain": gained and gained["value"],
                **{f"gain_{name}": gained and gained[name] for name in INTERVALS},
            }
            worst = {"worst_decile": worst_decile(scores, sign > 0)}
            result = {name: value for name, value in result.items() if name not in OF_ONE}
            rows.append({"after": after, **result, **mean_of(scores, classes, apart), **worst, **gain, **more})
            before[common, protocol, drawn] = scores
    return rows


def _scored_by(cells: Sequence[_Row]) -> dict[str, Any]:
    """Return which runs scored the same checkpoint of each training; all folds for one seed follow each other."""
    learner = cells[0].evaluation["results"][0]["learner"]
    return {"after": cells[0].after, "learner": learner, "runs": [cell.evaluation["id"] for cell in cells]}


def _read(evaluation: Mapping[str, Any], drawn: str) -> Scores:
    """Return the scores of an evaluation, from all classes or within one group."""
    return Scores.read(Path(evaluation["folder"]) / PLACES[drawn], evaluation["metric"]["over"]["episodes"])

"""How an evaluation runs, and what it records; `stages.evaluation` prepares it.

`evaluate` first scores each candidate on validation episodes, if settings are to be chosen, and then the learner on the
episodes of the result, under each protocol: `_results` writes the files with its scores, `_scored` computes them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.core.check import written
from metalearn_cli.core.config import Normalisation, plain
from metalearn_cli.core.learning import principal
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.types import ALL, Episode, Reporter, Sampler
from metalearn_cli.engine.evaluation import Outcomes, score_episodes
from metalearn_cli.records import runs
from metalearn_cli.records.embedding import Embedding, write_embedding
from metalearn_cli.records.log import working_on
from metalearn_cli.records.names import name_of
from metalearn_cli.records.plots import reliability_picture
from metalearn_cli.records.trackers import tracking
from metalearn_cli.stages.crossing import trained_on
from metalearn_cli.stages.curves import draw_curves, is_curve
from metalearn_cli.stages.evaluation import Candidate, Draw, Evaluation
from metalearn_cli.stages.evaluation_episodes import numbers_of
from metalearn_cli.stages.preparing import enough_memory, metric_of
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

log = logging.getLogger("metalearn_cli")

RELIABILITY, FITS = "plots/reliability.png", "plots/fits.png"
_DRAWN = 3  # episodes of a regression whose fits are drawn


def _ignore(done: int) -> None:
    """Report nothing."""


def evaluate(evaluation: Evaluation, reporter: Reporter, run: runs.Run | None = None, **facts: Any) -> dict[str, Any]:
    """Score every protocol on the same episodes, in a new run folder or an unfinished one.

    Returns:
        The run's run.json; `results` has one entry per protocol, the scores of single episodes are in episodes.csv;
        `selected`, where settings were to be chosen, is the table of `_selected`.
    """
    config = evaluation.config
    run = run or _new_run(evaluation, facts)
    began = time.monotonic()
    trackers = [name for name in config.tracker if name != "tensorboard"]  # it shows curves, and there are none
    ranks = evaluation.crew.working(evaluation.runtime, ("evaluate", _pinned(evaluation), None))
    with working_on(run), tracking(trackers, run, plain(config), reporter.note) as told, ranks:
        trials = len(evaluation.candidates)
        each = len(evaluation.protocols) * (config.episodes + config.calibration)
        steps = trials * config.episodes + each * (2 if config.also_within else 1)
        reporter.start("evaluate", str(run.folder), 0, steps)
        for note in evaluation.notes:
            reporter.note(note)
        if evaluation.candidates:
            evaluation, selected = _selected(evaluation.candidates, reporter.advance)
            reporter.note(_told(selected))
            run.update(algorithm=evaluation.algorithm, selected=selected)
        results = _results(evaluation, partial(_after, reporter.advance, trials * config.episodes), run.folder)
        if evaluation.within:
            advance = partial(_after, reporter.advance, trials * config.episodes + each)
            more = _results(evaluation.within, advance, run.folder / PLACES[WITHIN])
            results = [{**r, "drawn": POOLED} for r in results] + [{**r, "drawn": WITHIN} for r in more]
        if evaluation.mapped and (found := _embedding(evaluation, evaluation.mapped)):
            write_embedding(found, run.folder)
        told.log([{"step": 0, **dict(map(_tracked, results))}])
        told.pictures(0)
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


def _tracked(result: Mapping[str, Any]) -> tuple[str, float]:
    """Return the name and the value of a result for trackers."""
    protocol = "" if result["normalisation"] == "none" else f"/{result['normalisation']}"
    place = f"/{PLACES[WITHIN]}" if result.get("drawn") == WITHIN else ""
    return result["name"] + protocol + place, result["value"]


def score_along(evaluation: Evaluation) -> None:
    """Evaluate as a rank other than 0: score this rank's share of all episodes, and write nothing."""
    if evaluation.candidates:
        evaluation, _ = _selected(evaluation.candidates)
    for part in filter(None, (evaluation, evaluation.within)):
        _scored(part, part.protocols, _ignore)


def _pinned(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings of an evaluation with its checkpoint and its learner, as all ranks need them."""
    ckpt = str(evaluation.parent.folder) if evaluation.parent else None
    return plain(evaluation.config) | {"ckpt": ckpt, "algorithm": evaluation.algorithm}


def _new_run(evaluation: Evaluation, facts: Mapping[str, Any]) -> runs.Run:
    """Create the run of an evaluation; `facts` are more entries for its run.json."""
    parent = evaluation.parent
    inputs = {"parent": parent.parent_entry if parent else None, "data": evaluation.data}
    training = {"training": trained_on(parent)} if parent else {}
    own = {"key": evaluation.key, **inputs, "algorithm": evaluation.algorithm, **training}
    return runs.create(evaluation.config.runs_dir, "evaluate", plain(evaluation.config), **{**facts, **own})


def _selected(
    candidates: Sequence[Candidate], advance: Callable[[int], None] = _ignore
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Score candidates on validation episodes, under the first protocol.

    Returns:
        The evaluation of the best one on test episodes; and for each candidate its `values`, its score, see `mean_of`,
        and whether it was `chosen`.
    """
    table: list[dict[str, Any]] = []
    for index, candidate in enumerate(candidates):
        trial = candidate.prepared("val")
        before = index * trial.config.episodes
        kept = _scored(trial, trial.protocols[:1], partial(_after, advance, before))
        (protocol,) = kept.protocols
        table.append({"values": candidate.values, **_result(trial, protocol, kept)})
    sign = 1 if metric_named(table[0]["name"]).higher_is_better else -1
    goodness = [sign * row["value"] if math.isfinite(row["value"]) else -math.inf for row in table]
    best = goodness.index(max(goodness))
    for index, row in enumerate(table):
        row["chosen"] = index == best
    return candidates[best].prepared("test"), table


def _told(table: Sequence[Mapping[str, Any]]) -> str:
    """Return a line on what was chosen, from the table of `_selected`."""
    best = next(row for row in table if row["chosen"])
    values = ", ".join(f"{key}={written(value)}" for key, value in best["values"].items())
    return f"select: {values}, the best of {len(table)} on {best['over']['episodes']} validation episodes"


def _results(evaluation: Evaluation, advance: Callable[[int], None], folder: Path) -> list[dict[str, Any]]:
    """Score an evaluation's learner, write the files with its scores to a folder, and return the results."""
    folder.mkdir(exist_ok=True)
    kept = _scored(evaluation, evaluation.protocols, advance)
    kept.write(folder)
    kept.write_classes(folder, metric_of(evaluation.sampler).name)
    if kept.calibration:
        _draw_reliability(kept.calibration, folder)
    _draw_fits(evaluation, folder)
    return [_result(evaluation, protocol, kept) for protocol in kept.protocols]


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


class _Timed:
    """A sampler that adds up the seconds that its episodes take to draw."""

    def __init__(self, sampler: Sampler) -> None:
        self.way, self.regression = sampler.way, sampler.regression
        self.hash, self.classes = sampler.hash, sampler.classes
        if hasattr(sampler, "varying"):
            self.varying = sampler.varying
        self._sampler, self.seconds = sampler, 0.0

    def batch(self, step: int, tasks: int, share: slice = ALL) -> Episode:
        """Draw."""
        began = time.monotonic()
        drawn = self._sampler.batch(step, tasks, share)
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
        "learner": name_of("algorithm", evaluation.algorithm),
        "untrained_head": evaluation.untrained_head,
        **({"trained_on": evaluation.seen} if evaluation.seen else {}),
        **numbers_of(evaluation.sampler, config),
    }


def _draw_fits(evaluation: Evaluation, folder: Path) -> None:
    """Draw plots/fits.png, the first episodes of a regression from one number to one number."""
    config, runtime, protocol = evaluation.config, evaluation.runtime, evaluation.protocols[0]
    if not evaluation.sampler.regression:
        return
    steps = range(min(_DRAWN, config.episodes))
    first = [runtime.cast(evaluation.sampler.batch(step, 1)).map(itemgetter(0)) for step in steps]
    if not is_curve(first[0]):
        return
    named = ", ".join(filter(None, [name_of("algorithm", evaluation.algorithm), protocol]))
    title = f"{named}: the first {len(first)} of {config.episodes} {config.split} episodes"
    learner = evaluation.learner._replace(normalisation=protocol or "transductive")
    draw_curves(learner, first, title, folder / FITS)


def _draw_reliability(calibration: Mapping[str, Calibrated], folder: Path) -> None:
    """Draw plots/reliability.png, a row for each protocol."""
    panels = {}
    for protocol, found in calibration.items():
        label = "" if protocol == "none" else f"{protocol}, "
        panels[f"{label}before"] = found.before
        panels[f"{label}after, temperature {found.temperature or 1:.3g}"] = found.after
    reliability_picture(panels, folder / RELIABILITY)


def _embedding(evaluation: Evaluation, sampler: Sampler) -> Embedding | None:
    """Return the features of some items of unseen classes in two dimensions; None if they are not finite."""
    net = evaluation.learner.net
    episode = evaluation.runtime.cast(sampler.batch(0, 1).map(itemgetter(0)))
    with torch.no_grad(), enough_memory("evaluate", evaluation.config):
        z = net.features(net.params, episode.support_x).double().cpu()
    if not z.isfinite().all():
        return None
    places, variance = principal(z)
    (names,) = sampler.classes(1)
    classes = [names[int(index)] for index in episode.support_y]
    first, second = variance.tolist()
    return Embedding((first, second), [(name, *place) for name, place in zip(classes, places.tolist(), strict=True)])

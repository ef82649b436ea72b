"""The sides of a comparison: which evaluations belong to which runs, and which differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.nested import leaves, within
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.records import runs
from metalearn_cli.records.names import name_of, recorded_name
from metalearn_cli.records.selected import chosen, in_words
from metalearn_cli.stages.scores import Scores, check_scores

Run = Mapping[str, Any]
Listing = Callable[[str], Sequence[Run]]
"""`records.runs.list_runs`, or the same with a memory, so that a folder of many runs is read once."""

_APART = (
    *("seed", "weights_seed", "runs_dir", "runtime", "tracker"),
    *("init_from", "ckpt", "teacher", "data", "also", "algorithm"),
)
"""Settings that say where something is or which of several trainings it is, and those that run.json says better."""

_BESIDE = ("normalisation", "also_within", "calibration")
"""Settings of an evaluation that add results, but change no score."""


class Side(NamedTuple):
    """One side of comparisons: trainings with different seeds.

    Attributes:
        name: what it is called.
        evaluations: the run.json of the evaluation of each training, by its seed.
        scores: of each.
    """

    name: str
    evaluations: Mapping[str, Run]
    scores: Mapping[str, Scores]

    @classmethod
    def of(cls, name: str, evaluations: Mapping[str, Run]) -> Side:
        """Read the scores of evaluations.

        Raises:
            UserError: if they are missing or damaged, or not finite.
        """
        return cls(name, evaluations, {seed: _scores(run) for seed, run in evaluations.items()})

    @property
    def classes(self) -> Sequence[tuple[str, ...]]:
        """Those of each episode, see `Scores`."""
        return next(iter(self.scores.values())).classes

    @property
    def protocols(self) -> list[str]:
        """The protocols under which all its trainings were scored."""
        first, *others = (own.protocols for own in self.scores.values())
        return [name for name in first if all(name in own for own in others)]

    def under(self, protocol: str, seeds: Iterable[str]) -> Tensor:
        """Return scores [S, E] under a protocol, or the only ones where there are no batch statistics."""
        return torch.stack([self.scores[seed].under(protocol) for seed in seeds])


class Group(NamedTuple):
    """Evaluations of trainings with the same settings but the seed.

    Attributes:
        settings: these, flat, with the stage before each key.
        stages: the training stages, in their order.
        runs: the run.json of the evaluations, by seed.
    """

    settings: Mapping[str, Any]
    stages: tuple[str, ...]
    runs: dict[str, Run]


def episodes_of(run: Run) -> int:
    """Return how many episodes an evaluation has."""
    return int((run["results"][0].get("over") or {}).get("episodes", 0))


def _scores(run: Run) -> Scores:
    """Return the scores of an evaluation.

    Raises:
        UserError: if they are missing, damaged or not finite.
    """
    check_scores(run, episodes_of(run))
    scores = Scores.read(Path(run["folder"]), episodes_of(run))
    for values in scores.protocols.values():
        if wrong := int((~values.isfinite()).sum()):
            told = f"{wrong} of its {len(values)} episodes have a score that is not finite"
            raise UserError(f"{run['id']} cannot be compared: {told}; see: mlx show {run['id']}")
    return scores


def evaluations_of(run: Run, listing: Listing) -> list[Run]:
    """Return the evaluations of a run: itself, a training's newest one if it has any, or those of a chain's last row.

    Args:
        run: its run.json, with its `folder`.
        listing: lists the runs beside it.

    Raises:
        UserError: if a chain has none.
    """
    if run["stage"] == "evaluate":
        return [run]
    if run["stage"] in TRAINING:
        done = (
            info
            for info in listing(runs.beside_of(Path(run["folder"])))
            if info["stage"] == "evaluate" and info["status"] == "completed"
        )
        return [info for info in done if (info.get("parent") or {}).get("run") == run["id"]][:1]
    return list(rows_of(run, listing).values())[-1]


def rows_of(chain: Run, listing: Listing) -> dict[tuple[str, str], list[Run]]:
    """Return the evaluations of a chain, one for each training, by the stage after which, and the learner.

    Raises:
        UserError: if they are not recorded or gone, or if the chain is a cross-validation.
    """
    if chain["status"] != "completed" or not chain.get("table"):
        raise UserError(f"{chain['id']} has no scores, it is {chain['status']}; type its command again")
    if chain["table"][-1].get("folds"):
        raise UserError(f"{chain['id']} is a cross-validation, whose folds have other episodes each; name one without")
    beside = listing(runs.beside_of(Path(chain["folder"])))
    there = {info["id"]: info for info in reversed(beside) if info["stage"] == "evaluate"}
    recorded = {(row["after"], row["learner"]): row["runs"] for row in chain.get("evaluations") or ()}
    if not recorded or any(name not in there for names in recorded.values() for name in names):
        told = "has evaluations that are gone" if recorded else "does not say which evaluations its scores are from"
        raise UserError(f"{chain['id']} {told}; type its command again, which skips what is done")
    return {key: [there[name] for name in names] for key, names in recorded.items()}


def grouped(evaluations: Sequence[Run], listing: Listing) -> list[Group]:
    """Return evaluations by their settings but the seed; one with the same settings and seed as another is apart."""
    groups: dict[tuple[str, int], Group] = {}
    for run in evaluations:
        settings, stages, seed = _described(run, listing)
        key, again = json.dumps(settings, sort_keys=True), 0
        while (key, again) in groups and seed in groups[key, again].runs:
            again += 1
        groups.setdefault((key, again), Group(settings, stages, {})).runs[seed] = run
    return list(groups.values())


def _described(evaluation: Run, listing: Listing) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Return the settings of an evaluation and of the trainings before it, flat; their stages; and their seeds."""
    known = {info["id"]: info for info in reversed(listing(runs.beside_of(Path(evaluation["folder"]))))}
    config = runs.read_config(Path(evaluation["folder"]))
    settings = dict(leaves(_kept(evaluation, config), "evaluate."))
    for key in (*_BESIDE, *chosen(evaluation)):  # what was chosen may differ from seed to seed
        settings.pop(f"evaluate.{key}", None)
    weights, parent = config.get("weights_seed"), evaluation.get("parent")
    seeds = [weights] if weights is not None else [] if parent else [config.get("seed")]
    stages: list[str] = []
    while parent:
        run = known.pop(parent["run"], None)
        if run is None:  # deleted: nobody knows its settings
            settings[f"{parent['stage']}.run"] = parent["run"]
            seeds.append(parent["run"])
            stages.append(parent["stage"])
            break
        config, stage = runs.read_config(Path(run["folder"])), run["stage"]
        data = run.get("data") or {}
        kept = {**_kept(run, config), "data": f"{data.get('name')} {str(data.get('fingerprint'))[:12]}"}
        name = f"{stage} {stages.count(stage) + 1}" if stage in stages else stage
        settings |= dict(leaves(kept, f"{name}."))
        seeds.append(config.get("seed"))
        stages.append(stage)
        parent = run.get("parent")
    return settings, tuple(reversed(stages)), "/".join(dict.fromkeys(map(str, reversed(seeds))))


def _kept(run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that are the same for all seeds."""
    kept = {key: value for key, value in config.items() if key not in _APART}
    kept["algorithm"] = run.get("algorithm") or config.get("algorithm")
    return {**kept, "precision": (config.get("runtime") or {}).get("precision")}


def names_of(groups: Sequence[Group], ids: Sequence[str] = ()) -> list[str]:
    """Return what each side is called: its learner, and what tells it from the others.

    Args:
        groups: the sides.
        ids: tell apart those that differ in nothing else; without them, the ids of evaluations.
    """
    names = [", ".join([_learner(group) + _selected(group), *_differing(group, groups)]) for group in groups]
    ids = ids or [next(iter(group.runs.values()))["id"] for group in groups]
    return [name if names.count(name) == 1 else f"{name} ({own})" for name, own in zip(names, ids, strict=True)]


def _selected(group: Group) -> str:
    """Return what was selected, with the values of all seeds, as in " (inner_steps=3, selected)"; or ""."""
    found = in_words(map(chosen, group.runs.values()))
    return f" ({found}, selected)" if found else ""


def _learner(group: Group) -> str:
    return recorded_name(next(iter(group.runs.values()))["results"][0]["learner"])


def _differing(group: Group, groups: Sequence[Group]) -> Iterator[str]:
    """Yield in words what tells a group from others besides its learner."""
    if len({other.stages for other in groups}) > 1:
        yield f"after {', '.join(group.stages)}" if group.stages else "untrained"
    for key, value in group.settings.items():
        having = [other.settings for other in groups if key in other.settings]
        component, _, last = key.rpartition(".")
        if all(own[key] == value for own in having) or last == "T_max":  # the steps, which are named
            continue
        if key.startswith("evaluate.select."):  # the values that it chose from; the chosen one is named
            continue
        if last == "_target_":
            name = name_of(component, within(group.settings, component))
            if name != _learner(group):
                yield f"{component} {name}"
        elif len({own.get(f"{component}._target_") for own in having}) == 1:  # else another component
            yield f"{key} {value}"

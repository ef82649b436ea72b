"""`mlx compare`: the scores of runs on the same test episodes, compared in pairs.

Two sides are compared by the difference of their scores, episode by episode and seed by seed. With enough seeds, both
episodes and trainings are random: other ones would give another mean, and the interval says how far.

Legend: S seeds of trainings, E episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records import runs
from metalearn_cli.records.intervals import holm
from metalearn_cli.records.names import recorded_name
from metalearn_cli.stages.scores import TRAININGS, gain_of, mean_of
from metalearn_cli.studies.sides import Run, Side, episodes_of, evaluations_of, grouped, names_of

LEVEL = 0.05
"""A difference is clear if its p-value, adjusted for the number of comparisons, is below this."""


class Pair(NamedTuple):
    """Two sides to compare; a gain is what the first has more than the second, where more is better.

    Attributes:
        first: the first side.
        second: the second side.
        facts: more entries for the record of the comparison.
    """

    first: Side
    second: Side
    facts: Mapping[str, Any] = {}


def compare(named: Sequence[Run]) -> dict[str, Any]:
    """Compare runs, all with each other: evaluations, trainings by their newest evaluation, chains by their last row.

    Two runs are two sides. Of more, those with the same settings but the seed are one side.

    Args:
        named: the run.json of each, with its `folder`.

    Returns:
        The record, see `compared`; each comparison has a `sentence`.

    Raises:
        UserError: if they cannot be compared.
    """
    if len(named) < 2:
        raise UserError("one run has nothing to be compared with; name another one: mlx compare RUN RUN")
    listing = cache(runs.list_runs)
    found = [evaluations_of(run, listing) for run in named]
    if bare := [run["id"] for run, own in zip(named, found, strict=True) if not own]:
        have, command = ("has", "mlx evaluate") if len(bare) == 1 else ("have", "mlx -m evaluate")
        raise UserError(f"{', '.join(bare)} {have} no evaluation; type first: {command} ckpt={','.join(bare)}")
    every = [evaluation for own in found for evaluation in own]
    check_episodes(every)
    # what two of several chains share is compared once
    together = found if len(named) == 2 else [list({run["folder"]: run for run in every}.values())]
    groups = [group for own in together for group in grouped(own, listing)]
    if len(groups) < 2:
        told = f"all {len(named)} runs have the same settings but the seed, so that they are one side"
        raise UserError(f"{told}; add runs with other settings, or name only two")
    names = names_of(groups, [run["id"] for run in named] if len(named) == len(groups) == 2 else ())
    sides = [Side.of(name, group.runs) for name, group in zip(names, groups, strict=True)]
    record = compared(sides, [Pair(*two) for two in combinations(sides, 2)])
    for one in record["comparisons"]:
        one["sentence"] = _sentence(one)
    return record


def check_episodes(evaluations: Sequence[Run]) -> None:
    """Check that evaluations are complete, and on the same episodes.

    Raises:
        UserError: if not.
    """
    for run in evaluations:
        if run["status"] != "completed" or not run.get("results"):
            raise UserError(f"{run['id']} has no scores, it is {run['status']}; type its command again")
        if not run.get("episodes_hash"):
            raise UserError(f"{run['id']} is of an earlier version and has no hash of its episodes; evaluate again")
    first = evaluations[0]
    for run in evaluations[1:]:
        for what, mine, theirs in zip(_COMMON, _facts(first), _facts(run), strict=True):
            if mine != theirs:
                told = f"runs on {what} cannot be compared in pairs"
                raise UserError(f"{told}: {first['id']} has {mine}, {run['id']} has {theirs}")


_COMMON = ("different metrics", "different data", "episodes of different size", "different episodes")


def _facts(run: Run) -> tuple[str, ...]:
    """Return what evaluations must have in common, as in _COMMON: from what is easy to read to what decides."""
    result, data = run["results"][0], run.get("data") or {}
    size = (
        json.dumps(result["varying"]) if "varying" in result else f"{result.get('way')}-way {result.get('shot')}-shot"
    )
    return (
        str(result["name"]),
        f"{data.get('name')} ({data.get('protocol')}; fingerprint {str(data.get('fingerprint'))[:12]})",
        f"{episodes_of(run)} episodes, {size} with {result.get('query')} queries per class",
        f"the hash {run['episodes_hash'][:12]}, because their evaluations have other seeds",
    )


def compared(sides: Sequence[Side], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Compare sides that were scored on the same episodes.

    Args:
        sides: the sides.
        pairs: those to compare.

    Returns:
        `sides`: each with its `name`, `runs`, `seeds`, and its mean score with intervals, for each protocol.
        `comparisons`: of each pair the `gain` of the first, see `gain_of`; `p_adjusted` by Holm's method for
        `comparisons`, those with the same protocol and learner; and the `verdict`: better, worse, not clear or same.

    Raises:
        UserError: if the sides of a pair have no seed or no protocol in common.
    """
    first = next(iter(sides[0].evaluations.values()))
    result, data = first["results"][0], first.get("data") or {}
    found = [one for pair in pairs for one in _differences(pair)]
    for family in {(one.get("learner"), one["normalisation"]): None for one in found}:
        own = [one for one in found if (one.get("learner"), one["normalisation"]) == family]
        for one, p in zip(own, holm([one["p"] for one in own]), strict=True):
            one |= {"p_adjusted": p, "comparisons": len(own), "verdict": _verdict(one, p)}
    return {
        "metric": {key: result[key] for key in ("name", "way", "shot", "query", "varying", "over") if key in result},
        "data": {key: data.get(key) for key in ("name", "protocol", "fingerprint")},
        "episodes_hash": first["episodes_hash"],
        "sides": [row for side in sides for row in _means(side, result["name"])],
        "comparisons": found,
    }


def _means(side: Side, metric: str) -> Iterator[dict[str, Any]]:
    """Yield the mean score of a side under each protocol."""
    learner = recorded_name(next(iter(side.evaluations.values()))["results"][0]["learner"])
    facts = {"side": side.name, "learner": learner, "name": metric, "seeds": list(side.scores)}
    for protocol in side.protocols:
        mean = mean_of(side.under(protocol, side.scores), side.classes)
        yield {**facts, "normalisation": protocol, **mean, "runs": [run["id"] for run in side.evaluations.values()]}


def _differences(pair: Pair) -> Iterator[dict[str, Any]]:
    """Yield the comparison of two sides under each protocol.

    Raises:
        UserError: if they have no seed or no protocol in common.
    """
    first, second, facts = pair
    mine, theirs = _paired(first, second)
    name = next(iter(first.evaluations.values()))["results"][0]["name"]
    sign = 1 if metric_named(name).higher_is_better else -1
    for protocol in _protocols(first, second):
        gains = sign * (first.under(protocol, mine) - second.under(protocol, theirs))
        yield {
            **facts,
            "first": first.name,
            "second": second.name,
            "name": name,
            "normalisation": protocol,
            **gain_of(gains, first.classes),
            "seeds": mine,
            "left_out": len(first.scores) + len(second.scores) - 2 * len(mine),
        }


def _paired(first: Side, second: Side) -> tuple[list[str], list[str]]:
    """Return the seeds of two sides whose trainings are compared with each other.

    Raises:
        UserError: if there are none.
    """
    mine, theirs = list(first.scores), list(second.scores)
    if len(mine) == len(theirs) == 1:
        return mine, theirs
    both = [seed for seed in mine if seed in theirs]
    if not both:
        told = f"{first.name} has {', '.join(mine)}, {second.name} has {', '.join(theirs)}"
        gone = " (of a training that is gone, its id)" if any("-" in seed for seed in mine + theirs) else ""
        raise UserError(f"trainings are compared seed by seed, but no seed{gone} is in both: {told}")
    return both, both


def _protocols(first: Side, second: Side) -> list[str]:
    """Return the protocols of both sides; what was scored without batch statistics goes with each.

    Raises:
        UserError: if there are none.
    """
    mine, theirs = first.protocols, second.protocols
    both = theirs if "none" in mine else mine if "none" in theirs else [name for name in mine if name in theirs]
    if not both:
        told = f"{first.name} is scored as {', '.join(mine)}, {second.name} as {', '.join(theirs)}"
        raise UserError(f"{told}; evaluate both with the same normalisation")
    return both


def _verdict(one: Mapping[str, Any], p: float) -> str:
    if one["gain"] == 0 == one["half_width"]:
        return "same"
    if p >= LEVEL:
        return "not clear"
    return "better" if one["gain"] > 0 else "worse"


def _sentence(one: Mapping[str, Any]) -> str:
    """Return a comparison in words, the better side first."""
    better, worse = (one["first"], one["second"]) if one["gain"] >= 0 else (one["second"], one["first"])
    under = "" if one["normalisation"] == "none" else f", {one['normalisation']}"
    if one["verdict"] == "same":
        episodes = one["over"]["episodes"]
        told = f"{better} and {worse} have the same score in each of {episodes} episodes{under}: 0 +- 0."
        return " ".join([told, *_left_out(one)])
    clear = f"{better} is better than {worse}{under}"
    unclear = f"Whether {better} is better than {worse} is not clear{under}"
    return f"{unclear if one['verdict'] == 'not clear' else clear}: {amount(one, better=True)}"


def amount(one: Mapping[str, Any], better: bool) -> str:
    """Return how large a difference is, over what, and what it leaves open, as the rest of a sentence and more.

    Args:
        one: the comparison.
        better: whether the sentence is about the side that is better.
    """
    metric, episodes, seeds = metric_named(one["name"]), one["over"]["episodes"], len(one["seeds"])
    size = f"{abs(one['gain']):.4g} +- {one['half_width']:.3g}"
    if metric.unit == "share":
        size = f"{100 * abs(one['gain']):.2f} +- {100 * one['half_width']:.2f} percentage points"
    higher = metric.higher_is_better == better
    over = f"{episodes} episodes and {seeds} seeds" if one["crossed"] else f"{episodes} episodes only"
    p = "p < 0.001" if one["p_adjusted"] < 0.001 else f"p = {one['p_adjusted']:.3f}"
    p += f" for {one['comparisons']} comparisons" * (one["comparisons"] > 1)
    told = [f"the {metric.name} is {'higher' if higher else 'lower'} by {size} (95 %, over {over}; {p})."]
    if one["p"] < LEVEL <= one["p_adjusted"]:
        told.append(f"As the only comparison it would be clear, p = {one['p']:.3f}; more seeds or episodes may decide.")
    if not one["crossed"]:
        told.append(f"Other trainings may differ: {TRAININGS} or more seeds would show how much.")
    told += _left_out(one)
    if one["verdict"] in ("better", "worse") and not _clear_for_classes(one):
        told.append("Whether that holds for other test classes is not clear.")
    return " ".join(told)


def _left_out(one: Mapping[str, Any]) -> list[str]:
    """Return a sentence on trainings of one side alone, if there are any."""
    if not one["left_out"]:
        return []
    both = f"Compared: seed{'s' * (len(one['seeds']) > 1)} {', '.join(one['seeds'])}"
    return [f"{both}; trainings left out, because the other side has no such seed: {one['left_out']}."]


def _clear_for_classes(one: Mapping[str, Any]) -> bool:
    """Whether a difference is clear for other classes, too; tasks that are generated have none."""
    width = one["gain_interval_classes"]
    known = {"classes", "groups", "tasks"} & one["over"].keys()
    return not known or (width is not None and abs(one["gain"]) > width)

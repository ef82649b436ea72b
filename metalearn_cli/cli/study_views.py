"""The tables of sweeps, comparisons, ablations and verified experiments, and where a report is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.cli.phrases import brief, duration, measured, over, runs_option, sizes, too_few, with_intervals
from metalearn_cli.cli.views import Run, column_of, heading_of, say_over, say_selected
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records.sweeps import Outcome, table


def verified(record: Mapping[str, Any]) -> None:
    """Show the results of an experiment beside the expected ones, as `studies.verify.verify` returns them."""
    rows, share = [], False
    for result in record["results"]:
        expected = result["expected"]
        share = share or metric_named(expected["metric"]).unit == "share"
        parts = (expected[key] for key in ("learner", "normalisation", "metric", "drawn"))
        what = " ".join(part for part in parts if part not in ("none", "pooled"))
        ours = "nan" if result["value"] is None else f"{result['value']:.4g} +- {result['interval']:.2g}"
        sign = "-" if metric_named(expected["metric"]).higher_is_better else "+"
        wanted = f"{expected['value']:.4g} ({sign}{expected['tolerance']:.4g})"
        rows.append([what, ours, wanted, expected["source"], "PASS" if result["passed"] else "FAIL"])
    title = f"{record['experiment']}, tier {record['tier']}"
    if rows:
        telling.table(title, ["!result", "!ours", "!expected", "source", "!"], rows)
        telling.say(over(record["results"][0]).partition(";")[0].rstrip(".") + ".")
        telling.say("A result passes if it is better than expected, or worse by no more than the tolerance, in")
        telling.say(f"brackets, and the half-width together{'; accuracies are in percent' if share else ''}.")
    say_selected({result["expected"]["learner"]: result["selected"] for result in record["results"]})
    took, claimed = (duration(60 * record["minutes"][key]) for key in ("run", "claim"))
    telling.say(f"time: {took}; its file says {claimed} on 2 cores")
    if record["passed"] is False and record["bound"]:
        telling.say(f"what bounds the result, by its file: {record['bound']}")
    verdict = {True: "PASS", False: "FAIL", None: "it ran, and claims nothing"}[record["passed"]]
    telling.say(f"{verdict}: {title}, {record['folder']}/verify.json")


def compared(record: Mapping[str, Any]) -> None:
    """Show a comparison of runs, as `studies.compare.compare` returns it."""
    _comparisons(record, record["sides"], record["comparisons"], "")
    for one in record["comparisons"]:
        telling.say(one["sentence"])


def reported(told: Mapping[str, Any]) -> None:
    """Say where a report is, what is in it, and what is missing."""
    for problem in told["problems"]:
        telling.say(f"warning: {problem}")
    if told["unfinished"]:
        telling.say(f"not finished: {', '.join(told['unfinished'])}")
    number = len(told["runs"])
    telling.say(f"{told['report']}: {number} run{'s' * (number != 1)}, {told['bytes'] / 1000:.0f} kB")


def ablated(record: Mapping[str, Any]) -> None:
    """Show what each stage of a chain is worth, as `studies.ablate.ablate` returns it: a table for each learner."""
    for learner in dict.fromkeys(row["learner"] for row in record["sides"]):
        sides = [row for row in record["sides"] if row["learner"] == learner]
        own = [one for one in record["comparisons"] if one["learner"] == learner]
        _comparisons(record, sides, own, f", {learner}")
    telling.say(f"{', '.join(f'{name[0].upper()} is {name}' for name in record['stages'])}.")
    for sentence in record["conclusions"]:
        telling.say(sentence)
    telling.say(f"next: {shlex.join(['mlx', 'show', record['folder']])}")


def _comparisons(record: Mapping[str, Any], sides: Sequence[Run], found: Sequence[Run], label: str) -> None:
    """Show the scores of sides, and the differences between them."""
    protocols = ["!normalisation"] * (len({row["normalisation"] for row in sides}) > 1)
    first = record["metric"]
    rows = [
        [row["side"], *[row["normalisation"] for _ in protocols], _seeds(row["seeds"]), with_intervals(row)]
        for row in sides
    ]
    telling.table(heading_of(first, record) + label, ["side", *protocols, "trainings", f"!{column_of(first)}"], rows)
    fewest, most = (pick(sides, key=lambda row: sizes(row)["trainings"]) for pick in (min, max))
    few = too_few(fewest)
    telling.say(over(most) + f"\n{few}" * (few not in over(most)) + "\n")
    rows = [
        [
            f"{one['first']} - {one['second']}",
            *[one["normalisation"] for _ in protocols],
            with_intervals(one, "gain_"),
            "< 0.001" if one["p_adjusted"] < 0.001 else f"{one['p_adjusted']:.3f}",
            one["verdict"],
        ]
        for one in found
    ]
    telling.table("", ["difference", *protocols, "!gain", "!p", "!"], rows)
    if any(one["gain_interval_classes"] is None and {"classes", "groups"} & sizes(one).keys() for one in found):
        telling.say('A "-" has no interval over classes, because there are too few of them.')


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def sweep(name: str, folder: Path, outcomes: Sequence[Outcome], words: Sequence[str] | None = None) -> None:
    """Show what came of a sweep: its points, the best first, then the jobs that are not completed.

    Args:
        name: its id.
        folder: where its results are.
        outcomes: those of its jobs.
        words: the settings of its command line, to say what to type next; None for nothing.
    """
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.settings))
    points, rows = table(outcomes), []
    for row in points:
        given = {**row["settings"], "seed": ", ".join(row["seeds"])}
        ids = row["runs"]
        result = measured({"metric": row})
        result = ", ".join([result, *(measured({"metric": score}) for score in row.get("scores", ())[1:])])
        shown = str(ids[0]) if len(ids) == 1 else f"{len(ids)} runs"
        rows.append([*(brief(given.get(key, "")) for key in keys), shown, "completed", result])
    for outcome in outcomes:
        if not outcome.run:
            own = [brief(outcome.settings.get(key, "")) for key in keys]
            rows.append([*own, Path(outcome.folder).name or "-", outcome.status, outcome.error])
    counts = Counter(outcome.status for outcome in outcomes)
    number = f"{len(outcomes)} job{'s' * (len(outcomes) != 1)}"
    title = f"sweep {name}: {number}, {', '.join(f'{n} {status}' for status, n in counts.items())}"
    telling.table(title, [*(f"!{key}" for key in keys), "!run", "!status", "result"], rows)
    if best := sum(row.get("best", False) for row in points):
        telling.say(f"No other point is superior in all objectives to the first{f' {best}' * (best > 1)}.\n")
    if len(points) > 1 and all(row["name"].startswith("test/") for row in points):
        telling.say("These results are on test classes: no setting may be chosen by them.\n")
    if any(row["over"] == "seeds" for row in points):
        telling.say("+- is the half-width of a 95 % interval over seeds, or over episodes with one seed.\n")
    else:
        say_over([outcome.run for outcome in outcomes if outcome.run])
    if folder.is_dir():
        telling.say(f"each job: {folder}/results.csv")
    if words is not None:
        telling.say(f"next: {shlex.join(['mlx', 'runs', f'sweep={name}', *runs_option(words)])}")
    else:
        telling.say("")

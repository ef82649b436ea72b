"""The tables that commands print to stdout, from recorded results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.cli.listing import told
from metalearn_cli.cli.phrases import (
    NO_CHANGE,
    age,
    calibrations,
    duration,
    error_rates,
    hardest,
    measured,
    next_command,
    over,
    scored,
    sizes,
    verdict,
    with_intervals,
)
from metalearn_cli.core.check import written
from metalearn_cli.core.metric import SAME_CLASSES, metric_named
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.records import classes
from metalearn_cli.records.selected import in_words

Run = Mapping[str, Any]

_WIDE = 110  # columns from which the parents of runs are shown
_VERY_WIDE = 144  # columns from which a whole sha256 is shown


def result(run: Run, words: Sequence[str] = (), config_dir: str = "") -> None:
    """Show the result of one run.

    Args:
        run: its run.json.
        words: the settings of its command line.
        config_dir: the folder of configs of its command line, or "".
    """
    if "table" in run:
        chain(run)
    elif "results" in run:
        evaluation(run)
    else:
        metric, parent = run["metric"], run.get("parent")
        rows = [[metric["name"].replace("/", " "), _with_episodes(metric)]]
        for label, key in (("before training", "baseline"), ("after training", "trained")):
            if (found := run.get(key)) and found != metric:
                rows += [[label, _with_episodes(found)]]
        rows += [["best step", f"{metric['step']} of {run['steps']}"]]
        rows += [["ended early", f"after step {run['step']}"]] if run.get("stopped_early") else []
        rows += [["time", duration(run["seconds"])]]
        rows += [["started from", f"{parent['stage']} {parent['run']}"]] if parent else []
        rows += [["checkpoint", str(run["checkpoint"])]] if run.get("checkpoint") else []
        telling.table(f"{run['stage']} {run['id']}", ["!", ""], rows)
    telling.say(f"next: {next_command(run, words, config_dir)}")


def evaluation(run: Run) -> None:
    """Show the score under each protocol of an evaluation, and before it those of what was to be selected."""
    first = run["results"][0]
    _selection(run)
    drawn = ["classes of an episode"] * ("drawn" in first)
    rows = [[r["learner"], r["normalisation"], *[r["drawn"] for _ in drawn], with_intervals(r)] for r in run["results"]]
    telling.table(heading_of(first, run), ["learner", "normalisation", *drawn, f"!{column_of(first)}"], rows)
    telling.say(_over(run["results"]))
    if _lacks_classes(first):
        ordinary = str(run.get("data", {}).get("protocol", "")).startswith(SAME_CLASSES)
        telling.say(f"{_NO_INTERVAL}.\n{_more(first, ordinary, '')}")
    if first.get("fixed") and metric_named(first["name"]).unit == "share":
        telling.say(f"{error_rates(run['results'])}.")
    if "worst_decile" in first:
        telling.say(f"{hardest(run['results'])}.")
    for sentence in calibrations(run["results"]):
        telling.say(sentence)
    if "folder" in run and (picture := Path(run["folder"], "plots", "fits.png")).is_file():
        telling.say(f"picture of the first fits: {picture}")
    if "calibration" in first and "folder" in run:
        telling.say(f"picture of it{', pooled' * bool(drawn)}: {run['folder']}/plots/reliability.png")
        if drawn:
            telling.say(f"picture of it, within one group: {run['folder']}/within/plots/reliability.png")
    _say_seen(run["results"][:1])
    telling.say("")


def _selection(run: Run) -> None:
    """Show what was selected in an evaluation and the scores that decided, if anything was."""
    if found := run.get("selected"):
        keys = dict.fromkeys(key for row in found for key in row["values"])
        rows = [
            [*(written(row["values"].get(key, "-")) for key in keys), with_intervals(row), "chosen" * row["chosen"]]
            for row in found
        ]
        by = found[0].get("normalisation", "none")
        title = f"select: {heading_of(found[0], run)}" + f", {by}" * (by != "none")
        telling.table(title, [*(f"!{key}" for key in keys), f"!{column_of(found[0])}", "!"], rows)
        telling.say(f"{over(found[0])}\n")


def _with_episodes(found: Run) -> str:
    """Return the score of a training with its interval, and over what that is."""
    measure = scored(found)
    if found["interval"] is None:
        return measure
    return f"{measure} (95 % over {sizes(found)['episodes'] or 'the'} validation episodes)"


def _say_seen(results: Sequence[Run]) -> None:
    """Say which test classes training has seen, if any."""
    for line in dict.fromkeys(classes.told(result["trained_on"]) for result in results if result.get("trained_on")):
        telling.say(f"warning: {line}")


def chain(run: Run) -> None:
    """Show the score and gain of each stage of a chain, one table per protocol."""
    tables: dict[str, list[Run]] = {}
    for row in run["table"]:
        parts = [row["normalisation"].replace("none", ""), row.get("drawn", "")]
        tables.setdefault(", ".join(filter(None, parts)), []).append(row)
    for label, found in tables.items():
        rows, learner = [], ""
        for row in found:
            if row["learner"] != learner:
                learner = row["learner"]
                rows.append([learner, "", "", ""])
            # the first row of a learner has no gain
            told = ["", ""] if row["gain"] is None else [with_intervals(row, "gain_"), verdict(row)]
            rows.append([f"  {_after(row)}", with_intervals(row), *told])
        title = heading_of(found[0], run) + (f", {label}" if label else "")
        telling.table(title, ["!after", f"!{column_of(found[0])}", "!gain", "!the stage"], rows)
    _explain(run)


def _after(row: Run) -> str:
    """Return after which stage a row of a chain is."""
    return "untrained" if row["after"] == "nothing" else str(row["after"])


def say_selected(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Say what the evaluations of each learner selected, if anything."""
    for name, choices in found.items():
        if choices:
            telling.say(f"{name}: {in_words(choices)}, selected on validation episodes.")


def _explain(run: Run) -> None:
    """Say how the tables of a chain are to be read."""
    telling.say(_over(run["table"]))
    learners = {f"{row['learner']}, {_after(row)}": row for row in run["table"]}
    say_selected({name: row.get("selected", ()) for name, row in learners.items()})
    for name in dict.fromkeys(row["learner"] for row in run["table"]):
        found = [row["selected"] for row in run["table"] if row["learner"] == name and "selected" in row]
        if any(each != found[0] for each in found):
            telling.say(f"A gain of {name} is one between different settings.")
    _say_seen(run["table"])
    telling.say("A gain is the difference to the row above, episode by episode. A stage helps or")
    telling.say("hurts if all intervals of its gain exclude 0.")
    first = run["table"][0]
    ordinary = str(run.get("data", {}).get("protocol", "")).startswith(SAME_CLASSES)
    if _lacks_classes(first):
        telling.say(
            f'{_NO_INTERVAL},\nso that no gain is more than "not clear".\n{_more(first, ordinary, "evaluate.")}'
        )
    if any(verdict(row) == NO_CHANGE for row in run["table"] if row["gain"] is not None):
        telling.say(f'"{NO_CHANGE}": not one episode has another score than in the row above.')
    for start in (named["init_from"] for named in (run.get("starts") or {}).values() if "init_from" in named):
        telling.say(f"The chain starts from {start}.")
    for learner in dict.fromkeys(row["learner"] for row in run["table"] if row.get("untrained_head")):
        telling.say(f"{learner} begins with an untrained head, which meta-training learns.")
    if folds := first.get("folds"):
        noun = "item" if ordinary else "class"
        own = f"{sizes(first)['trainings']} trainings" if sizes(first)["trainings"] > 1 else "a training"
        telling.say(f"Cross-validation: each {noun} was test in one of {folds} folds, each with {own} of its own.")
    if sizes(first)["trainings"] == 1:
        one = "training of each fold" if folds else "training"
        telling.say(f"All numbers are from one {one}; seeds=5 shows how much trainings differ.")
    telling.say("")


_NO_INTERVAL = (
    'A "-" has no interval over classes: each test class must be missing from two episodes or more, which\n'
    "takes more classes than an episode has"
)


def _lacks_classes(result: Run) -> bool:
    """Whether a result has test classes and yet no interval over them."""
    return result.get("interval_classes") is None and bool({"classes", "groups"} & sizes(result).keys())


def _more(result: Run, ordinary: bool, section: str) -> str:
    """Return what gives a result an interval over classes.

    Args:
        result: without such an interval.
        ordinary: whether its test classes are those of training.
        section: of the settings of the evaluation: "evaluate." in a chain, else "".
    """
    way, found = result.get("way") or 5, sizes(result)  # 5 is the smallest way of those that vary
    noun = next(noun for noun in ("groups", "classes") if noun in found)
    if noun == "classes" and found[noun] > way:
        return f"More episodes would change that, such as {section}episodes={max(1000, 10 * found['episodes'])}."
    smaller = f", or way={min(way, found[noun]) - 1}," if min(way, found[noun]) > 2 and "varying" not in result else ""
    return f"More {'' if ordinary else 'test '}{noun}{smaller} would change that."


def _over(results: Sequence[Run]) -> str:
    """Return lines that explain the intervals of results, pooled ones and those within one group."""
    lines = {result.get("drawn", ""): over(result) for result in reversed(results)}
    if len(set(lines.values())) == 1:
        return over(results[0])
    return "\n".join(f"{drawn}: {line}" for drawn, line in reversed(lines.items()))


def heading_of(first: Run, run: Run) -> str:
    """Return the heading of a table of results: the episodes and the data that they are of."""
    split = first["name"].partition("/")[0]
    data = run.get("data", {})
    noun = "classes" if metric_named(first["name"]).unit == "share" else "tasks"
    sizes_of = [f"{first[name]}-{name}" for name in ("way", "shot", "query") if name in first]
    size = "varying way and shot" if "varying" in first else " ".join(sizes_of)
    shape = f"{size} on {sizes(first)['episodes']} episodes of {split} {noun}"
    protocol = str(data.get("protocol", ""))
    if protocol.startswith(SAME_CLASSES):
        shape = shape.removesuffix(f" {noun}") + " items"
        seen = f"the {noun} of training"
        protocol = f"ordinary classification: {seen}" if noun == "classes" else seen
    protocol = f" ({protocol})" if protocol else ""
    return f"{shape}, {data['name']}{protocol}" if "name" in data else shape


def column_of(result: Run) -> str:
    """Return the heading of a column of scores."""
    name = str(result["name"].partition("/")[2])
    return f"{name} %" if metric_named(name).unit == "share" else name


def runs(found: Sequence[Run], runs_dir: str, words: Sequence[str] = ()) -> None:
    """List runs, as `listing.chosen` returns them for `words`."""
    if not found and words:
        there = ["--runs-dir", runs_dir] * (runs_dir != "runs")
        return telling.say(
            f"no runs in {runs_dir} match {' '.join(words)}; next: {shlex.join(['mlx', 'runs', *there])}"
        )
    if not found:
        elsewhere = [f"runs_dir={runs_dir}"] * (runs_dir != "runs")
        return telling.say(f"no runs in {runs_dir} yet; next: {shlex.join(['mlx', 'run', *elsewhere])}")
    wide, rows = telling.width() >= _WIDE, []
    for run in found:
        parts = ["" if run["status"] == "completed" else run["status"], measured(run)]
        result = (", " if wide else "\n").join(part for part in parts if part not in ("", "-"))
        result = result if wide else result.replace(" accuracy ", " ")
        row = [run["id"], f"{run['stage']}: {_what(run)}", result, age(run.get("started_at"))]
        rows.append([*row, (run.get("parent") or {}).get("run", "-")] if wide else row)
    columns = ["!run", "what", "!result", "!age", "!parent"][: len(rows[0])]
    telling.table(f"runs in {runs_dir}", columns, rows, right=["age"])
    say_over(found)
    ids = [run["id"] for run in found]
    for copied in dict.fromkeys(name for name in ids if ids.count(name) > 1):
        folders = [str(run["folder"]) for run in found if run["id"] == copied]
        telling.say(f"{len(folders)} runs have the id {copied}; name one by its folder: {' or '.join(folders)}")


def say_over(found: Sequence[Run]) -> None:
    """Say over what the intervals of runs are, if one has any."""
    metrics = [run.get("metric") or {} for run in found]
    if any(metric.get("interval") is not None for metric in metrics):
        more = " and, if it has three or more, trainings"
        more *= any(metric.get("interval_trainings") is not None for metric in metrics)
        telling.say(f"+- is the half-width of a 95 % interval over the episodes{more} of that run.\n")


def _what(run: Run) -> str:
    """Return a short description of a run: learner, data, task size, seed and sweep."""
    parts = [told(run, key) for key in ("learner", "data")]
    size = f"{told(run, 'way')}w{told(run, 'shot')}s" if told(run, "way") else ""
    parts.append("varying way and shot" if "varying" in (run.get("metric") or {}) else size)
    if seed := told(run, "seed"):
        more = (run.get("seeds") or 1) - 1
        parts.append(f"seeds {seed} to {int(seed) + more}" if more and seed.isdecimal() else f"seed {seed}")
    parts += [f"sweep {told(run, 'sweep')}"] if told(run, "sweep") else []
    return ", ".join(filter(None, parts))


def lineage(found: Sequence[Run], settings: Sequence[str] = ()) -> None:
    """Show a run and its ancestors, each with the checkpoint that it handed on.

    Args:
        found: their run.json, the run first.
        settings: the run's settings that differ from the defaults, as they are typed.
    """
    sums = 64 if telling.width() >= _VERY_WIDE else 12
    rows = []
    for run in found:
        checkpoint = Path(str(run.get("checkpoint") or run.get("best") or "-")).name
        rows.append([run["stage"], run["id"], measured(run), checkpoint, str(run.get("sha256") or "-")[:sums]])
    telling.table(f"{found[0]['id']} and its ancestors", ["!stage", "!run", "result", "!checkpoint", "!sha256"], rows)
    say_over(found)
    _say_status(found[0], settings)
    if found[0].get("table"):
        _say_trainings(found[0]["table"][0])
        chain(found[0])
    if found[0].get("results"):
        evaluation(found[0])
    else:
        _selection(found[0])
    for run in found:
        if teacher := run.get("teacher"):
            checkpoint = Path(teacher["checkpoint"]).name
            taught = f"teacher of {run['id']}: {teacher['stage']} {teacher['run']}"
            telling.say(f"{taught}, {checkpoint}, {teacher['sha256'][:sums]}")
    if settings:
        telling.say(f"settings that differ from the defaults: {shlex.join(settings)}")
    if found[0].get("folder"):
        telling.say(f"folder: {found[0]['folder']}")


def _say_status(run: Run, settings: Sequence[str]) -> None:
    """Say why a run is not completed, and what to type to complete it."""
    if run.get("status", "completed") in ("completed", "running"):
        return
    telling.say(": ".join(filter(None, (run["status"], run.get("error")))))
    stage = run["stage"]
    words = ["resume", str(run.get("folder", run["id"]))] if stage in TRAINING else [stage, *run.get("typed", settings)]
    telling.say(f"complete it with: {shlex.join(['mlx', *words])}\n")


def _say_trainings(row: Run) -> None:
    """Say of how many trainings a chain is, of which only the first one is among the ancestors."""
    trainings, folds = sizes(row)["trainings"], row.get("folds") or 1
    if trainings * folds > 1:
        each = " and ".join([f"{trainings} seeds"] * (trainings > 1) + [f"{folds} folds"] * (folds > 1))
        telling.say(f"The result is that of {trainings * folds} trainings ({each}), of which one is listed.\n")


def choices(groups: Mapping[str, Mapping[str, str]]) -> None:
    """List the choices of each group."""
    for group, members in groups.items():
        telling.table("", [f"!{group}=", "what it is"], [[name, line] for name, line in members.items()])


def facts(found: Mapping[str, Mapping[str, str]]) -> None:
    """Show facts under headings."""
    for heading, entries in found.items():
        telling.table(heading, ["!", ""], [[name, value] for name, value in entries.items()])

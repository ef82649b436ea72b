"""The tables that commands print to stdout, from recorded results."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.cli.listing import told
from metalearn_cli.cli.phrases import (
    NO_CHANGE,
    age,
    brief,
    calibrations,
    duration,
    error_rates,
    hardest,
    measured,
    next_command,
    over,
    runs_option,
    scored,
    sizes,
    too_few,
    verdict,
    with_intervals,
)
from metalearn_cli.core.check import in_shell
from metalearn_cli.core.errors import LISTED, Finding
from metalearn_cli.core.metric import SAME_CLASSES, metric_named
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.records import classes
from metalearn_cli.records.sweeps import Outcome, table

Run = Mapping[str, Any]

_WIDE = 110  # columns from which the parents of runs are shown
_SAME = 20  # most rows of findings that differ in their items alone
_NAMES = 4  # classes of a split that are named
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
    telling.table(heading_of(first, run), ["learner", "normalisation", *drawn, f"!{_name(first)}"], rows)
    telling.say(_over(run["results"]))
    if _lacks_classes(first):
        ordinary = str(run.get("data", {}).get("protocol", "")).startswith(SAME_CLASSES)
        telling.say(f"{_NO_INTERVAL}.\n{_more(first, ordinary)}")
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
        keys = [f"!{key}" for key in found[0]["values"]]
        rows = [
            [*map(str, row["values"].values()), with_intervals(row), "chosen" if row["chosen"] else ""] for row in found
        ]
        protocol = f", {found[0]['normalisation']}" * (found[0]["normalisation"] != "none")
        telling.table(f"select: {heading_of(found[0], run)}{protocol}", [*keys, f"!{_name(found[0])}", "!"], rows)
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
            after = "untrained" if row["after"] == "nothing" else row["after"]
            # the first row of a learner has no gain
            told = ["", ""] if row["gain"] is None else [with_intervals(row, "gain_"), verdict(row)]
            rows.append([f"  {after}", with_intervals(row), *told])
        title = heading_of(found[0], run) + (f", {label}" if label else "")
        telling.table(title, ["!after", f"!{_name(found[0])}", "!gain", "!the stage"], rows)
    _explain(run)


def _explain(run: Run) -> None:
    """Say how the tables of a chain are to be read."""
    telling.say(_over(run["table"]))
    _say_seen(run["table"])
    telling.say("A gain is the difference to the row above, episode by episode. A stage helps or")
    telling.say("hurts if all intervals of its gain exclude 0.")
    first = run["table"][0]
    ordinary = str(run.get("data", {}).get("protocol", "")).startswith(SAME_CLASSES)
    if _lacks_classes(first):
        telling.say(f'{_NO_INTERVAL},\nso that no gain is more than "not clear".\n{_more(first, ordinary)}')
    if any(verdict(row) == NO_CHANGE for row in run["table"] if row["gain"] is not None):
        telling.say(f'"{NO_CHANGE}": not one episode has another score than in the row above.')
    for start in (named["init_from"] for named in (run.get("starts") or {}).values() if "init_from" in named):
        telling.say(f"The chain starts from {start}.")
    for learner in dict.fromkeys(row["learner"] for row in run["table"] if row.get("random_head")):
        telling.say(f"{learner} begins with a head of random weights, which meta-training learns.")
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


def _more(result: Run, ordinary: bool) -> str:
    """Return what gives a result an interval over classes; `ordinary` if its test classes are those of training."""
    way, found = result.get("way") or 0, sizes(result)
    noun = next(noun for noun in ("groups", "classes") if noun in found)
    if noun == "classes" and found[noun] > way:
        return "More episodes would change that, such as evaluate.episodes=1000."
    smaller = f", or way={min(way, found[noun]) - 1}," if min(way, found[noun]) > 2 else ""
    return f"More {'' if ordinary else 'test '}{noun}{smaller} would change that."


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
    took, claimed = (duration(60 * record["minutes"][key]) for key in ("run", "claim"))
    telling.say(f"time: {took}; its file says {claimed} on 2 cores")
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
    telling.table(heading_of(first, record) + label, ["side", *protocols, "trainings", f"!{_name(first)}"], rows)
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


def _name(result: Run) -> str:
    """Return the heading of a column of scores."""
    name = str(result["name"].partition("/")[2])
    return f"{name} %" if metric_named(name).unit == "share" else name


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
    if any(row["over"] == "seeds" for row in points):
        telling.say("+- is the half-width of a 95 % interval over seeds, or over episodes with one seed.\n")
    else:
        _say_over([outcome.run for outcome in outcomes if outcome.run])
    if folder.is_dir():
        telling.say(f"each job: {folder}/results.csv")
    if words is not None:
        telling.say(f"next: {shlex.join(['mlx', 'runs', f'sweep={name}', *runs_option(words)])}")
    else:
        telling.say("")


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
    _say_over(found)
    ids = [run["id"] for run in found]
    for copied in dict.fromkeys(name for name in ids if ids.count(name) > 1):
        folders = [str(run["folder"]) for run in found if run["id"] == copied]
        telling.say(f"{len(folders)} runs have the id {copied}; name one by its folder: {' or '.join(folders)}")


def _say_over(found: Sequence[Run]) -> None:
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
    _say_over(found)
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


def data(found: Mapping[str, Any], words: Sequence[str] | None = None, run: Sequence[str] = ()) -> None:
    """Show the findings of a check of a data set.

    Args:
        found: the result of `stages.data.check_data`.
        words: the settings that name the data, to show what was understood of its source, too; None for no more.
        run: those of the `mlx run` that trains on it.
    """
    facts = found["data"]
    noun = "tasks" if facts and facts["regression"] else "classes"
    if facts and words is not None:
        rows = [
            [name.replace("_", " "), listing(value)] for name, value in facts["about"].items() if name != "examples"
        ]
        rows += [[name, _split(split, noun)] for name, split in facts["splits"].items()]
        rows += [["split by", facts["protocol"]], ["an item", f"{facts['kind']} {listing(facts['shape'])}"]]
        rows += [["an episode", ", ".join(f"{key} {value}" for key, value in facts["episode"].items())]]
        rows += [["verdicts", told] for told in _verdicts(facts)]
        telling.table(facts["name"], ["!", ""], rows)
    elif facts:
        sizes = [f"{name} {s['classes']} {noun}, {s['items']} items" for name, s in facts["splits"].items()]
        telling.say(f"{facts['name']} ({'; '.join([facts['protocol'], *sizes])})\n")
        for told in _verdicts(facts):
            telling.say(f"verdicts: {told}\n")
    rows = found["findings"]
    if rows:
        telling.table("", ["!", "where", "what"], _findings([Finding(**row) for row in rows]))
    errors = sum(f["blocks"] for f in found["findings"])
    summary = f"{errors} error{'s' * (errors != 1)}, {len(rows) - errors} warning{'s' * (len(rows) - errors != 1)}"
    telling.say(f"{summary}: training may{'' if found['may_start'] else ' not'} start")
    if found["cure"]:
        telling.say(found["cure"])
    if words is not None and found["may_start"]:
        show, run = (" ".join(map(in_shell, own)) for own in (words, run))
        telling.say(f"next: mlx data show {show}\n      mlx run {run}")


def _verdicts(facts: Mapping[str, Any]) -> list[str]:
    """Return that no stage can be said to help or to hurt, if an episode has all test classes."""
    way, classes = facts["episode"]["way"], facts["splits"].get("test", {}).get("classes", 0)
    if facts["regression"] or not 0 < classes <= way:
        return []
    cure = f"; way={classes - 1} gives verdicts" if classes > 2 else ""
    return [f'whether a stage helps is "not clear", as an episode has each of the {classes} test classes{cure}']


def _findings(found: Sequence[Finding]) -> list[list[str]]:
    """Return findings as rows: one for those of the same sentence, and few for those that differ in their items."""
    places: dict[tuple[bool, str, str], list[str]] = {}
    for finding in found:
        places.setdefault((finding.blocks, finding.what, finding.told), []).append(finding.where)
    same = Counter((blocks, what) for blocks, what, _ in places)
    shown: Counter[tuple[bool, str]] = Counter()
    rows = []
    for (blocks, what, sentence), where in places.items():
        kind = (blocks, what)
        shown[kind] += 1
        if shown[kind] <= _SAME:
            more = f" and {len(where) - LISTED} more (--json lists them all)" * (len(where) > LISTED)
            rows.append(["error" if blocks else "warning", "; ".join(where[:LISTED]) + more, sentence])
        elif shown[kind] == same[kind]:
            rows.append(["", f"and {same[kind] - _SAME} more", "the same; --json lists them all"])
    return rows


def items(shown: Mapping[str, Any]) -> None:
    """Show the result of `stages.data.show_data`: where its picture is, or rows of items."""
    if shown["rows"]:
        telling.table("", ["!split", f"!{shown['noun']}", "item"], shown["rows"])
    if shown["picture"] or not shown["rows"]:
        telling.say(shown["picture"] or "there is nothing to show: each episode is generated")
    if shown["shown"] < shown["classes"]:
        nouns = {"class": "classes", "task": "tasks"}[shown["noun"]]
        telling.say(f"{shown['shown']} of {shown['classes']} {nouns}")
    if shown["numbers"]:
        told = "no font of this computer has the letters of some names; in the picture, a number stands for each"
        telling.say(told)
        telling.table("", ["!", ""], [[number, name] for number, name in shown["numbers"].items()])


def _split(split: Mapping[str, Any], noun: str) -> str:
    names = ", ".join(split["names"][:_NAMES])
    more = f" and {split['classes'] - _NAMES} more" if split["classes"] > _NAMES else ""
    return f"{split['classes']} {noun}, {split['items']} items: {names}{more}"


def listing(value: Any) -> str:
    """Return a shape or a vocabulary, of one part or of several, in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {listing(part)}" for name, part in value.items() if part) or "-"
    if isinstance(value, list):
        return "x".join(map(str, value)) if all(isinstance(part, int) for part in value) else ", ".join(map(str, value))
    return str(value)


def facts(found: Mapping[str, Mapping[str, str]]) -> None:
    """Show facts under headings."""
    for heading, entries in found.items():
        telling.table(heading, ["!", ""], [[name, value] for name, value in entries.items()])

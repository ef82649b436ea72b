"""Text for measured values, durations, ages and the next command."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from metalearn_cli.core.check import counted
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.stages import TABLE

_CARRIED = ("runs_dir", "runtime", "way", "shot", "query")
_BEFORE_EVALUATION = ("backbone", "data")
"""Settings that the next command must repeat; not for an evaluation, whose network and data the checkpoint has."""
_OF_METHOD = "data@also."  # more data for a method of transfer


NO_CHANGE = "no change"
"""The verdict on a stage after which each episode has the same score."""

_ENOUGH = 10  # episodes of a class from which its interval is shown: that of a few may be wider than 100 %

_UNITS = {"groups": "groups of classes"}


def number(name: str, value: float | None) -> str:
    """Return a measured value: shares in percent, others with four digits; None (not finite) as "nan"."""
    if value is None:
        return "nan"
    return f"{100 * value:.1f} %" if _is_share(name) else f"{value:.4g}"


def brief(typed: str) -> str:
    """Return the value of a setting as it is typed, a number that a search has drawn with four digits."""
    try:
        return f"{float(typed):.4g}" if len(typed) > 9 and "." in typed else typed
    except ValueError:
        return typed


def spread(name: str, value: float | None, half: float | None) -> str:
    """Return a measured value with the half-width of its 95 % interval."""
    if value is None or half is None:
        return number(name, value)
    if _is_share(name):
        return f"{100 * value:.1f} +- {100 * half:.1f} %"
    digits = _decimals(half)
    return f"{value:.{digits}f} +- {half:.{digits}f}"


def _decimals(half: float) -> int:
    """Return the decimals with which a half-width has two significant digits; its mean is shown with as many."""
    return min(6, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4


def with_intervals(found: Mapping[str, Any], prefix: str = "") -> str:
    """Return a mean with the half-widths of its intervals, without a unit: "85.6 +- 0.6 (2.1)".

    Args:
        found: what `stages.scores.mean_of` returned, or a row of a chain's table.
        prefix: "gain_" for the gain of such a row, shown with its sign.

    Returns:
        The half-width over episodes and, in brackets, those over classes and over trainings if there are any; "-" for
        an unknown one.
    """
    share = _is_share(found["name"])
    value, sign = (found["gain"], "+") if prefix else (found["value"], "")
    widths: list[float | None] = [found.get(f"{prefix}{name}") for name in _intervals(found)]
    scale = 100 if share else 1
    if share:  # so many digits that a gain which is clear is not rounded to its half-width
        digits = 2 if prefix and any(width is not None and 0 < width < 0.00095 for width in widths) else 1
    else:
        digits = _decimals(widths[0] or 0)
    mean = "nan" if value is None else f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"  # never -0.0
    first, *others = ["-" if width is None else f"{scale * width:.{digits}f}" for width in widths]
    return f"{mean} +- {first}" + (f" ({', '.join(others)})" if others else "")


def with_unit(result: Mapping[str, Any]) -> str:
    """Return a score with all its intervals and its unit."""
    if not result.get("over") or result.get("interval") is None:
        return spread(result["name"], result["value"], result.get("interval"))
    return with_intervals(result) + " %" * _is_share(result["name"])


def sizes(found: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of episodes, classes and trainings of a mean; a run of an earlier version has fewer."""
    return found.get("over") or {"episodes": found.get("episodes") or 0, "trainings": 1}


def _intervals(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the intervals of a mean, the one over episodes first."""
    over = sizes(found)
    classes = ["interval_classes"] * bool({"classes", "groups", "tasks"} & over.keys())
    return ["interval", *classes, *["interval_trainings"] * (over["trainings"] > 1)]


def over(found: Mapping[str, Any]) -> str:
    """Return lines that explain the intervals of `with_intervals`."""
    few, fold = too_few(found), " of each fold" if found.get("folds") else ""
    units = {unit: n for unit, n in sizes(found).items() if unit != "episodes" and n > 1}
    units = {unit: n for unit, n in units.items() if not (few and unit == "trainings")}
    others = [f"over {n} {_UNITS.get(unit, unit)}{fold * (unit == 'trainings')}" for unit, n in units.items()]
    brackets = f";\nin brackets {' and '.join(others)}" if others else ""
    told = f"+- is the half-width of a 95 % interval over {sizes(found)['episodes']} episodes{brackets}."
    return "\n".join(filter(None, (told, few)))


def too_few(found: Mapping[str, Any]) -> str:
    """Return a line that says why there is no interval over trainings, if there are several and yet none."""
    trainings = sizes(found).get("trainings", 1)
    if trainings == 1 or found.get("interval_trainings", 0) is not None:
        return ""
    return f'The last "-": {trainings} trainings are too few for an interval over trainings; seeds=3 gives one.'


def hardest(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the worst tenth of the episodes of each result, and the hardest classes of the first one."""
    first = results[0]
    worst = [" ".join([number(r["name"], r["worst_decile"]), label_of(r, results)]).strip() for r in results]
    told = f"worst tenth of episodes {', '.join(worst)}"
    noun = "classes" if _is_share(first["name"]) else "tasks"
    named = []
    for own in first["hardest"]:
        half = own["interval"] if own["episodes"] >= _ENOUGH else None
        named.append(f"{own['name']} {spread(first['name'], own['value'], half)} in {own['episodes']} episodes")
    label = label_of(first, results)
    how = f"+- over their episodes, from {_ENOUGH} on"
    return f"{told};\nhardest {noun}{f', {label}' * bool(label)} ({how}): {', '.join(named)}" if named else told


def error_rates(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the scores of results on a list of fixed episodes as error rates, as papers report Lake's twenty runs."""
    rates = []
    for result in results:
        rate = spread(result["name"], None if result["value"] is None else 1 - result["value"], result["interval"])
        rates.append(" ".join([rate, label_of(result, results)]).strip())
    return f"error rate over the {sizes(results[0])['episodes']} fixed episodes (runs): {', '.join(rates)}"


def label_of(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """Return what tells a result from the others of its evaluation: its protocol, and where its classes are from."""
    keys = [key for key in ("normalisation", "drawn") if len({other.get(key) for other in results}) > 1]
    return " ".join(str(result[key]) for key in keys)


def calibration(result: Mapping[str, Any], label: str) -> str:
    """Return what the calibration of a result is, which a label tells from others."""
    found = result["calibration"]
    before, after = (
        f"ECE {number('accuracy', part['ece'])}, negative log-likelihood {_likelihood(part['nll'])}"
        for part in (found["before"], found["after"])
    )
    whose = f"calibration{f', {label}' if label else ''}: {before}"
    if found["temperature"] is None:
        why = "all are right, or they are no better than chance"
        return f"{whose}; no temperature fits the answers of {found['episodes']} validation episodes: {why}"
    fitted = f"temperature {found['temperature']:.3g}, fitted on {counted(found['episodes'], 'validation episode')}"
    told = f"{whose};\nwith {fitted}: {after}"
    nll = [found[when]["nll"] for when in ("before", "after")]
    if None in nll or nll[1] <= nll[0]:
        return told
    more = f"calibration={10 * found['episodes']} may fit a better one, on more validation episodes"
    return f"{told};\nthis temperature makes the log-likelihood of test answers worse; {more}"


def calibrations(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the calibration of each result is, of those that have one."""
    return [f"{calibration(r, label_of(r, results))}." for r in results if "calibration" in r]


def _likelihood(value: float | None) -> str:
    return "nan" if value is None else f"{value:.3f}"


def _is_share(name: str) -> bool:
    return metric_named(name).unit == "share"


def measured(run: Mapping[str, Any]) -> str:
    """Return a run's key metric, or "-" if it has none yet."""
    metric = run.get("metric")
    if not metric:
        return "-"
    return f"{metric['name'].replace('/', ' ')} {scored(metric)}"


def scored(found: Mapping[str, Any]) -> str:
    """Return a score with its interval and its protocol, if it has one: "85.0 +- 0.4 % transductive".

    The interval is over trainings and episodes where there is one, else over episodes.
    """
    protocol, half = found.get("normalisation") or "none", found.get("interval_trainings")
    half = found.get("interval") if half is None else half
    return spread(found["name"], found["value"], half) + f" {protocol}" * (protocol != "none")


def verdict(row: Mapping[str, Any]) -> str:
    """Return what the gain of a chain's row means: the stage helps or hurts if all intervals exclude 0."""
    widths: list[Any] = [row.get(f"gain_{name}") for name in _intervals(row)]
    if row["gain"] == 0 == row["gain_interval"]:
        return NO_CHANGE
    if None in widths or abs(row["gain"]) <= max(widths):
        return "not clear"
    return "helps" if row["gain"] > 0 else "hurts"


def duration(seconds: float) -> str:
    """Return a rounded duration: "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age(moment: str | None) -> str:
    """Return how long ago an ISO 8601 time was: "3 min", "2 days"."""
    if not moment:
        return "-"
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(moment)).total_seconds()
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def next_command(run: Mapping[str, Any], words: Sequence[str], config_dir: str = "") -> str:
    """Return the command to type after a run, quoted for a shell.

    Args:
        run: its run.json.
        words: the settings of its command line; those that the next stage needs, too, are repeated.
        config_dir: the folder of configs of its command line, or "".
    """
    then = TABLE[run["stage"]].then if run["stage"] in TABLE else ""
    if not then:
        return shlex.join(["mlx", "show", run["id"], *runs_option(words)])
    stage, setting = then.split()
    carried = _CARRIED if stage == "evaluate" else _CARRIED + _BEFORE_EVALUATION
    again = [w for w in (word.lstrip("+") for word in words) if re.split(r"[=.@]", w)[0] in carried]
    again = [word for word in again if not word.startswith(_OF_METHOD)]
    own = ["--config-dir", config_dir] * bool(config_dir)
    return shlex.join(["mlx", stage, f"{setting}={run['id']}", *again, *own])


def runs_option(words: Sequence[str]) -> list[str]:
    """Return the option --runs-dir for the setting runs_dir, if there is one."""
    for word in words:
        if word.lstrip("+").startswith("runs_dir="):
            quoted = re.fullmatch(r"(['\"])(.*)\1", value := word.split("=", 1)[1])  # by Hydra's rules, not the shell's
            return ["--runs-dir", quoted[2].replace(f"\\{quoted[1]}", quoted[1]) if quoted else value]
    return []


def on_one_line(text: str) -> str:
    """Return a text with line breaks and control characters escaped: names of files may have any."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def cell(value: Any) -> Any:
    """Return a value for a spreadsheet, which would run a text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

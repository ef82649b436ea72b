"""`mlx report`: what runs left, read into one record that a page, a table or a program can show.

Runs may be unfinished, and their files missing or damaged: what cannot be read is told in `problems`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from metalearn_cli.core.check import LONGEST, in_shell, shown
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.nested import leaves, within
from metalearn_cli.records import runs, sweeps
from metalearn_cli.records.embedding import read_embedding
from metalearn_cli.records.metrics import TIMES, read_metrics
from metalearn_cli.records.names import name_of
from metalearn_cli.studies.sides import Listing, Run

POINTS = 200
"""Most points of a curve."""

_APART = {"runs_dir", "runtime", "init_from", "ckpt", "teacher", "tracker"}
_APART_IN_GROUPS = ("scheduler.T_max", "scheduler.total_steps")
"""Settings that say where something is or how fast, or that follow from others."""
_OF_CHAINS = ("training", "own", "first", "stages")
_ENDED = ("completed", "pruned", "gone")
_DEEPEST = 8  # levels of settings that are told apart
_LARGEST = 1e300
_CURVES = "plots/learning_curves.png"  # drawn anew


def gathered(named: Sequence[Run], command: Callable[[Run], Sequence[str] | None]) -> dict[str, Any]:
    """Read runs, their ancestors, and the evaluations that belong to them.

    Args:
        named: the run.json of each, with its `folder`.
        command: returns the words of the command that makes a run again, None if unknown.

    Returns:
        `runs`: the named ones, each with its facts, `settings`, `results`, `selected`, `curves`, `embedding`,
        `pictures`, `command`, `versions`; `others`: likewise, those that they come from or that score them; `varying`:
        the settings in which the named runs differ; `sweep`: the `id` and `command` of the sweep that all named runs
        are of, or None; `unfinished`: the ids of runs that are not completed; `problems`: what could not be read, as
        sentences.
    """
    listing, problems = cache(runs.list_runs), dict[str, None]()
    own = {str(Path(run["folder"]).resolve()): run for run in named}
    family = {run["id"]: run for run in own.values()}
    repeated = set(family)
    for run in own.values():
        related = {info["id"]: info for info in _related(run, listing, problems) if info["id"] not in family}
        family |= related
        if run["stage"] != "run" or not run.get("typed"):  # the command of a chain repeats all its parts
            repeated |= related.keys()
    told = {name: _told(run, family, problems) for name, run in family.items()}
    for name, run in family.items():
        with _noting(problems):
            if name in repeated and "folder" in run and (words := command(run)):
                told[name]["command"] = " ".join(map(in_shell, words))
                _name_choices(told[name]["settings"], words)
    for name, why in sweeps.pruned(family.values()).items():
        told[name] |= {"status": "pruned", "error": why}
    first = [told[run["id"]] for run in own.values()]
    others = [entry for name, entry in told.items() if entry not in first]
    return {
        "runs": first,
        "others": sorted(others, key=lambda entry: str(entry["started_at"])),
        "varying": _varying([entry["settings"] for entry in first]),
        "sweep": _sweep(list(own.values()), problems),
        "unfinished": [name for name, entry in told.items() if entry["status"] not in _ENDED],
        "problems": list(problems),
    }


def _related(run: Run, listing: Listing, problems: dict[str, None]) -> Iterator[Run]:
    """Yield the ancestors of a run, the evaluations of a training or chain, and the ancestors of these."""
    there = {info["id"]: info for info in reversed(listing(runs.beside_of(Path(run["folder"]))))}
    scoring = [name for row in run.get("evaluations") or () for name in row["runs"]]
    if run["stage"] not in ("run", "evaluate"):
        scoring += [info["id"] for info in there.values() if _parent(info) == run["id"] and "results" in info]
    for name in dict.fromkeys(scoring):
        if name in there:
            yield there[name]
        else:
            problems[f"{run['id']}: its evaluation {name} is gone"] = None
    for start in [run, *(there[name] for name in dict.fromkeys(scoring) if name in there)]:
        seen, parent = {start["id"]}, start.get("parent")
        while parent and parent["run"] not in seen:
            seen.add(parent["run"])
            gone = {"id": parent["run"], "stage": parent["stage"], "status": "gone"}
            yield (info := there.get(parent["run"], gone))
            parent = info.get("parent")


def _sweep(named: Sequence[Run], problems: dict[str, None]) -> dict[str, Any] | None:
    """Return the sweep that all runs are of, if they are of one."""
    (runs_dir, name), *others = dict.fromkeys((runs.beside_of(Path(run["folder"])), run.get("sweep")) for run in named)
    if others or not isinstance(name, str):
        return None
    command = None
    with _noting(problems):
        command = sweeps.command_of(runs_dir, name)
    return {"id": name, "command": command}


def _parent(run: Run) -> str | None:
    return (run.get("parent") or {}).get("run")


def _told(run: Run, family: Mapping[str, Run], problems: dict[str, None]) -> dict[str, Any]:
    """Return the facts of one run, with what can be read of its files."""
    run = _bounded(run)
    folder = Path(run["folder"]) if "folder" in run else None
    data = run.get("data") or {}
    facts = {key: run.get(key) for key in ("id", "stage", "status", "started_at", "seconds", "step", "steps", "metric")}
    facts |= {"parent": _parent(run), "folder": run.get("folder"), "table": run.get("table")}
    facts |= {"selected": run.get("selected") or []}
    facts |= {"error": str(run["error"])[:LONGEST] if run.get("error") else None, "results": _results(run)}
    facts |= {"data": {key: data.get(key) for key in ("name", "protocol", "fingerprint")}}
    facts |= {"settings": {}, "curves": {}, "pictures": [], "embedding": None, "command": None, "checkpoint": None}
    if folder is None:
        return facts
    with _noting(problems):
        facts["settings"] = _settings(run, family)
    with _noting(problems):
        facts["curves"] = _curves(folder)
        if run["status"] == "completed" and run.get("steps") and not facts["curves"]:
            raise UserError(f"{folder / 'metrics.jsonl'} is missing or empty")
    with _noting(problems):
        if found := read_embedding(folder):
            facts["embedding"] = found._asdict()
    facts["pictures"] = [str(path) for path in sorted(folder.glob("plots/*.png")) if path != folder / _CURVES]
    if run.get("best"):
        with _noting(problems):
            facts["checkpoint"] = _checkpoint(folder / "checkpoints" / run["best"])
    return facts


@contextmanager
def _noting(problems: dict[str, None]) -> Iterator[None]:
    """Within a block that reads a file, note that it is missing or damaged."""
    try:
        yield
    except UserError as error:
        problems[str(error)] = None


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return plain values with None for what is nested too deeply, or is a number that cannot be drawn."""
    if depth > _DEEPEST or (isinstance(value, int | float) and not abs(value) < _LARGEST):
        return None
    if isinstance(value, Mapping):
        return {key: _bounded(part, depth + 1) for key, part in value.items()}
    return [_bounded(part, depth + 1) for part in value] if isinstance(value, list) else value


def _results(run: Run) -> list[Run]:
    """Return the scores of a run: of an evaluation, the last rows of a chain, or the metric of a training."""
    if run["stage"] == "run":
        rows = [((row["after"], row.get("learner")), row) for row in run.get("table") or ()]
        return [row for key, row in rows if key == rows[-1][0]]
    return run.get("results") or ([run["metric"]] if run.get("metric") else [])


def _settings(run: Run, family: Mapping[str, Run]) -> dict[str, Any]:
    """Return the settings of a run, flat, and those of the runs it comes from, with their stages before the keys.

    A component is named as it is typed, as in algorithm: protonet.

    Raises:
        UserError: if its config.json is missing or damaged.
    """
    config = runs.read_config(Path(run["folder"]))
    if run["stage"] == "run":  # those of its stages, and of the chain itself
        parts, own = config.get("training"), {key: value for key, value in config.items() if key not in _OF_CHAINS}
        config = {**(parts if isinstance(parts, Mapping) else {}), **own}
    found = _flat(config)
    seen, parent = {run["id"]}, family.get(_parent(run) or "")
    while run["stage"] != "run" and parent and "folder" in parent and parent["id"] not in seen:
        seen.add(parent["id"])
        prefix = f"{parent['stage']}."
        with _noting({}):  # told where this run itself is read
            for key, value in _flat(runs.read_config(Path(parent["folder"]))).items():
                found.setdefault(prefix + key, value)
        parent = family.get(_parent(parent) or "")
    return found


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    flat = dict(leaves(_bounded(values)))
    for name, value in flat.items():
        group, _, key = name.rpartition(".")
        if _APART.intersection(name.split(".")) or name.endswith(_APART_IN_GROUPS):
            continue
        if key == "_target_":
            found[group] = name_of(group, within(flat, group))
        else:
            found[name] = value if isinstance(value, str | int | float) or value is None else shown(value)
    return found


def _name_choices(settings: dict[str, Any], words: Sequence[str]) -> None:
    """Name components as they were typed: by a config of the user's own, too."""
    for key, _, value in (word.partition("=") for word in words):
        if isinstance(settings.get(key), str):
            settings[key] = value


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings in which runs differ, and that most of them have, the shortest keys first.

    A setting that always follows another one of the same name is left out, as evaluate.algorithm is.
    """
    keys = dict.fromkeys(key for own in settings for key in own)
    found: dict[tuple[str, ...], str] = {}
    for key in sorted(keys, key=lambda key: key.count(".")):
        values = [own[key] for own in settings if key in own]
        if 2 * len(values) > len(settings) and any(value != values[0] for value in values):
            column = (key.rpartition(".")[2], *(str(own.get(key)) for own in settings))
            found.setdefault(column, key)
    return list(found.values())


def _curves(folder: Path) -> dict[str, list[list[float]]]:
    """Return the values of each metric of a training as [step, value], at most `POINTS` of them.

    Raises:
        UserError: if metrics.jsonl is damaged.
    """
    found: dict[str, list[list[float]]] = {}
    for line in read_metrics(folder):
        for name, value in line.items():
            measured = name not in ("step", *TIMES) and not name.endswith(("_interval", "/lr"))
            if measured and abs(value) < _LARGEST:  # NaN is not
                found.setdefault(name, []).append([line["step"], value])
    return {name: _thinned(points) for name, points in found.items()}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    every = math.ceil(len(points) / POINTS)
    return points[:-1:every] + points[-1:]


def _checkpoint(folder: Path) -> dict[str, Any]:
    """Return the sha256 of a checkpoint's manifest, and the versions with which it was made.

    Raises:
        UserError: if the manifest is missing or damaged.
    """
    manifest = runs.read_json(folder / "manifest.json")
    versions = manifest.get("versions")
    told = {name: str(value)[:LONGEST] for name, value in versions.items()} if isinstance(versions, dict) else {}
    return {"folder": str(folder), "sha256": runs.sha256_of(folder / "manifest.json"), "versions": told}

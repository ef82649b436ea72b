"""The filters and the order of `mlx runs`, and the facts that it lists for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.cli.words import FILTERS, STAGES, closest, meant
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records import sweeps
from metalearn_cli.records.names import name_of, recorded_name
from metalearn_cli.records.runs import find_run, list_runs, read_config

_ORDERS = ("age", "metric")
_LEARNERS = ("model", "method", "algorithm")
_VALUES = {"stage": tuple(STAGES), "status": ("completed", "running", "interrupted", "pruned", "failed", "died")}
_NUMBERS = ("way", "shot", "seed")


def described(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with its learner, way, shot and seed, None if unknown; of a chain also the number of `seeds`."""
    try:
        config = read_config(Path(run["folder"]))
    except UserError:
        config = {}
    shared, facts = config, dict[str, Any]()
    if run["stage"] == "run":
        trainings = _group(config, "training")
        first = _group(trainings, next(iter(trainings), ""))
        # test episodes have a seed of their own
        shared = {**first, **_group(config, "evaluate"), "seed": first.get("seed"), "data": first.get("data")}
        facts["seeds"] = seeds if isinstance(seeds := config.get("seeds"), int) else None
    settings = shared if isinstance(shared, dict) else {}
    facts |= {key: settings.get(key) for key in ("way", "shot", "seed")}
    if not run.get("data") and isinstance(spec := settings.get("data"), dict):
        facts["data"] = {"name": name_of("data", spec)}  # a run that has not built it has no more
    results = run.get("results") or run.get("table") or [{}]
    trained = next((name_of(key, spec) for key in _LEARNERS if isinstance(spec := settings.get(key), dict)), None)
    scored = results[-1].get("learner")
    return {**run, "learner": recorded_name(scored) if scored else trained, **facts}


def _group(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    return found if isinstance(found := config.get(key), dict) else {}


def _plain(name: str) -> str:
    """Return a name in a form that a class and a config have in common: NearestCentroid is nearest_centroid."""
    return name.lower().replace("_", "")


def chosen(found: Sequence[Mapping[str, Any]], words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs that match `key=value` words, as `described` gives them, in the order of `sort`.

    Raises:
        UserError: for a word that is not in `FILTERS`.
    """
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in FILTERS:
            near = "learner" if key in _LEARNERS else closest(key, FILTERS)
            hint = f"did you mean {near}={value}?" if near and equals else f"there are {'=, '.join(FILTERS)}="
            raise UserError(f"there is no filter {word!r} of runs; {hint}")
        if key in _VALUES and value not in _VALUES[key]:
            allowed = ", ".join(_VALUES[key])
            near = closest(value.replace("_", "-"), _VALUES[key])
            hint = f"; did you mean {key}={near}?" if near else ""
            raise UserError(f"{key} must be one of {allowed}, got {value!r}{hint}")
        if key in _NUMBERS and not value.isdecimal():
            raise UserError(f"{key} must be a whole number, got {value!r}")
        given[key] = value
    order = given.pop("sort", "age")
    if order not in _ORDERS:
        raise UserError(f"sort must be one of {', '.join(_ORDERS)}, got {order!r}{meant(order, _ORDERS)}")
    runs = [run for run in map(described, found) if all(_matches(run, *item) for item in given.items())]
    return sorted(runs, key=_rank) if order == "metric" else runs


def matching(runs_dir: str, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs of a folder that words choose, see `chosen`; of a sweep also those that were done before it.

    Raises:
        UserError: for a word that is not in `FILTERS`, or if the record of the sweep is damaged.
    """
    found = list_runs(runs_dir)
    if name := next((word.partition("=")[2] for word in words if word.startswith("sweep=")), ""):
        jobs = sweeps.read(runs_dir, name) or ()
        own = {job.run["id"] if job.run else Path(job.folder).name for job in jobs}
        found = [{**run, "sweep": name} if run["id"] in own else run for run in found]
    early = sweeps.pruned(found)
    told = [{**run, "status": "pruned", "error": early[run["id"]]} if run["id"] in early else run for run in found]
    return chosen(told, words)


def named(words: Sequence[str], runs_dir: str) -> list[dict[str, Any]]:
    """Return the runs that words name, see `find_run`; filters, see `matching`, together name all that match.

    Raises:
        UserError: for a name without a run, or filters that no run matches.
    """
    filters = [word for word in words if "=" in word and not Path(word).is_dir()]
    found = [find_run(runs_dir, word) for word in words if word not in filters]
    if filters:
        found += matching(runs_dir, filters)[::-1]  # the oldest first, as they were typed
        if not found:
            raise UserError(f"no runs in {runs_dir} match {' '.join(filters)}; next: mlx runs")
    return found


def _matches(run: Mapping[str, Any], key: str, wanted: str) -> bool:
    if key == "seed" and isinstance(first := run.get("seed"), int):
        return int(wanted) in range(first, first + (run.get("seeds") or 1))
    return _plain(told(run, key)) == _plain(wanted)


def told(run: Mapping[str, Any], key: str) -> str:
    """Return a run's value for a filter, "" if unknown."""
    value = (run.get("data") or {}).get("name") if key == "data" else run.get(key)
    return "" if value is None else str(value)


def _rank(run: Mapping[str, Any]) -> tuple[bool, str, float]:
    """Order by the key metric, best first, runs without one last; different metrics are not compared."""
    if not (metric := run.get("metric")):
        return True, "", 0.0
    return False, metric["name"], -metric["value"] if metric_named(metric["name"]).higher_is_better else metric["value"]

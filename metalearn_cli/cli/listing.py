"""The filters and the order of `mlx runs`, and the facts that it lists for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from metalearn_cli.cli.choices import catalogue, config_dir, texts_of
from metalearn_cli.cli.words import FILTERS, STAGES, closest, meant
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.metric import metric_named
from metalearn_cli.records.runs import find_run, list_runs, read_config

_ORDERS = ("age", "metric")
_LEARNERS = ("model", "method", "algorithm")
_VALUES = {"stage": tuple(STAGES), "status": ("completed", "running", "interrupted", "failed", "died")}
_NUMBERS = ("way", "shot", "seed")


def described(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run with facts of its settings: learner, way, shot and seed, None if unknown."""
    try:
        config = read_config(Path(run["folder"]))
    except UserError:
        config = {}
    shared = config.get("evaluate", config) if run["stage"] == "run" else config
    settings = shared if isinstance(shared, dict) else {}
    facts = {key: settings.get(key) for key in ("way", "shot", "seed")}
    results = run.get("results") or run.get("table") or [{}]
    named = next((name for key in _LEARNERS if (name := _name(settings.get(key)))), None)
    learner = results[-1].get("learner") or named
    typed = _choices().get(_plain(learner), learner.lower()) if isinstance(learner, str) else None
    return {**run, "learner": typed, **facts}


def called(run: Mapping[str, Any], learner: str) -> str:
    """Return what the learner of an evaluation is called.

    It is its class, or the config whose settings are nearest if that extends another's, as fomaml extends maml.
    """
    spec = run.get("algorithm") or {}
    found = {}
    for path in (config_dir() / "algorithm").glob("*.yaml"):  # ours alone: those of others may be damaged
        texts = texts_of("algorithm", path.stem)
        settings = {key: value for text in texts for key, value in yaml.safe_load(text).items() if key != "defaults"}
        if settings["_target_"] == spec.get("_target_"):
            differing = sum(spec.get(key) != value for key, value in settings.items())
            found[differing, len(texts)] = path.stem if len(texts) > 1 else learner
    return found[min(found)] if found else learner


@cache
def _choices() -> dict[str, str]:
    """Return the names of all learners as they are typed, by their plain form."""
    groups = catalogue()
    return {_plain(name): name for key in _LEARNERS for name in groups.get(key, ())}


def _plain(name: str) -> str:
    """Return a name in the form that class and choice have in common: NearestCentroid is nearest_centroid."""
    return name.lower().replace("_", "")


def _name(spec: Any) -> str | None:
    """Return the name of a component, as in `maml` for a.b.maml.Maml."""
    target = spec.get("_target_") if isinstance(spec, Mapping) else None
    return target.split(".")[-1] if isinstance(target, str) else None


def chosen(found: Sequence[Mapping[str, Any]], words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs that match `key=value` words, as `described` gives them, in the order of `sort`.

    Raises:
        UserError: for a word that is not in `FILTERS`.
    """
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in FILTERS:
            allowed = f"mlx runs takes {', '.join(f'{name}=' for name in FILTERS)}"
            near = "learner" if key in _LEARNERS else closest(key, FILTERS)
            hint = f"; did you mean {near}={value}?" if near and equals else ""
            raise UserError(f"mlx runs takes no {word!r}{hint}; {allowed}")
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


def named(words: Sequence[str], runs_dir: str) -> list[dict[str, Any]]:
    """Return the runs that words name, see `find_run`; filters, see `chosen`, together name all that match.

    Raises:
        UserError: for a name without a run, or filters that no run matches.
    """
    filters = [word for word in words if "=" in word and not Path(word).is_dir()]
    found = [find_run(runs_dir, word) for word in words if word not in filters]
    if filters:
        found += chosen(list_runs(runs_dir), filters)[::-1]  # the oldest first, as they were typed
        if not found:
            raise UserError(f"no runs in {runs_dir} match {' '.join(filters)}; next: mlx runs")
    return found


def _matches(run: Mapping[str, Any], key: str, wanted: str) -> bool:
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

"""`mlx verify`: run an experiment, and compare its results with what it claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metalearn_cli import __version__, stages
from metalearn_cli.core.claims import Expectation, Tier
from metalearn_cli.core.config import ChainConfig, MetaTrainConfig
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.machine import description
from metalearn_cli.core.metric import metric_named
from metalearn_cli.core.types import Reporter
from metalearn_cli.records import runs
from metalearn_cli.records.names import name_of, recorded_name
from metalearn_cli.stages.chain import names_in, scored_as
from metalearn_cli.stages.evaluation_inputs import FLOORS
from metalearn_cli.stages.scores import INTERVALS, POOLED
from metalearn_cli.stages.session import Session

FILE = "verify.json"


def verify(config: ChainConfig, name: str, tier_name: str, tier: Tier, reporter: Reporter) -> dict[str, Any]:
    """Run the chain of an experiment and compare its results with the expected ones.

    An expectation is met if the result is at most its tolerance worse than its value, or if the 95 % interval over
    episodes reaches that far; a better result always meets it.

    Args:
        config: the experiment's settings in this tier.
        name: the experiment's.
        tier_name: the tier's.
        tier: what it claims.
        reporter: gets reports of progress.

    Returns:
        The record, which is also written as verify.json into the folder of the chain's run: `passed` (None if nothing
        is claimed), the `results` beside the expected ones, and the `minutes` of the run and of the claim. With it the
        `folder`, and the `bound` that the experiment's file names for results that fail, or None.

    Raises:
        UserError: if the chain cannot run, or has no result that an expectation is about.
        Stopped: after a signal.
    """
    check_learners(config, tier_name, tier)
    _check_results(config, tier_name, tier)
    run = stages.run("run", config, reporter)
    results = [_compared(run["table"], expected) for expected in tier.expect]
    record = {
        "experiment": name,
        "tier": tier_name,
        "passed": all(result["passed"] for result in results) if results else None,
        "results": results,
        "minutes": {"run": run["seconds"] / 60, "claim": tier.minutes},
        "run": run["id"],
        "data": {key: run["data"].get(key) for key in ("name", "fingerprint", "protocol")},
        "machine": description(),
        "version": __version__,
        "finished_at": run["finished_at"],
    }
    runs.write_json(Path(run["folder"]) / FILE, record)
    return {**record, "folder": run["folder"], "bound": tier.bound}


def check_learners(config: ChainConfig, tier_name: str, tier: Tier) -> None:
    """Check that each expectation is about a learner of the chain.

    Raises:
        ConfigError: with every other one.
    """
    learners = [s.algorithm for s in config.training.values() if isinstance(s, MetaTrainConfig)]
    trained = [name for algorithm in learners for name in names_in(config, algorithm)]
    problems = []
    for index, expected in enumerate(tier.expect):
        known = [*trained, name_of("algorithm", FLOORS[expected.metric == "mse"])]
        if expected.learner not in known:
            message = f"the chain has no such learner; it has {' and '.join(known)}"
            problems.append(Problem(f"tiers.{tier_name}.expect.{index}.learner", message))
    if problems:
        raise ConfigError(problems)


def _check_results(config: ChainConfig, tier_name: str, tier: Tier) -> None:
    """Check, before anything is trained, that the chain will have a result for each expectation.

    Raises:
        ConfigError: with every expectation without one.
    """
    try:
        there = scored_as(config, Session())
    except UserError:
        return  # the run says why, and what to type
    problems = []
    for index, expected in enumerate(tier.expect):
        if (about := _wanted(expected)) not in there:
            message = f"is about {' '.join(about)}, but the results will be {'; '.join(map(' '.join, there))}"
            problems.append(Problem(f"tiers.{tier_name}.expect.{index}", message))
    if problems:
        raise ConfigError(problems)


def _compared(table: Sequence[Mapping[str, Any]], expected: Expectation) -> dict[str, Any]:
    """Return the result of the last checkpoint beside the expected one, both in the unit of the latter."""
    about = _wanted(expected)
    known = {_about(row): row for row in table}  # the last of each
    if about not in known:
        there = "; ".join(" ".join(found) for found in known)
        raise UserError(f"the experiment expects {' '.join(about)}, but its results are {there}")
    row = known[about]
    factor = 100 if metric_named(expected.metric).unit == "share" else 1
    ours = {key: None if row[key] is None else factor * row[key] for key in ("value", *INTERVALS)}
    facts = {"over": row["over"], "selected": row.get("selected", [])}
    return {"expected": asdict(expected), **ours, **facts, "passed": meets(ours, expected)}


def meets(ours: Mapping[str, Any], expected: Expectation) -> bool:
    """Whether a result is no more than its interval and the tolerance worse than expected; one not finite never is.

    Args:
        ours: `value` and the half-width `interval`, both in the unit of the claim; None if there is none.
        expected: the claim.
    """
    if ours["value"] is None:
        return False
    sign = 1 if metric_named(expected.metric).higher_is_better else -1
    return bool(sign * (ours["value"] - expected.value) + (ours["interval"] or 0) >= -expected.tolerance)


def _wanted(expected: Expectation) -> tuple[str, str, str, str]:
    return expected.metric, expected.learner, expected.normalisation, expected.drawn


def _about(row: Mapping[str, Any]) -> tuple[str, ...]:
    metric = str(row["name"]).rpartition("/")[2]
    return metric, recorded_name(row["learner"]), row["normalisation"] or "none", row.get("drawn", POOLED)

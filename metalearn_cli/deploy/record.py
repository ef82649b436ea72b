"""What the records of runs say of a checkpoint: its evaluation and its ancestors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metalearn_cli.core.build import Spec
from metalearn_cli.core.errors import UserError
from metalearn_cli.records.names import name_of, recorded_name
from metalearn_cli.records.runs import lineage, list_runs

_KEPT = ("name", "value", "interval", "interval_classes", "over", "normalisation", "way", "shot", "query", "learner")
_PROTOCOLS = ("inductive", "none")
"""The protocols of normalisation whose results hold for a single file."""


def record_of(source: Mapping[str, Any], algorithm: Spec, runs_dir: str) -> dict[str, Any]:
    """Return the newest result of a checkpoint and its ancestors.

    Args:
        source: run, stage, step, checkpoint and sha256.
        algorithm: the settings of the learner.
        runs_dir: the folder of all runs.

    Returns:
        `result`: of the newest evaluation of this checkpoint with this learner on test classes, under a protocol that
        holds for single files; None if there is none; and `lineage`, from the checkpoint back to its first ancestor.
    """
    learner = name_of("algorithm", algorithm)
    results = [
        {**{key: result.get(key) for key in _KEPT}, "run": run["id"]}
        for run in list_runs(runs_dir)
        if run["stage"] == "evaluate" and (run.get("parent") or {}).get("sha256") == source["sha256"]
        for result in run.get("results") or ()
        if result.get("normalisation") in _PROTOCOLS and "drawn" not in result
        if str(result.get("name")).startswith("test/")
        if recorded_name(str(result.get("learner"))) == learner
    ]
    own = {"run": source["run"], "stage": source["stage"], "sha256": source["sha256"]}
    try:
        before = lineage(runs_dir, source["run"])[1:]
    except UserError:  # its run was moved
        before = []
    ancestors = [{"run": run["id"], "stage": run["stage"], "sha256": run.get("sha256")} for run in before]
    return {"result": next(iter(results), None), "lineage": [own, *ancestors]}

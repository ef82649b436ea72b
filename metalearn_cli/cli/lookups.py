"""Problems of settings that can be found before a stage is built, so that they are reported with all others.

Values of a wrong type are skipped: the check of types reports them. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metalearn_cli.core.build import problems_of
from metalearn_cli.core.config import STAGES
from metalearn_cli.core.errors import Problem, UserError
from metalearn_cli.core.machine import too_many_threads
from metalearn_cli.core.source import returned
from metalearn_cli.core.stages import TABLE
from metalearn_cli.records.runs import find_checkpoint


def impossible(stage: str, values: Mapping[str, Any]) -> list[Problem]:
    """Return settings that this machine, its files, the kind of the data, or the checkpoint, rules out."""
    problems = []
    if stage == "evaluate" and values.get("ckpt") and values.get("backbone"):
        problems.append(Problem("backbone", "is only for ckpt=null: a checkpoint has its own"))
    backbone = values.get("backbone")
    weights = backbone.get("weights") if isinstance(backbone, Mapping) else None
    if isinstance(weights, str) and not Path(weights).is_file():
        problems.append(Problem("backbone.weights", f"weights {weights} does not exist, or is no file"))
    for prefix, own in _sections(stage, values):
        runtime = own.get("runtime")
        found = too_many_threads(runtime.get("threads")) if isinstance(runtime, Mapping) else []
        if _of_classes(own.get("data") or values.get("data")):
            ways = [key for key in ("way", "train_way") if own.get(key) == 1]
            found += [Problem(key, "must be >= 2, as the data has classes, got 1") for key in ways]
        problems += [problem._replace(key=prefix + problem.key) for problem in found]
    return problems


def missing(stage: str, values: Mapping[str, Any]) -> list[Problem]:
    """Return the checkpoints that do not exist."""
    problems = []
    for prefix, own in _sections(stage, values):
        at = prefix.rstrip(".").replace("_", "-") or stage
        if at == "run":  # its init_from is that of its first stage
            at = next((name for name in STAGES if name in str(values.get("stages"))), "meta-train")
        for setting in {"init_from", "ckpt", "teacher"} & own.keys() if at in STAGES else ():
            name, runs_dir = own[setting], values.get("runs_dir")
            if not isinstance(name, str) or not isinstance(runs_dir, str):
                continue
            try:
                find_checkpoint(name, runs_dir, TABLE[at].accepts, setting)
            except UserError as error:
                problems.append(Problem(prefix + setting, str(error).removeprefix(f"{setting}={name}: ")))
    return problems


def _sections(stage: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the settings of a command and of the stages in it, each with the prefix of its keys."""
    yield "", values
    for row in TABLE.values() if stage == "run" else ():
        if isinstance(own := values.get(row.section), Mapping):
            yield f"{row.section}.", own


def _of_classes(data: Any) -> bool:
    """Whether a data set has classes: the return type of its function is `Dataset`."""
    if not isinstance(data, Mapping) or problems_of(data, "data"):
        return False
    module, _, name = data["_target_"].rpartition(".")
    return returned(module, name) == "Dataset"

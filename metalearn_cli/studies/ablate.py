"""`mlx ablate`: the chain with and without its stages, and what each stage is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalearn_cli import stages
from metalearn_cli.core.config import ChainConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.types import Reporter
from metalearn_cli.records import runs
from metalearn_cli.studies.compare import Pair, amount, compared
from metalearn_cli.studies.sides import Run, Side, rows_of

FILE = "ablate.json"
LETTERS = {"pretrain": "P", "transfer": "T", "meta-train": "M"}
_VERDICTS = {"better": "helps", "worse": "hurts", "not clear": "not clear", "same": "no change"}

Arm = tuple[str, ...]
"""The stages that a checkpoint has been through."""


def ablate(config: ChainConfig, reporter: Reporter) -> dict[str, Any]:
    """Run the chain, and the chain without the stage in its middle; compare checkpoints that differ in one stage.

    Both are runs of `mlx run`, which skips what is done.

    Args:
        config: the chain's settings.
        reporter: gets reports of progress.

    Returns:
        The record, which is also written as ablate.json into the folder of the chain's run, see `compare.compared`. A
        comparison says which `stage` is worth its `gain`, and its `verdict` is helps, hurts, not clear or no change.
        `conclusions` has a sentence for each stage: of its comparison by the last learner and after most stages.

    Raises:
        UserError: if the chain cannot run.
        Stopped: after a signal.
    """
    if config.folds:
        told = f"must be null, because mlx ablate compares seeds, got {config.folds}; type seeds=5"
        raise ConfigError([Problem("folds", told)])
    whole = stages.run("run", config, reporter)
    found = _scored(whole, config.stages)
    if len(config.stages) > 2:
        shorter = _without(config, config.stages[1])
        found = {**_scored(stages.run("run", shorter, reporter), shorter.stages), **found}
    sides = _sides(found)
    record = compared(list(sides.values()), list(_pairs(sides)))
    for one in record["comparisons"]:
        one["verdict"] = _VERDICTS[one["verdict"]]
    deciding = {(one["stage"], one["normalisation"]): one for one in record["comparisons"]}  # the last of each
    conclusions = [_sentence(one) for stage in config.stages for (of, _), one in deciding.items() if of == stage]
    record = {**record, "conclusions": conclusions, "run": whole["id"], "stages": list(config.stages)}
    runs.write_json(Path(whole["folder"]) / FILE, record)
    return {**record, "folder": whole["folder"]}


def _without(config: ChainConfig, stage: str) -> ChainConfig:
    """Return the settings of a chain without a stage."""
    kept = {name: settings for name, settings in config.training.items() if name != stage}
    return replace(config, stages=tuple(kept), training=kept)


def _scored(chain: Mapping[str, Any], names: tuple[str, ...]) -> dict[tuple[str, Arm], tuple[str, list[Run]]]:
    """Return the checkpoints of a chain of stages, by the learner that scored them and the stages before them.

    Each has what it is called, and its evaluation for each training.
    """
    found = {}
    for (after, learner), own in rows_of(chain, runs.list_runs).items():
        arm = names[: names.index(after) + 1] if after in names else ()
        name = "+".join(LETTERS[stage] for stage in arm) or after.replace("nothing", "none")
        found[learner, arm] = (name, own)
    return found


def _sides(found: Mapping[tuple[str, Arm], tuple[str, list[Run]]]) -> dict[tuple[str, Arm], Side]:
    """Return the checkpoints of learners that scored several, those of fewer stages first."""
    learners = [learner for learner, _ in found]
    several = [key for key in found if learners.count(key[0]) > 1]
    sides = {}
    for key in sorted(several, key=lambda key: (learners.index(key[0]), len(key[1]))):
        name, own = found[key]
        sides[key] = Side.of(name, {str(index): run for index, run in enumerate(own)})
    return sides


def _pairs(sides: Mapping[tuple[str, Arm], Side]) -> Iterator[Pair]:
    """Yield the pairs of checkpoints, scored by the same learner, that differ in one stage."""
    for (learner, arm), side in sides.items():
        for stage in arm:
            if other := sides.get((learner, tuple(name for name in arm if name != stage))):
                yield Pair(side, other, {"stage": stage, "learner": learner})


def _sentence(one: Mapping[str, Any]) -> str:
    """Return in words what a stage is worth."""
    under = "" if one["normalisation"] == "none" else f", {one['normalisation']}"
    what = f"({one['second']} -> {one['first']}, scored by {one['learner']}{under})"
    if one["verdict"] == "no change":
        return f"{one['stage']} changes no score in {one['over']['episodes']} episodes {what}."
    verb = "may help or not" if one["verdict"] == "not clear" else one["verdict"]
    return f"{one['stage']} {verb} {what}: {amount(one, better=one['gain'] >= 0)}"

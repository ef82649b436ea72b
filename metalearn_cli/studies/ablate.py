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
from metalearn_cli.studies.sides import Side, rows_of

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
    sides = _sides(whole, config.stages)
    if len(config.stages) > 2:
        shorter = _without(config, config.stages[1])
        sides = {**_sides(stages.run("run", shorter, reporter), shorter.stages), **sides}
    record = compared([side for _, side in _in_order(sides)], list(_pairs(sides)))
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


def _sides(chain: Mapping[str, Any], names: tuple[str, ...]) -> dict[tuple[str, Arm], Side]:
    """Return the checkpoints of a chain of stages, by the learner that scored them and the stages before them."""
    sides: dict[tuple[str, Arm], Side] = {}
    for (after, learner), found in rows_of(chain, runs.list_runs).items():
        arm = names[: names.index(after) + 1] if after in names else ()
        name = "+".join(LETTERS[stage] for stage in arm) or after.replace("nothing", "none")
        sides[learner, arm] = Side.of(name, {str(index): run for index, run in enumerate(found)})
    return sides


def _in_order(sides: Mapping[tuple[str, Arm], Side]) -> list[tuple[tuple[str, Arm], Side]]:
    """Return sides, those of a learner together, the ones of fewer stages first."""
    learners = list(dict.fromkeys(learner for learner, _ in sides))
    return sorted(sides.items(), key=lambda item: (learners.index(item[0][0]), len(item[0][1])))


def _pairs(sides: Mapping[tuple[str, Arm], Side]) -> Iterator[Pair]:
    """Yield the pairs of checkpoints, scored by the same learner, that differ in one stage."""
    for (learner, arm), side in _in_order(sides):
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

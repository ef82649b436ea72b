"""What an evaluation is of: a network, which a checkpoint may have trained, data, and the learner that is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metalearn_cli.core.build import Spec, problems_of
from metalearn_cli.core.config import EvaluateConfig
from metalearn_cli.core.errors import ConfigError, Problem, UserError, gathered, raise_all
from metalearn_cli.core.types import Dataset
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records.checkpoint import Checkpoint
from metalearn_cli.records.trackers import check_installed
from metalearn_cli.stages.preparing import check_folds, describe_data, enough_memory, named_checkpoint
from metalearn_cli.stages.session import Session

FLOORS = {
    False: {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"},
    True: {"_target_": "metalearn_cli.algorithms.from_scratch.FromScratch"},
}
"""The learner for checkpoints without one, by whether the data is a regression."""


class Inputs(NamedTuple):
    """What an evaluation is of: a network, which a checkpoint may have trained, and data.

    Attributes:
        runtime: device and number format.
        parent: the checkpoint; None for an untrained network.
        backbone: the settings of the network.
        data: the data.
        data_spec: its settings.
    """

    runtime: Runtime
    parent: Checkpoint | None
    backbone: Spec
    data: Dataset
    data_spec: Spec

    @property
    def model(self) -> Mapping[str, Any]:
        """What the checkpoint records on its network and learner; {} without one."""
        return self.parent.manifest["model"] if self.parent else {}


def open_inputs(config: EvaluateConfig, session: Session) -> Inputs:
    """Open the checkpoint and the data.

    Raises:
        ConfigError: if they cannot be used, or not with these settings.
        UserError: likewise.
    """
    errors: list[UserError] = []
    parent = None
    with gathered(errors):
        check_installed(config.tracker)
    with gathered(errors):
        parent = named_checkpoint("evaluate", "ckpt", config, session)
    with gathered(errors), enough_memory("evaluate", config):
        runtime = session.runtime(config.runtime)
        if config.data is not None:
            session.data(config.data, runtime)
    raise_all(errors)
    _check(config, parent)
    model, recorded = (parent.manifest["model"], parent.manifest["data"]) if parent else ({}, {})
    backbone: Any = model.get("backbone") or config.backbone
    data_spec: Any = config.data or recorded.get("spec")
    needed = {"backbone": backbone, "data": data_spec}
    if absent := [key for key, spec in needed.items() if spec is None]:
        raise ConfigError([Problem(key, f"ckpt=null needs one; choose it with {key}=NAME") for key in absent])
    with enough_memory("evaluate", config):
        data = session.data(data_spec, runtime)
    if parent:
        check_folds("ckpt", parent, describe_data(data, data_spec))
    return Inputs(runtime, parent, backbone, data, data_spec)


def _check(config: EvaluateConfig, parent: Checkpoint | None) -> None:
    """Check that settings fit the checkpoint, and that its components may be built.

    Raises:
        ConfigError: with all problems.
    """
    if parent:
        model, recorded = parent.manifest["model"], parent.manifest["data"]
        specs = {"backbone": model.get("backbone"), "algorithm": model.get("algorithm"), "data": recorded.get("spec")}
        wrong = [p for key, spec in specs.items() if spec is not None for p in problems_of(spec, key)]
        if wrong:
            manifest = parent.folder / "manifest.json"
            raise ConfigError([Problem("ckpt", f"{manifest}: {p.key} {p.message}") for p in wrong])
        if config.backbone is not None:
            raise ConfigError([Problem("backbone", "is only for ckpt=null: a checkpoint has its own")])
    if not config.normalisation:
        raise ConfigError([Problem("normalisation", "must name at least one of transductive, inductive")])


class Choice(NamedTuple):
    """The learner to score.

    Attributes:
        spec: its settings.
        trained: whether it is the checkpoint's, but for its settings.
        notes: lines that say what is not as its file or the checkpoint has it.
    """

    spec: dict[str, Any]
    trained: bool
    notes: Sequence[str] = ()


def chosen_learner(chosen: Spec | None, inputs: Inputs, given: Mapping[str, Any] | None) -> Choice:
    """Return the learner to score: the chosen one, or the checkpoint's, or one that needs no training.

    Args:
        chosen: the learner that the user chose, with the settings of its file and those given.
        inputs: of the evaluation.
        given: see `prepare_evaluation`.

    Raises:
        ConfigError: if settings are given that the learner does not have, or of no learner.
    """
    trained: Any = inputs.model.get("algorithm")
    if trained is None and chosen is None and given:
        message = "there is no learner to set it of: the checkpoint has none; choose one with algorithm=NAME"
        raise ConfigError([Problem(f"algorithm.{key}", message) for key in given])
    spec = dict(chosen or trained or FLOORS[inputs.data.facts.regression])
    same = trained is not None and spec.get("_target_") == trained.get("_target_")
    if given is None or not same:
        return Choice(spec, same)
    spec = {**trained, **given}
    if problems := problems_of(spec, "algorithm"):
        raise ConfigError(problems)
    notes = [
        f"algorithm.{key}: {value!r}, not {trained.get(key)!r} as in the checkpoint"
        for key, value in given.items()
        if value != trained.get(key)
    ]
    for key, value in (chosen or {}).items():
        if value != spec.get(key, value):
            notes.append(
                f"algorithm.{key}: {spec[key]!r} as in the checkpoint; for {value!r} type algorithm.{key}={value}"
            )
    return Choice(spec, True, notes)

"""Objects that one command builds once and shares: data sets, runtimes, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from metalearn_cli.core.build import Spec, build
from metalearn_cli.core.config import Runtime as RuntimeConfig
from metalearn_cli.core.config import digest, plain
from metalearn_cli.core.errors import DataError
from metalearn_cli.core.types import Dataset
from metalearn_cli.data.common.folds import fold_named
from metalearn_cli.engine.ranks import Crew
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records.checkpoint import Checkpoint, open_checkpoint

Built = TypeVar("Built")


class Session:
    """Data sets, runtimes and opened checkpoints of one command, each stored by its settings.

    Args:
        crew: the other ranks of the command; None if nothing is trained or scored.
    """

    def __init__(self, crew: Crew | None = None) -> None:
        self.crew = crew or Crew()
        self._kept: dict[str, Any] = {}

    def runtime(self, config: RuntimeConfig) -> Runtime:
        """Return the device of some settings, and set this process up to compute with them.

        Raises:
            ConfigError: with every setting that this machine does not support.
        """
        runtime = self._once(["runtime", plain(config)], lambda: Runtime(config))
        runtime.use()
        return runtime

    def data(self, spec: Spec, runtime: Runtime) -> Dataset:
        """Return a data set, or the fold of it that its settings name, on the device.

        Raises:
            ConfigError: if it cannot be dealt into such folds.
            DataError: if it has a problem that blocks training.
        """
        return self._once(
            ["data", dict(spec), str(runtime.device)], lambda: in_fold(_loaded(spec), spec).to(runtime.device)
        )

    def checkpoint(self, folder: Path) -> Checkpoint:
        """Return a checkpoint; its files are hashed when it is first opened.

        Raises:
            UserError: if a file of it is missing or damaged.
        """
        return self._once(["checkpoint", str(folder.resolve())], lambda: open_checkpoint(folder))

    def _once(self, key: Any, make: Callable[[], Built]) -> Built:
        name = digest(key)
        if name not in self._kept:
            self._kept[name] = make()
        return cast(Built, self._kept[name])


def in_fold(data: Dataset, spec: Spec) -> Dataset:
    """Return the fold of a data set that its settings name, or itself.

    Raises:
        ConfigError: if there is no such fold.
    """
    return data.fold(*fold_named(spec["fold"])) if spec.get("fold") else data


def _loaded(spec: Spec) -> Dataset:
    data: Dataset = build(spec, "data")
    if blocking := [finding for finding in data.findings if finding.blocks]:
        raise DataError(blocking)
    return data

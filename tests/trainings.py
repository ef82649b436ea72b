"""Trainings of one step on small data of each kind, for what is done with their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Said, drawing, smallest
from sources import audio, images, table, text

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse

SOURCES = {"images": images, "audio": audio, "text": text, "table": table}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 4, "pool": "stride"}
GRAY = {"channels": 1, "size": 16}
BACKBONES: dict[str, dict[str, Any]] = {
    "images": CONV4,
    "audio": CONV4,
    "text": {"_target_": "metalearn_cli.backbones.transformer.Transformer", "hidden": 8, "layers": 1},
    "table": {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8},
}


def meta_trained(kind: str, folder: Path, of_data: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Return the checkpoint of a meta-training, see `trained`."""
    return trained("meta-train", kind, folder, of_data, **changes)


def trained(stage: str, kind: str, folder: Path, of_data: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write data of a kind into a folder, train on them, and return the checkpoint.

    Args:
        stage: the command.
        kind: of data.
        folder: where they go, and the folder of runs.
        of_data: changes of the settings of the data.
        changes: of the other settings.
    """
    folder.mkdir(exist_ok=True)
    data = {"_target_": f"metalearn_cli.data.{kind}.{kind}", **SOURCES[kind].write(folder), **(of_data or {})}
    own = {"steps": 1, "val_episodes": 2, "way": 3, "backbone": BACKBONES[kind], "data": data}
    config: Any = parse(STAGES[stage], smallest(stage, folder / "runs", **{**own, **changes}))
    with pytest.MonkeyPatch.context() as patch:
        for name, module in drawing().items():
            patch.setattr(module, name, lambda *args: None)
        run = stages.run(stage, config, Said())
    return Path(run["folder"]) / "checkpoints" / run["best"]

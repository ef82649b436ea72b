"""Small artefacts with an ONNX graph, and new files for them."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sources import audio, images, text
from trainings import GRAY, meta_trained

from metalearn_cli.deploy import changes
from metalearn_cli.deploy.artefact import write_artefact
from metalearn_cli.deploy.bodies import Refused
from metalearn_cli.deploy.calibrating import Calibration
from metalearn_cli.deploy.deployed import Statistics, Support, deployed, named, reader_of

CLASSES = ("crow", "jay", "wren")
CALIBRATION = Calibration(0.5, 1.5, 0.95, 0.4, 3, 3, 10)
ENDINGS = {"images": ".png", "audio": ".wav", "text": ".txt"}


def write(kind: str, path: Path, seed: int) -> Path:
    """Write a file of a kind of data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "images":
        images.picture(seed, "L").save(path)
    elif kind == "audio":
        audio.save(path, seed)
    else:
        path.write_text(text.sentence(seed // 10, seed % 10))
    return path


def exported(kind: str, folder: Path, statistics: Statistics = "support") -> Path:
    """Return an artefact that knows three classes by three examples each, in a folder of its own.

    Args:
        kind: of data: images, audio or text.
        folder: where it goes.
        statistics: see `deploy.trained`.
    """
    return Path(shutil.copytree(_exported(kind, statistics), folder / "birds"))


EXPORTS = tempfile.TemporaryDirectory()
"""The artefacts, and the runs that they are from; removed at the end of the process."""


@cache
def _exported(kind: str, statistics: Statistics) -> Path:
    folder = Path(EXPORTS.name, kind, statistics)
    folder.mkdir(parents=True)
    checkpoint = meta_trained(kind, folder / "trained", GRAY if kind == "images" else None)
    trained = named(str(checkpoint), "runs", statistics)
    files = [write(kind, folder / "examples" / name / f"{i}{ENDINGS[kind]}", 10 * k + i)
             for k, name in enumerate(CLASSES) for i in range(3)]  # fmt: skip
    found = reader_of(trained, {}).queries([str(file) for file in files])
    names = tuple(f"{file.parent.name}/{file.name}" for file in files)
    support = Support(names, tuple(file.parent.name for file in files), found.items, looks=found.looks)
    write_artefact(folder / "birds", deployed(trained, support, CALIBRATION), {"result": None, "lineage": []})
    return folder / "birds"


def changed_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a `server.change` without the seconds that its process takes to start."""

    async def change(folder: Path, *words: str) -> None:
        await asyncio.to_thread(changes.main, [str(folder), *words])
        found = json.loads(capsys.readouterr().out)
        if found["error"]:
            raise Refused(found["status"], found["error"])

    return change

"""Folders of runs as the stages write them, with given scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.records.runs import find_run, finite
from metalearn_cli.stages.scores import Scores, mean_of

CLASSES = [(f"c{e % 9}", f"c{(e + 1 + e // 9) % 9}") for e in range(400)]
STARTED = "2026-01-01T00:00:00+00:00"
DATA = {"name": "gaussian", "protocol": "directions", "fingerprint": "f" * 64}


def write(folder: Path, info: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Write run.json and config.json, and return run.json with its folder."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.json").write_text(json.dumps(config))
    return find_run("nowhere", str(folder))


def training(runs: Path, name: str, seed: int = 0, parent: str | None = None, **config: Any) -> dict[str, Any]:
    """Write a training."""
    info = {"id": name, "stage": "meta-train", "status": "completed", "started_at": STARTED, "data": DATA}
    if parent:
        info |= {"parent": {"run": parent, "stage": "meta-train", "checkpoint": "there", "sha256": "0"}}
    settings = {"seed": seed, "steps": 5, "runs_dir": "runs", "data": {"root": "here"}}
    return write(runs / "meta-train" / name, info, {**settings, **config})


def evaluation(
    runs: Path, name: str, scores: Sequence[float] | dict[str, Sequence[float]], **changes: Any
) -> dict[str, Any]:
    """Write an evaluation with scores, by protocol if there are several; `changes` are those of run.json."""
    protocols = scores if isinstance(scores, dict) else {"none": scores}
    parent, config = changes.pop("parent", None), changes.pop("config", {})
    folder = runs / "evaluate" / name
    episodes = len(next(iter(protocols.values())))
    facts = {"name": "test/accuracy", "learner": "protonet", "way": 2, "shot": 1, "query": 3, **changes.pop("fact", {})}
    found = Scores({key: torch.tensor(own).double() for key, own in protocols.items()}, CLASSES[:episodes])
    means = {key: finite(mean_of(own[None], found.classes)) for key, own in found.protocols.items()}
    info = {
        "id": name,
        "stage": "evaluate",
        "status": "completed",
        "started_at": STARTED,
        "data": DATA,
        "results": [{**facts, "normalisation": key, **own} for key, own in means.items()],
        "episodes_hash": "a" * 64,
        **({"parent": {"run": parent, "stage": "meta-train", "checkpoint": "there", "sha256": "0"}} if parent else {}),
        **changes,
    }
    write(folder, info, {"seed": 0, "weights_seed": None, "episodes": episodes, "select": {}, **config})
    found.write(folder)
    return find_run("nowhere", str(folder))

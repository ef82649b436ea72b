"""A plug-in's pieces as a user has them: installed by pip, listed, trained, interrupted, handed over, evaluated."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.components import built, pieces
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metalearn_cli import stages
from metalearn_cli.core import plugins
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint, read_tensors

pytestmark = pytest.mark.usefixtures("plugged")

RESNET = {"_target_": "pieces.backbones.resnet.Resnet", "hidden": 2}
STROKES = {"_target_": "pieces.data.strokes.strokes", "classes": 12, "items": 10}
IMAGES = {"backbone": RESNET, "data": STROKES}
LEARNERS = {name: a for name, a in built("algorithm").items() if name in pieces("algorithm")}
TRAINED: list[tuple[str, str, dict[str, Any]]] = [
    *(("pretrain", name, {"model": spec, **IMAGES}) for name, spec in pieces("model").items()),
    # those that ask for a teacher or for other data wait for the settings that bring them
    *(
        ("transfer", name, {"method": pieces("method")[name], **IMAGES})
        for name, method in built("method").items()
        if name in pieces("method") and not hasattr(method, "asks")
    ),
    *(
        ("meta-train", name, {"algorithm": pieces("algorithm")[name], **(IMAGES if a.traits.sees == "maps" else {})})
        for name, a in LEARNERS.items()
        if a.traits.learns
    ),
]


@pytest.fixture
def go(config: Callable[..., Any], said: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a stage with the given changes."""
    return lambda stage, **changes: stages.run(stage, config(stage, **changes), said)


def last(folder: str) -> tuple[dict[str, Tensor], list[Any]]:
    """Return the tensors of a run's last checkpoint, and what else is needed to go on."""
    checkpoint = max((Path(folder) / "checkpoints").glob("step-*"))
    return read_tensors(open_checkpoint(checkpoint)), tree_leaves(torch.load(checkpoint / "resume.pt"))


@pytest.mark.parametrize(("stage", "name", "own"), [
    pytest.param(*one, id=f"{one[0]} {one[1]}", marks=[pytest.mark.slow] * (one[0] == "pretrain")) for one in TRAINED
])  # fmt: skip
@pytest.mark.medium
def test_is_trained_interrupted_and_handed_over(
    stage: str, name: str, own: dict[str, Any], go: Any, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(stage, **own)
    assert whole["status"] == "completed"

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(said, "advance", lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None)
        go(stage, **own)
    folder = runs.list_runs(str(tmp_path / "runs"))[0]["folder"]
    torch.manual_seed(7)
    done = stages.resume(folder, said, {})
    assert said.started[-1] == (stage, 2, 5)
    expected, found = last(whole["folder"]), last(done["folder"])
    assert expected[0].keys() == found[0].keys()
    assert [n for n, tensor in expected[0].items() if not torch.equal(tensor, found[0][n])] == []
    assert len(found[1]) == len(expected[1])
    for one, two in zip(found[1], expected[1], strict=True):
        assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    assert done["metric"] == whole["metric"]

    init_from = {"init_from": str(whole["folder"])}
    if stage == "meta-train":
        again = go(stage, **own, **init_from, steps=1)
        scored = go("evaluate", ckpt=str(again["folder"]))
        assert all(0 <= result["value"] <= 1 for result in scored["results"])
    else:
        after = {"pretrain": "transfer", "transfer": "meta-train"}[stage]
        assert go(after, **IMAGES, **init_from, steps=1)["parent"]["run"] == whole["id"]


@pytest.mark.parametrize("name", [name for name, a in LEARNERS.items() if not a.traits.learns])
@pytest.mark.medium
def test_what_learns_nothing_before_is_scored(name: str, go: Any) -> None:
    go("pretrain", **IMAGES, steps=1)
    for batching in ("loop", "threads"):
        scored = go("evaluate", algorithm=pieces("algorithm")[name], ckpt="latest", runtime__task_batching=batching)
        assert 0 <= scored["results"][0]["value"] <= 1


def test_draws_with_a_network_that_has_running_statistics(go: Any) -> None:
    done = go(
        "pretrain", model={"_target_": "metalearn_cli.models.autoencoder.Autoencoder", "hidden": 4}, **IMAGES, steps=1
    )
    assert (Path(done["folder"]) / "plots" / "reconstructions.png").is_file()


@pytest.mark.medium
def test_a_plug_in_is_used_as_what_is_shipped(mlx: Any) -> None:
    code, out, _ = mlx("ls", "algorithm")
    assert code == 0
    listed = out.split()
    assert {"maml", *pieces("algorithm")} <= {*listed}
    small = ["backbone=resnet", "backbone.hidden=2", "data=strokes", "way=2", "query=2", "runtime=cpu"]
    steps = ["steps=2", "tasks=2", "val_episodes=2"]
    code, _, err = mlx("meta-train", "algorithm=ridge", *small, *steps)
    assert code == 0, err
    code, out, err = mlx("evaluate", "ckpt=latest", "way=2", "query=2", "episodes=4", "runtime=cpu", "--json")
    assert code == 0, err
    assert json.loads(out)["results"][0]["learner"] == "ridge"


def test_what_is_not_installed_cannot_be_built(mlx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "packages", cache(lambda: ()))
    code, _, err = mlx("validate", "meta-train", "algorithm._target_=pieces.algorithms.ridge.Ridge")
    assert code == 2
    assert "may not be built from a config" in err

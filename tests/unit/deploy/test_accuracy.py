"""What is exported is as accurate as the evaluation said: the same answers in the same test episodes."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said, smallest
from contract.components import specs
from trainings import GRAY, meta_trained

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, EvaluateConfig, parse
from metalearn_cli.deploy import artefact
from metalearn_cli.deploy.artefact import items_to_try, read_artefact, write_artefact
from metalearn_cli.deploy.deployed import Deployed, Support, deployed, named, predicted
from metalearn_cli.deploy.exporting import graph_of, outputs_of, session_of
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.trained import dataset
from metalearn_cli.stages import evaluation_episodes
from metalearn_cli.stages.scores import Scores

EPISODES = 3
RESNET12 = {"backbone": {"_target_": "metalearn_cli.backbones.resnet12.Resnet12", "hidden": 2, "norm": "batch"}}
CNN1D = {"backbone": {"_target_": "metalearn_cli.backbones.cnn1d.Cnn1d", "hidden": 4}}
LEARNERS = ("protonet", "maml", "r2d2", "feat")
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{
        name: ("images", GRAY, {"algorithm": specs("algorithm")[name]}) for name in ("protonet", "maml", "r2d2", "feat")
    },
    "resnet12": ("images", GRAY, RESNET12),
    "mlp": ("table", {}, {}),
    "text encoder": ("text", {}, {}),
    "speech network": ("audio", {"features": "raw", "rate": 2000}, CNN1D),
}


def evaluated(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint of a case, and its evaluation under the inductive protocol."""
    kind, of_data, changes = CASES[name]
    checkpoint = meta_trained(kind, folder, of_data, shot=2, **changes)
    own = {"ckpt": str(checkpoint), "normalisation": ["inductive"], "episodes": EPISODES, "way": None, "shot": None}
    config: Any = parse(STAGES["evaluate"], smallest("evaluate", folder / "runs", **own))
    return checkpoint, stages.run("evaluate", config, Said())


def learners(checkpoint: Path, run: dict[str, Any]) -> list[tuple[Deployed, Any]]:
    """Return each test episode of an evaluation with the learner that has seen its examples."""
    result, trained = run["results"][0], named(str(checkpoint), "runs", "support")
    values = stages.runs.read_config(Path(run["folder"])) | {key: result[key] for key in ("way", "shot", "query")}
    config = parse(EvaluateConfig, values)
    sampler, found = evaluation_episodes.tested_episodes(config, dataset(run["data"]["spec"])), []
    for step in range(EPISODES):
        one = sampler.batch(step, 1).map(itemgetter(0))
        names = tuple(str(index) for index in range(len(one.support_y)))
        labels = tuple(str(int(y)) for y in one.support_y)
        found.append((deployed(trained, Support(names, labels, one.support_x)), one))
    return found


def score(answers: list[int], episode: Any) -> float:
    return float((torch.tensor(answers) == episode.query_y).float().mean())


@pytest.mark.parametrize(
    "name",
    [
        "protonet",
        "text encoder",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("maml", "mlp", "speech network")),
    ],
)
@pytest.mark.medium
def test_an_artefact_is_as_accurate_as_the_evaluation_of_its_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "graph_of", lambda enrolled, tried: b"a graph")
    checkpoint, run = evaluated(name, tmp_path)
    (wanted,) = Scores.read(Path(run["folder"]), EPISODES).protocols.values()
    found = []
    for step, (learner, one) in enumerate(learners(checkpoint, run)):
        write_artefact(tmp_path / str(step), learner, {"result": None, "lineage": []})
        read, _ = read_artefact(tmp_path / str(step))
        queries = Inputs(tuple(map(str, range(len(one.query_y)))), one.query_x)
        found.append(score([int(answer["class"]) for answer in predicted(read, queries)], one))
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)


@pytest.mark.slow  # the exporter takes seconds for each
@pytest.mark.parametrize("name", CASES)
def test_its_graph_is_as_accurate(name, tmp_path):
    pytest.importorskip("onnxruntime")
    checkpoint, run = evaluated(name, tmp_path)
    (wanted,) = Scores.read(Path(run["folder"]), EPISODES).protocols.values()
    learner, one = learners(checkpoint, run)[0]
    session = session_of(graph_of(learner.enrolled, items_to_try(learner)))
    _, logits = outputs_of(session, one.query_x)
    assert score(logits.argmax(1).tolist(), one) == pytest.approx(wanted[0].item(), abs=1e-6)

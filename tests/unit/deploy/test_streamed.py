"""Learners that get labelled items one by one: what they have learnt at the end, and the scores of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import CONV4, GRAY, meta_trained

from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy.deployed import Deployed, Support, deployed, predicted, with_examples
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.streamed import Head, Means, Parts, learning_of, parts_of, streamed
from metalearn_cli.deploy.trained import of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint

PROTONET = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
R2D2 = {"_target_": "metalearn_cli.algorithms.r2d2.R2d2"}
NAMES = ("ant", "bee", "cow", "dog")


def rows(count: int, seed: int) -> Inputs:
    """Return rows of each class, class by class, in clusters that are far apart."""
    random = torch.Generator().manual_seed(seed)
    labels = tuple(name for name in NAMES for _ in range(count))
    centres = 9 * torch.eye(len(NAMES), 8)
    x = centres.repeat_interleave(count, 0) + torch.randn(len(labels), 8, generator=random)
    return Inputs(tuple(f"row {i}" for i in range(len(labels))), x, labels)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("table", tmp_path_factory.mktemp("table"))


def knowing(checkpoint: Path, classes: int, algorithm: dict[str, Any] = PROTONET) -> Deployed:
    trained = of_checkpoint(open_checkpoint(checkpoint))._replace(algorithm=algorithm)
    if algorithm is R2D2:
        own = {"log_penalty": 0.0, "log_scale": 0.0, "shift": 0.0}
        trained.tensors.update({f"learner.{name}": torch.tensor(value) for name, value in own.items()})
    found = rows(2, 0)
    chosen = [i for i, label in enumerate(found.labels) if label in NAMES[:classes]]
    own_rows = found.of(chosen)
    return deployed(trained, Support(own_rows.names, own_rows.labels, own_rows.items))


def test_running_means_know_what_the_learner_would_learn_from_all_items_at_once(checkpoint):
    learner, stream, queries = knowing(checkpoint, 2), rows(6, 1), rows(9, 2)
    learning = learning_of(learner, None, 0)
    found = streamed(learner, stream, Parts([*range(23, -1, -2)], [*range(0, 24, 2)]), learning)
    whole = with_examples(learner, stream.of([*range(1, 24, 2)]))
    wanted = [answer["class"] for answer in predicted(whole, queries)]
    names = ["ant", "bee", "dog", "cow"]  # in the order in which they came
    z = whole.enrolled.encoder(queries.items)
    assert [names[k] for k in learning.answers(z).tolist()] == wanted
    assert isinstance(learning, Means) and (found["known"], found["new"], found["items"]) == (2, 2, 12)


@pytest.mark.parametrize("algorithm", [PROTONET, R2D2])
def test_scores_of_a_stream_that_comes_class_by_class(checkpoint, algorithm):
    learner, stream = knowing(checkpoint, 2, algorithm), rows(10, 1)
    found = streamed(learner, stream, parts_of(stream.labels, 0.3, False, 0), learning_of(learner, None, 0))
    assert found["items"] == 28 and found["held_out"]["over"] == {"items": 12}
    unknown = [answer["class"] for answer in found["answers"] if answer["right"] is None]
    assert unknown == ["cow", "dog"] and found["prequential"]["over"] == {"items": 26}
    assert found["repeated"]["value"] == pytest.approx(24 / 26)
    right = [answer["right"] for answer in found["answers"] if answer["right"] is not None]
    assert found["prequential"]["value"] == pytest.approx(sum(right) / 26)
    assert found["prequential"]["value"] > 0.7 and found["held_out"]["value"] > 0.5
    ends = [own["end"] for own in found["classes"]]
    assert found["held_out"]["value"] == pytest.approx(sum(ends) / 4)  # three items of each
    assert found["forgetting"]["over"] == {"classes": 4}


class Fickle:
    """It takes all for the class that it learnt last."""

    told = "nothing for long"
    last = 0

    def learn(self, z: torch.Tensor, k: int) -> None:
        self.last = k

    def answers(self, z: torch.Tensor) -> torch.Tensor:
        return torch.full((len(z),), self.last)


def test_a_learner_that_forgets_is_flattered_by_its_stream_and_found_out_at_the_end(checkpoint):
    learner, stream = knowing(checkpoint, 4), rows(10, 1)
    found = streamed(learner, stream, parts_of(stream.labels, 0.2, False, 0), Fickle())
    assert found["prequential"]["value"] == found["repeated"]["value"] + 1 / 32  # it starts with the right class
    assert found["held_out"]["value"] == 0.25 and found["forgetting"]["value"] == 0.75
    assert [own["after"] for own in found["classes"]] == [1] * 4
    assert [own["end"] for own in found["classes"]] == [0, 0, 0, 1]
    found = streamed(learner, stream, parts_of(stream.labels, 0.2, True, 0), Fickle())
    assert found["prequential"]["value"] < 0.5


def test_a_head_remembers_few_items_of_each_class(checkpoint):
    learner = knowing(checkpoint, 2, R2D2)
    head = learning_of(learner, 3, 0)
    assert isinstance(head, Head) and "3 remembered items" in head.told
    for i in range(40):
        head.learn(torch.full((8,), float(i)), 1)
    assert [len(memory) for memory in head._memory] == [2, 3]
    head.learn(torch.ones(8), 2)  # a new class
    assert set(head.answers(torch.randn(9, 8)).tolist()) <= {0, 1, 2}


def test_a_share_of_each_class_is_held_out_and_the_rest_keeps_its_order():
    labels = ["a"] * 10 + ["b"] * 5 + ["c"]
    found = parts_of(labels, 0.4, False, 0)
    assert [labels[i] for i in found.held] == ["a"] * 4 + ["b"] * 2
    assert found.stream == [i for i in range(16) if i not in found.held]
    assert parts_of(labels, 0.4, False, 0) == found != parts_of(labels, 0.4, False, 1)
    shuffled = parts_of(labels, 0.4, True, 0)
    assert shuffled.held == found.held and sorted(shuffled.stream) == found.stream != shuffled.stream
    assert labels[parts_of(labels, 0.99, False, 0).stream[-1]] == "c"  # one of each class is always learnt
    with pytest.raises(UserError, match="1 of 6 items would be held out, and two or more are needed"):
        parts_of(["a"] * 4 + ["b"] * 2, 0.2, False, 0)


@pytest.mark.slow
def test_a_learner_that_adapts_its_network_needs_one_without_batch_statistics(tmp_path: Path):
    maml = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_steps": 1}
    x, labels = torch.rand(4, 1, 16, 16), ("a", "a", "b", "b")

    def learnt(norm: str) -> Deployed:
        backbone = {**CONV4, "norm": norm}
        checkpoint = meta_trained("images", tmp_path / norm, GRAY, algorithm=maml, way=2, backbone=backbone)
        return deployed(of_checkpoint(open_checkpoint(checkpoint)), Support(tuple("1234"), labels, x))

    with pytest.raises(UserError, match="Maml cannot have others: train a learner such as protonet"):
        learning_of(learnt("batch"), None, 0)
    assert isinstance(learning_of(learnt("group"), None, 0), Head)


def test_means_replay_nothing(checkpoint):
    with pytest.raises(UserError, match="ProtoNet keeps the means of its classes and replays no items"):
        learning_of(knowing(checkpoint, 2), 5, 0)

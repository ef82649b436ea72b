"""Against plain formulations: loops, a dense solution, a square root of matrices."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from metalearn_cli.core.random import seeded
from metalearn_cli.stages.quality import frechet_distance, linear_accuracy, neighbours_accuracy

AUTOENCODER = {"_target_": "metalearn_cli.models.autoencoder.Autoencoder", "hidden": 4}
CLASSIFIER = {"_target_": "metalearn_cli.models.classifier.Classifier"}
GAN = {"_target_": "metalearn_cli.models.gan.Gan", "latent": 2, "hidden": 4}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 4}


def features(items: int, dimensions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three overlapping classes."""
    with seeded(0, "centres"):
        centres = torch.randn(3, dimensions)
    with seeded(seed):
        y = torch.randint(3, (items,))
        return centres[y] + torch.randn(items, dimensions), y


def test_neighbours_vote_by_their_similarity() -> None:
    (z, y), (asked, wanted) = features(40, 4, 1), features(30, 4, 2)
    right = 0
    for item, label in zip(asked, wanted, strict=True):
        cosines = [torch.dot(item, other) / item.norm() / other.norm() for other in z]
        votes = [0.0, 0.0, 0.0]
        for cosine, vote in sorted(zip(cosines, y.tolist(), strict=True), reverse=True)[:5]:
            votes[vote] += math.exp(cosine / 0.07)
        right += votes.index(max(votes)) == label
    assert neighbours_accuracy(z, y, asked, wanted) == pytest.approx(right / 30)
    assert 0.4 < right / 30 < 1


@pytest.mark.parametrize("dimensions", [4, 60])  # fewer and more than items
def test_the_probe_is_the_minimum_of_a_penalised_squared_error(dimensions: int) -> None:
    (z, y), (asked, wanted) = features(40, dimensions, 1), features(400, dimensions, 2)
    centred = (z - z.mean(0)).double()
    penalty = 0.1 * centred.square().sum() / dimensions
    # the same as least squares with a row for each penalty, and a bias that has none
    rows = torch.cat(
        [torch.cat([centred, torch.ones(40, 1)], 1), penalty.sqrt() * torch.eye(dimensions, dimensions + 1)]
    )
    targets = torch.cat([torch.nn.functional.one_hot(y, 3).double(), torch.zeros(dimensions, 3)])
    weight = torch.linalg.lstsq(rows, targets).solution
    answers = torch.cat([(asked - z.mean(0)).double(), torch.ones(400, 1)], 1) @ weight
    expected = (answers.argmax(1) == wanted).double().mean().item()
    assert linear_accuracy(z, y, asked, wanted) == pytest.approx(expected)
    assert 0.4 < expected


def test_features_that_say_nothing_are_at_chance_and_infinite_ones_raise_nothing() -> None:
    y = torch.arange(30) % 3
    for z in (torch.zeros(30, 4), torch.full((30, 4), torch.inf)):
        for measure in (neighbours_accuracy, linear_accuracy):
            assert measure(z, y, z, y) == pytest.approx(1 / 3)
    assert math.isnan(frechet_distance(z, z))


@pytest.mark.parametrize("items", [5, 50])  # fewer and more than dimensions
def test_the_distance_is_that_of_two_normal_distributions(items: int) -> None:
    one, two = features(items, 8, 1)[0].double(), 2 * features(items, 8, 2)[0].double()
    first, second = torch.cov(one.T), torch.cov(two.T)
    values = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt()
    expected = (one.mean(0) - two.mean(0)).square().sum() + first.trace() + second.trace() - 2 * values.sum()
    assert frechet_distance(one, two) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "more"), [(AUTOENCODER, {"mse"}), (GAN, {"frechet_ours"}), (CLASSIFIER, set())], ids=["ae", "gan", "none"]
)
def test_it_is_measured_while_pretraining(go, said, model, more) -> None:
    done = go("pretrain", model=model, steps=2, every__evaluate=1)
    names = {
        f"val/{name}" for name in {"accuracy", "accuracy_interval", "neighbours_accuracy", "linear_accuracy"} | more
    }
    lines = [json.loads(line) for line in (Path(done["folder"]) / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val/accuracy" in line]
    assert len(validated) == 2
    for line in validated:
        assert {name for name in line if name.startswith("val/")} == names
    assert names <= {name for _, values in said.measured for name in values}
    assert go("pretrain", model=model, steps=2, every__evaluate=1, runs_dir=done["folder"])["key"] == done["key"]


@pytest.mark.parametrize("model", [AUTOENCODER, GAN], ids=["ae", "gan"])
def test_it_is_that_of_the_tensors_at_that_step(go, said, model) -> None:
    for lr, moved in ((0.0, False), (0.1, True)):
        go("pretrain", model=model, backbone=MLP, steps=2, every__evaluate=1, optimizer__lr=lr)
        first, last = [values for _, values in said.measured if "val/linear_accuracy" in values][-2:]
        assert (first != last) is moved
        for name in ("val/mse", "val/frechet_ours"):
            assert name not in first or (first[name] != last[name]) is moved

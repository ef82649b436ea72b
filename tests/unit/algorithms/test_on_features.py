"""Classifiers of scikit-learn on features against plain formulations, and what they refuse."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from contract import test_algorithms as contract
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from metalearn_cli.algorithms.on_features import OnFeatures
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.random import seeded
from metalearn_cli.stages.learner import check_learner

NET: Any = None  # it sees features alone


@pytest.fixture
def items() -> tuple[Tensor, Tensor, Tensor]:
    """Return support features, their classes and query features."""
    with seeded(0, "on_features"):
        x, queries = torch.randn(9, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    return x, torch.tensor([2, 0, 1, 1, 0, 2, 0, 1, 2]), queries


def answers(learner: OnFeatures, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
    return learner.predict(NET, {}, learner.adapt(NET, {}, x, y, 3), queries)


def test_logistic_regression_minimises_the_penalised_cross_entropy(items: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, queries = items
    weight, bias = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    tensors = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(tensors, max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = cross_entropy(normalize(x, dim=1) @ weight + bias, y, reduction="sum")
        value = 3.0 * fit + weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    expected = (normalize(queries, dim=1) @ weight + bias).log_softmax(1).detach()
    torch.testing.assert_close(answers(OnFeatures(c=3.0), x, y, queries), expected, rtol=0, atol=2e-3)


def test_knn_asks_the_nearest_by_angle(items: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, queries = items
    nearest = (normalize(queries, dim=1) @ normalize(x, dim=1).T).argsort(1, descending=True)
    assert torch.equal(answers(OnFeatures("knn"), x, y, queries).argmax(1), y[nearest[:, 0]])
    shares = answers(OnFeatures("knn", neighbours=3), x, y, queries).exp()
    expected = torch.stack([(y[nearest[:, :3]] == k).double().mean(1) for k in range(3)], dim=1)
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("outputs", [1, 2])
def test_knn_predicts_the_mean_of_numbers(items: tuple[Tensor, Tensor, Tensor], outputs: int) -> None:
    x, _, queries = items
    nearest = (normalize(queries, dim=1) @ normalize(x, dim=1).T).argsort(1, descending=True)[:, :2]
    y = x[:, :outputs]
    torch.testing.assert_close(answers(OnFeatures("knn", neighbours=2), x, y, queries), y[nearest].mean(1))


def test_random_forest_predicts_one_number(items: tuple[Tensor, Tensor, Tensor]) -> None:
    """Scikit-learn would warn of numbers in a column."""
    x, _, queries = items
    assert answers(OnFeatures("random_forest", trees=2), x, x[:, :1], queries).shape == (5, 1)


@pytest.mark.parametrize("target", ["classes", "numbers"])
@pytest.mark.parametrize("classifier", ["knn", "random_forest"])
def test_keeps_the_contract_of_learners(classifier: Any, target: str) -> None:
    case = contract.case_of(OnFeatures(classifier, neighbours=3, trees=5), target)
    contract.test_is_pure(case)
    contract.test_the_state_is_all_that_answers_depend_on(case)
    contract.test_what_learns_nothing_before_does_better_than_chance(case)


def test_logistic_regression_is_refused_for_numbers() -> None:
    (problem,) = check_learner(OnFeatures(), Facts("vector", (6,), "real", 0, outputs=1), "32-true")
    assert problem.message == "OnFeatures classifies, but this data's targets are numbers; use maml"


def test_more_neighbours_than_items_are_refused(items: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ConfigError, match=r"^algorithm\.neighbours: must be at most 9, the items of .*, got 10$"):
        answers(OnFeatures("knn", neighbours=10), *items)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"^algorithm=on_features needs .*; type: pip install 'metalearn-cli\[table\]'"):
        build({"_target_": "metalearn_cli.algorithms.on_features.OnFeatures"}, "algorithm")

"""LaplacianShot against loops over queries, and what it is without the penalty or without neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn_cli.algorithms.laplacian_shot import LaplacianShot
from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.core.random import seeded

NET: Any = None  # it sees features alone
Y = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture
def items() -> tuple[Tensor, Tensor]:
    with seeded(0, "laplacian_shot"):
        return torch.randn(6, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)


def answers(learner: Any, x: Tensor, queries: Tensor) -> Tensor:
    return learner.predict(NET, {}, learner.adapt(NET, {}, x, Y, 3), queries)


def test_equals_a_loop(items: tuple[Tensor, Tensor]) -> None:
    """Equation 12: y = softmax(-a + lambda * the sum of the neighbours' y), from the softmax of -a."""
    x, queries = ([z / z.square().sum().sqrt() for z in part] for part in items)
    means = [sum(z for z, k in zip(x, Y.tolist(), strict=True) if k == way) / 2 for way in range(3)]
    a = [torch.stack([(z - mean).square().sum() for mean in means]) for z in queries]
    others = [sorted((z - other).square().sum().item() for other in queries)[1:] for z in queries]  # [0] is itself
    assigned = [(-cost).softmax(0) for cost in a]
    for _ in range(4):
        near = [
            sum(p for p, other in zip(assigned, queries, strict=True) if 0 < (z - other).square().sum() <= far[1])
            for z, far in zip(queries, others, strict=True)
        ]
        assigned = [(-cost + 0.9 * agreed).softmax(0) for cost, agreed in zip(a, near, strict=True)]
    found = answers(LaplacianShot(smoothness=0.9, neighbours=2, steps=4), *items)
    torch.testing.assert_close(found.softmax(1), torch.stack(assigned))


def test_without_the_penalty_or_another_query_it_is_nearest_centroid(items: tuple[Tensor, Tensor]) -> None:
    x, queries = items
    expected = answers(NearestCentroid(), x, queries)
    torch.testing.assert_close(answers(LaplacianShot(smoothness=0.0), x, queries), expected)
    torch.testing.assert_close(answers(LaplacianShot(), x, queries[:1]), expected[:1])

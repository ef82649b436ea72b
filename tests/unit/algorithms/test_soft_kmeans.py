"""Soft k-means against loops over items and classes, for answers and for gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metalearn_cli.algorithms.soft_kmeans import SoftKmeans
from metalearn_cli.core.random import seeded

NET: Any = None  # it sees features alone


def plain(x: Tensor, y: Tensor, queries: Tensor, steps: int) -> Tensor:
    """Return the logits by equation 3 of the paper, item by item."""
    centres = [x[y == k].mean(0) for k in range(3)]
    for _ in range(steps):
        total, weight = [x[y == k].sum(0) for k in range(3)], [float((y == k).sum()) for k in range(3)]
        for query in queries:
            near = torch.stack([(-(query - centre).square().sum()).exp() for centre in centres])
            for k, share in enumerate(near / near.sum()):
                total[k], weight[k] = total[k] + share * query, weight[k] + share
        centres = [t / w for t, w in zip(total, weight, strict=True)]
    return torch.stack([torch.stack([-(query - centre).square().sum() for centre in centres]) for query in queries])


def test_equals_a_loop() -> None:
    with seeded(0, "soft_kmeans"):
        x, queries = torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    y, labels = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0, 1, 2, 1, 0])
    tensors = [x.requires_grad_(), queries.requires_grad_()]
    for steps in (1, 3):
        learner = SoftKmeans(steps)
        found = learner.predict(NET, {}, learner.adapt(NET, {}, x, y, 3), queries)
        expected = plain(x, y, queries, steps)
        torch.testing.assert_close(found, expected)
        ours, theirs = (torch.autograd.grad(cross_entropy(o, labels), tensors) for o in (found, expected))
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two)

"""What each part of an item adds to a score of it, and whether that shows what the network has learnt.

Legend: N items, M parts, ... the shape of one item.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.random import seeded
from metalearn_cli.deploy.enrolled import AT_ONCE, Enrolled
from metalearn_cli.deploy.folding import folded, statistics_of

Score = Callable[[Tensor], Tensor]
"""From items [N, ...] to a number of each [N]."""

STEPS, MOST = 50, 400
"""Points between background and item at which gradients are taken: as a rule, and where these are too few."""

CLOSE = 0.01
"""The error of the sum of gradients with which points are enough, as a share of what it should be."""

NETWORKS = 5
"""Networks with shuffled weights that an explanation is compared with."""


def gradients(score: Score, x: Tensor, background: Tensor, most: int = MOST) -> Tensor:
    """Return the integrated gradients [...] of an item; their sum is the difference of the scores of the two.

    Args:
        score: what is explained.
        x: the item [...].
        background: an item [...] that shows nothing.
        most: `STEPS` points are doubled up to so many, until the sum is within `CLOSE` of the difference.

    Raises:
        UserError: if the score has no gradient.

    Source: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 3, by the midpoint rule.
    """
    with torch.no_grad():
        of_item, of_background = score(torch.stack([x, background]))
    wanted, steps = of_item - of_background, STEPS
    while True:
        found = (x - background) * _slope(score, x, background, steps)
        steps *= 2
        if steps > most or (found.sum() - wanted).abs() <= CLOSE * wanted.abs():
            return found


def occlusion(score: Score, x: Tensor, background: Tensor, parts: Tensor) -> Tensor:
    """Return by how much the score [M] is lower when a part of an item is replaced by the background.

    Args:
        score: what is explained.
        x: the item [...].
        background: an item [...] that shows nothing.
        parts: which of its numbers belong to each part [M, ...].
    """
    with torch.no_grad():
        hidden = torch.cat([score(torch.where(some, background, x)) for some in parts.split(AT_ONCE)])
        return score(x[None]) - hidden


def alike(one: Tensor, two: Tensor) -> float | None:
    """Return the rank correlation of two attributions [M]; None where one has fewer than three parts or is constant."""
    if len(one) < 3 or one.unique().numel() == 1 or two.unique().numel() == 1:
        return None
    return float(torch.corrcoef(torch.stack([_ranks(one), _ranks(two)]))[0, 1])


def shuffled(enrolled: Enrolled, x: Tensor, seed: int) -> Enrolled:
    """Return a learner whose network has the weights of each tensor in random order: it has learnt nothing.

    Args:
        enrolled: the learner.
        x: items [N, ...] that give the batch statistics of the network.
        seed: of the order.
    """
    encoder = copy.deepcopy(enrolled.encoder)
    with torch.no_grad(), seeded(seed, "shuffled"):
        for tensor in encoder.parameters():
            tensor.copy_(in_random_order(tensor))
    statistics = statistics_of(encoder, x) if enrolled.learner.net.batch_statistics else {}
    return enrolled._replace(encoder=folded(encoder, statistics))


def in_random_order(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor in an order that torch's generator draws."""
    return tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor)


def _slope(score: Score, x: Tensor, background: Tensor, steps: int) -> Tensor:
    """Return the mean gradient [...] of a score at so many points between background and item."""
    shares = ((torch.arange(steps) + 0.5) / steps).to(x.dtype).view(-1, *[1] * x.ndim)
    total = torch.zeros_like(x)
    for some in shares.split(STEPS):
        path = (background + some * (x - background)).requires_grad_()
        with torch.enable_grad():
            scores = score(path)
            if not scores.requires_grad:
                raise UserError("this learner has no gradients; type method=occlusion")
            (slopes,) = torch.autograd.grad(scores.sum(), path)
        total += slopes.sum(0)
    return total / steps


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value; equal ones have the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[place]

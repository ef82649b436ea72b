"""The quality of features, and of what a model makes, on items of the validation classes.

Items are embedded in random batches, so that a backbone with batch statistics sees all classes in each.

Legend: N items that are learnt from, M items to classify, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.items import Items, joined, size
from metalearn_cli.core.learning import one_hot
from metalearn_cli.core.metric import FRECHET_OURS, LINEAR_ACCURACY, NEIGHBOURS_ACCURACY
from metalearn_cli.core.network import Network
from metalearn_cli.core.types import Dataset, Part
from metalearn_cli.engine.runtime import Runtime

AT_ONCE = 128  # items per batch
PARTS: tuple[tuple[Part, int], ...] = (("fit", 8), ("held_out", 4))
"""Parts of each class with the number of batches: to learn from, and to classify."""
COMPARED = 4  # batches
NEIGHBOURS = 5
TEMPERATURE = 0.07  # of the neighbours' votes, as in Wu et al. 2018
RIDGE = 0.1  # penalty of the linear probe, relative to the mean variance of a feature


def of_features(net: Network, data: Dataset, seed: int, runtime: Runtime) -> dict[str, float]:
    """Return how well features tell the validation classes apart; each class has items to learn from and others.

    Args:
        net: the backbone with its tensors.
        data: the data set.
        seed: of the items that are drawn.
        runtime: device and number format.
    """
    drawn = [
        [(net.features(net.params, x).float(), y) for x, y in _batches(data, part, count, seed, runtime)]
        for part, count in PARTS
    ]
    known, asked = ([torch.cat(column) for column in zip(*batches, strict=True)] for batches in drawn)
    measures = {NEIGHBOURS_ACCURACY.name: neighbours_accuracy, LINEAR_ACCURACY.name: linear_accuracy}
    return {f"val/{name}": measure(*known, *asked) for name, measure in measures.items()}


def of_model(model: Any, frozen: Network | None, data: Dataset, seed: int, runtime: Runtime) -> dict[str, float]:
    """Return the measures of a model, and the distance of what it makes from items, as far as it has any.

    Args:
        model: see `core.types.Model`; with the tensors to measure, in eval mode.
        frozen: a network that is the same for all models, whose features are compared; None if the model makes nothing.
        data: the data set.
        seed: of the items that are drawn.
        runtime: device and number format.
    """
    found: dict[str, list[Tensor]] = {}
    pairs = []
    for x, _ in _batches(data, "all", COMPARED, seed, runtime):
        for name, value in model.measures(x).items() if hasattr(model, "measures") else ():
            found.setdefault(f"val/{name}", []).append(value)
        if frozen:
            both = joined([x, model.generate(x)])
            pairs.append(frozen.features(frozen.params, both, reference=size(x)).float().split(size(x)))
    means = {name: torch.stack(values).double().mean().item() for name, values in found.items()}
    if not pairs:
        return means
    real, made = (torch.cat(batches) for batches in zip(*pairs, strict=True))
    return means | {f"val/{FRECHET_OURS.name}": frechet_distance(real, made)}


def _batches(data: Dataset, part: Part, count: int, seed: int, runtime: Runtime) -> Iterator[tuple[Items, Tensor]]:
    for step in range(count):
        yield runtime.cast(data.batch("val", part, AT_ONCE, seed, step))


def neighbours_accuracy(z_ND: Tensor, y_N: Tensor, z_MD: Tensor, y_M: Tensor) -> float:
    """Return the share of items that their nearest neighbours classify, by cosine similarity.

    Each of the neighbours votes with the exponential of its similarity: Wu et al. 2018,
    https://arxiv.org/abs/1805.01978, section 3.4.
    """
    similarity_MN = torch.nn.functional.normalize(z_MD, dim=1) @ torch.nn.functional.normalize(z_ND, dim=1).T
    nearest = similarity_MN.topk(min(NEIGHBOURS, len(y_N)))
    votes = one_hot(y_N, _classes(y_N, y_M), z_ND)[nearest.indices] * (nearest.values / TEMPERATURE).exp()[..., None]
    return (votes.sum(1).argmax(1) == y_M).double().mean().item()


def linear_accuracy(z_ND: Tensor, y_N: Tensor, z_MD: Tensor, y_M: Tensor) -> float:
    """Return the share of items that a linear classifier, ridge regression on the classes, gets right."""
    mean, target_NK = z_ND.mean(0).double(), one_hot(y_N, _classes(y_N, y_M), z_ND).double()
    z_ND, z_MD, bias_K = z_ND - mean, z_MD - mean, target_NK.mean(0)
    penalty = (RIDGE * z_ND.square().sum() / z_ND.shape[1]).clamp(min=torch.finfo(z_ND.dtype).tiny)
    if z_ND.shape[1] <= len(z_ND):
        weight_DK = _solved(z_ND.T @ z_ND, penalty, z_ND.T @ target_NK)
    else:
        weight_DK = z_ND.T @ _solved(z_ND @ z_ND.T, penalty, target_NK)
    return ((z_MD @ weight_DK + bias_K).argmax(1) == y_M).double().mean().item()


def frechet_distance(one_ND: Tensor, two_ND: Tensor) -> float:
    """Return the squared Frechet distance of two normal distributions with the means and covariances of features.

    Dowson & Landau 1982: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the singular
    values of R1 R2^T, where R^T R is a covariance.
    """
    if not (one_ND.isfinite().all() and two_ND.isfinite().all()):
        return math.nan
    (mean_1, root_1), (mean_2, root_2) = _moments(one_ND.double()), _moments(two_ND.double())
    shared = torch.linalg.matrix_norm(root_1 @ root_2.T, "nuc")
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum() - 2 * shared
    return max(distance.item(), 0.0)  # rounding


def _moments(z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D] of features, and a root R [min(N, D), D] of their covariance R^T R."""
    mean = z_ND.mean(0)
    return mean, torch.linalg.qr((z_ND - mean) / math.sqrt(len(z_ND) - 1), mode="r").R


def _solved(matrix: Tensor, penalty: Tensor, right: Tensor) -> Tensor:
    """Return (matrix + penalty)^-1 right; NaN instead of an error if features are not finite."""
    ridge = penalty * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_ex(matrix + ridge, right).result


def _classes(*labels: Tensor) -> int:
    return 1 + int(max(y.max() for y in labels))

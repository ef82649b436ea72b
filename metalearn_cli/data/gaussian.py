"""Toy data: standard normal vectors, labelled by a random linear rule.

Legend: N items, K classes, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch

from metalearn_cli.core.check import Range
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split


def gaussian(
    items: Annotated[int, Range(12)] = 1000,
    features: Annotated[int, Range(1)] = 100,
    classes: Annotated[int, Range(6)] = 20,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Standard normal vectors in classes of equal size: toy data without a download.

    Each class has a random direction. In turn, each class picks from the remaining vectors the one that lies furthest
    in its direction. So labels follow from the vectors, all classes have the same size, and there is something to
    learn; but classes overlap and share nothing, so accuracy on unseen classes stays modest.

    Args:
        items: number of vectors N, a multiple of `classes`.
        features: length D of a vector, >= 1.
        classes: number of classes K, >= 6, so that each split has 2 or more; half train, a quarter each val and test.
        seed: seed of the vectors and the rule, >= 0.

    Raises:
        ValueError: if items is not a multiple of classes, or less than twice as many.
    """
    if items < 2 * classes or items % classes:
        raise ValueError(f"items must be a multiple of classes ({classes}) and >= {2 * classes}, got {items}")
    generator = torch.Generator().manual_seed(derive_seed(seed, "gaussian"))
    x_ND = torch.randn(items, features, generator=generator)
    score_KN = torch.randn(classes, features, generator=generator) @ x_ND.T
    picked: list[list[int]] = [[] for _ in range(classes)]
    for turn in range(items):
        k = turn % classes
        best = int(score_KN[k].argmax())
        picked[k].append(best)
        score_KN[:, best] = -torch.inf

    splits, start = {}, 0
    for name, end in zip(SPLITS, (classes // 2, classes - classes // 4, classes), strict=True):
        ks = range(start, end)
        splits[name] = Split(
            # sorted: early picks fit the rule best, and parts of a class are cut by position
            items=x_ND[[i for k in ks for i in sorted(picked[k])]],
            counts=torch.full((len(ks),), items // classes),
            names=tuple(f"direction{k:03d}" for k in ks),
        )
        start = end
    return Dataset.of("gaussian", "directions", splits, "vector")

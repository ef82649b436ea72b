"""A map of the classes that a learner has learnt: where the network puts their examples and other items.

Legend: N items, D features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.learning import principal
from metalearn_cli.deploy.deployed import Deployed, predicted
from metalearn_cli.deploy.enrolled import embedded
from metalearn_cli.deploy.inputs import Inputs

Method = Literal["pca", "tsne"]
"""How the embeddings come to two dimensions: principal components, or t-SNE (van der Maaten & Hinton 2008)."""

FEWEST = 4  # items of a map


def mapped(learner: Deployed, queries: Inputs | None, method: Method) -> dict[str, Any]:
    """Return where examples and other items lie, in two dimensions.

    Args:
        learner: the learner with its examples.
        queries: the other items; None for the examples alone.
        method: see `Method`.

    Returns:
        the `method`; the share of the `variance` in each dimension, None of t-SNE, whose dimensions have none; and for
        each of the `points` its `item`, its `class` (the answer, for another item), whether it is `new`, no example,
        and its places `x` and `y`.

    Raises:
        UserError: if there are too few items, or scikit-learn is not installed.
    """
    support, enrolled = learner.support, learner.enrolled
    items, classes, z = [*support.names], [*support.labels], enrolled.embedded.flatten(1)
    if queries:
        items += queries.names
        classes += [answer["class"] for answer in predicted(learner, queries)]
        z = torch.cat([z, embedded(enrolled.learner, enrolled.encoder, queries.items).flatten(1)])
    if len(z) < FEWEST:
        raise UserError(f"a map needs {FEWEST} items or more, and there are {len(z)}: give more examples or files")
    places, variance = principal(z.double()) if method == "pca" else (_tsne(z), None)
    points = [
        {"item": item, "class": name, "new": number >= len(support.names), "x": x, "y": y}
        for number, (item, name, (x, y)) in enumerate(zip(items, classes, places.tolist(), strict=True))
    ]
    return {"method": method, "variance": variance if variance is None else variance.tolist(), "points": points}


def _tsne(z: Tensor) -> Tensor:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(f"method=tsne needs scikit-learn ({error}): pip install 'metalearn-cli[table]'") from error
    neighbours = min(30.0, (len(z) - 1) / 3)
    return torch.from_numpy(TSNE(perplexity=neighbours, init="pca", random_state=0).fit_transform(z.numpy()))

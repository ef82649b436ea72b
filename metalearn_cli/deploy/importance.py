"""What each column of a table is worth to a learner: how far accuracy falls on episodes without it.

Source: Breiman 2001, "Random Forests", section 10, with episodes in place of a test set.

Legend: E episodes, M columns, S support items, Q query items, D numbers of an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import joined, size
from metalearn_cli.core.learning import score
from metalearn_cli.core.network import BACKBONE
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.tables import places_of
from metalearn_cli.deploy.attributions import NETWORKS, alike, in_random_order
from metalearn_cli.deploy.calibrating import QUERY
from metalearn_cli.deploy.trained import Trained, data_of, learner_of
from metalearn_cli.engine.episodes import Learner, answered
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.intervals import over_episodes

WAY = 5  # at most, of a learner without validation episodes


def importance(trained: Trained, episodes: int) -> dict[str, Any]:
    """Return by how much the accuracy on validation episodes is lower when a column is permuted.

    A column is permuted among all items of an episode, the examples too: it then says nothing of their classes, to
    learn from or to answer by, but has the same values as before. Episodes have the way and shot of the validation in
    training.

    Args:
        trained: the learner.
        episodes: how many, >= 2.

    Returns:
        `accuracy` and the half-width of its `interval`; the `episodes`, `way` and `shot`; for each of the `columns`,
        its `column`, and the `fall` of accuracy and its `interval` over episodes, the largest fall first; and `sanity`,
        the mean rank correlation of the falls with those of networks with shuffled weights, None of fewer than three.

    Raises:
        UserError: if the items are no rows of a table, or its data are gone or have no such validation episodes.
    """
    if trained.facts.kind != "vector" or "columns" not in trained.preprocessing:
        raise UserError("method=permutation is for tables; type method=gradients or method=occlusion, and files")
    checkpoint = open_checkpoint(Path(trained.source["checkpoint"]))
    data = data_of(checkpoint)
    if "val" not in data.splits:
        raise UserError(f"{data.name} has no validation classes")
    classes, fewest = len(data.splits["val"].names), int(data.splits["val"].counts.min())
    sizes = checkpoint.manifest["model"].get("val_episode") or {"way": trained.way or min(WAY, classes), "shot": 1}
    way, shot = sizes["way"], sizes["shot"]
    query = min(QUERY, fewest - shot)
    sampler = data.episodes("val", way=way, shot=shot, query=query, seed=0)
    drawn = [sampler.batch(step, 1).map(itemgetter(0)) for step in range(episodes)]
    places = places_of(trained.preprocessing["columns"])
    whole, falls = _falls(learner_of(trained, way)[0], drawn, places)
    untaught = [learner_of(_shuffled(trained, seed), way)[0] for seed in range(NETWORKS)]
    others = [_falls(learner, drawn, places)[1].mean(1) for learner in untaught]
    correlations = [r for other in others if (r := alike(falls.mean(1), other)) is not None]
    columns = [
        {"column": name, "fall": float(own.mean()), "interval": over_episodes(own)}
        for name, own in zip(places, falls, strict=True)
    ]
    return {
        "accuracy": float(whole.mean()),
        "interval": over_episodes(whole),
        **{"episodes": episodes, "way": way, "shot": shot},
        "columns": sorted(columns, key=lambda one: -one["fall"]),
        "sanity": fmean(correlations) if correlations else None,
    }


def _falls(learner: Learner, drawn: list[Episode], places: Mapping[str, slice]) -> tuple[Tensor, Tensor]:
    """Return the accuracies on episodes [E], and by how much each is lower without each column [M, E]."""
    whole = torch.stack([_accuracy(learner, one) for one in drawn])
    without = [
        [_accuracy(learner, _permuted(one, place, number)) for number, one in enumerate(drawn)]
        for place in places.values()
    ]
    return whole, whole - torch.tensor(without)


def _accuracy(learner: Learner, one: Episode) -> Tensor:
    with torch.no_grad():
        return score(answered(learner, one.support_x, one.support_y, one.query_x), one.query_y)


def _permuted(one: Episode, place: slice, number: int) -> Episode:
    """Return an episode with some numbers of its items permuted, in an order drawn for its number."""
    x = cast(Tensor, joined([one.support_x, one.query_x]))
    with seeded(number, "permuted", place.start):
        x[:, place] = x[torch.randperm(len(x)), place]
    first = size(one.support_x)
    return one._replace(support_x=x[:first], query_x=x[first:])


def _shuffled(trained: Trained, seed: int) -> Trained:
    """Return a learner whose network has the weights of each tensor in random order: it has learnt nothing."""
    with seeded(seed, "shuffled"):
        tensors = {n: in_random_order(t) if n.startswith(BACKBONE) else t for n, t in trained.tensors.items()}
    return trained._replace(tensors=tensors)

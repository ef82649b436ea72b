"""Scoring a learner on fixed episodes.

Legend: E episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_cli.core.learning import score
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Episode, Sampler
from metalearn_cli.engine.episodes import Learner, answered
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.tasks import Tasks


def of_its_way(learner: Learner, episode: Episode) -> Learner:
    """Return a learner for as many classes as an episode has."""
    return learner._replace(way=int(episode.support_y.max()) + 1)


def score_episodes(
    learner: Learner,
    sampler: Sampler,
    episodes: int,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the score [E] of each of the sampler's first `episodes` one-task batches, on the CPU.

    Scores are accuracies in [0, 1], or squared errors for regression. `advance` is called with the number of finished
    ones. Episodes of varying size cannot be one batch.
    """
    varying = hasattr(sampler, "varying")

    def task(tensors: Params, episode: Episode) -> Tensor:
        own = learner.of(tensors)
        own = of_its_way(own, episode) if varying else own
        output = answered(own, episode.support_x, episode.support_y, episode.query_x)
        return score(output, episode.query_y)

    scores = []
    tasks = Tasks(runtime, episodes, learner.algorithm.traits.batchable and not varying)
    for scored in tasks.each(task, learner.tensors, lambda index: runtime.cast(sampler.batch(index, 1)), episodes):
        scores.append(scored)
        advance(len(scores))
    return torch.stack(scores).cpu()

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


def score_episodes(
    learner: Learner,
    sampler: Sampler,
    episodes: int,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the score [E] of each of the sampler's first `episodes` one-task batches, on the CPU.

    Scores are accuracies in [0, 1], or squared errors for regression. `advance` is called with the number of finished
    ones.
    """

    def task(tensors: Params, episode: Episode) -> Tensor:
        output = answered(learner.of(tensors), episode.support_x, episode.support_y, episode.query_x)
        return score(output, episode.query_y)

    scores = []
    tasks = Tasks(runtime, episodes, learner.algorithm.traits.batchable)
    for scored in tasks.each(task, learner.tensors, lambda index: runtime.cast(sampler.batch(index, 1)), episodes):
        scores.append(scored)
        advance(len(scores))
    return torch.stack(scores).cpu()

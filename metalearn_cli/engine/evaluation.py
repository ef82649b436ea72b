"""Scoring a learner on fixed episodes, under a named protocol of normalisation.

Legend: E episodes, S support items, ... the shape of one item.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_cli.core.config import Normalisation
from metalearn_cli.core.learning import score
from metalearn_cli.core.types import Algorithm, Apply, Episode, Params, Sampler
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.tasks import Tasks


def under_protocol(apply: Apply, episode: Episode, normalisation: Normalisation) -> Apply:
    """Return `apply` as an episode sees it under a protocol.

    transductive: batch statistics come from whatever batch is at hand, so an answer depends on the other queries.
    inductive: they come from the support set alone, so every query is answered as if it were the only one.
    """
    if normalisation == "transductive":
        return apply
    support_x = episode.support_x
    reference = len(support_x)

    def inductive(params: Params, x: Tensor) -> Tensor:
        return apply(params, torch.cat([support_x, x]), reference=reference)[reference:]

    return inductive


def score_episodes(
    algorithm: Algorithm,
    apply: Apply,
    params: Params,
    sampler: Sampler,
    episodes: int,
    normalisation: Normalisation,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return the score [E] of each of the sampler's first `episodes` one-task batches, on the CPU.

    Scores are accuracies in [0, 1], or squared errors for regression. `advance` is told how many are done.
    """

    def task(params: Params, episode: Episode) -> Tensor:
        output = algorithm(under_protocol(apply, episode, normalisation), params, episode, way=sampler.way)
        return score(output.logits, episode.query_y)

    scores = []
    tasks = Tasks(runtime, episodes)
    for scored in tasks.each(task, params, lambda index: runtime.cast(sampler.batch(index, 1)), episodes):
        scores.append(scored)
        advance(len(scores))
    return torch.stack(scores).cpu()

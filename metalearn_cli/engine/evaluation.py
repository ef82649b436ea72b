"""Scoring a learner on fixed episodes.

Legend: E episodes, Q queries of an episode, W ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.learning import class_scores, score
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Episode, Sampler
from metalearn_cli.engine.episodes import Learner, answered
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.tasks import Tasks


class Outcomes(NamedTuple):
    """What a learner did in episodes, on the CPU.

    Attributes:
        scores: [E], accuracies in [0, 1], or squared errors for a regression.
        queries: [E], of all classes of an episode, which have equally many.
        by_class: the score of each class [W], by episode; of a regression, that of its task [1].
        logits: [Q, W] by episode; () unless they were asked for.
        targets: the classes [Q] of the queries, by episode; () likewise.
    """

    scores: Tensor
    queries: Tensor
    by_class: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


def of_its_way(learner: Learner, episode: Episode) -> Learner:
    """Return a learner for as many classes as an episode has."""
    return learner._replace(way=int(episode.support_y.max()) + 1)


def score_episodes(
    learner: Learner,
    sampler: Sampler,
    episodes: int,
    runtime: Runtime,
    advance: Callable[[int], None] = lambda done: None,
    logits: bool = False,
) -> Outcomes:
    """Score each of the sampler's first `episodes` one-task batches.

    Episodes of varying size cannot be one batch. Each rank scores its share, and all get what all have found.

    Args:
        learner: the learner with its tensors.
        sampler: the episodes.
        episodes: how many.
        runtime: the device and its settings.
        advance: called with the number of finished ones.
        logits: whether to keep the learner's answers, which take the more memory the more classes there are.
    """
    varying = hasattr(sampler, "varying")

    def task(tensors: Params, episode: Episode) -> dict[str, Tensor]:
        own, target = learner.of(tensors), episode.query_y
        output = answered(of_its_way(own, episode) if varying else own, *episode[:3])
        found = {"scores": score(output, target), "by_class": class_scores(output, target)}
        found["queries"] = torch.tensor(len(target))
        return found | ({"logits": output, "targets": target} if logits else {})

    outcomes: list[dict[str, Tensor]] = []
    own = runtime.ranks.own(episodes)
    tasks = Tasks(runtime, len(own), learner.algorithm.traits.batchable and not varying)
    for outcome in tasks.each(task, learner.tensors, lambda i: runtime.cast(sampler.batch(own[i], 1)), len(own)):
        outcomes.append(outcome)
        advance(min(len(outcomes) * runtime.ranks.world, episodes))
    outcomes = runtime.ranks.gathered(outcomes)
    scores, queries = (torch.stack([outcome.pop(name) for outcome in outcomes]).cpu() for name in ("scores", "queries"))
    kept = {name: tuple(outcome[name].cpu() for outcome in outcomes) for name in outcomes[0]}
    return Outcomes(scores, queries, **{name: kept.get(name, ()) for name in ("by_class", "logits", "targets")})

"""Prototypical networks: Snell, Swersky & Zemel 2017, https://arxiv.org/abs/1703.05175.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

import torch

from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.types import Apply, Episode, EpisodeOutput, Params


class ProtoNet:
    """Classify a query by its squared distance to each class's mean embedding (equations 1 and 2).

    Support and query items are embedded in one pass, as in the authors' code, so where the network uses batch
    statistics they share them.
    """

    needs_head = False
    learns = True
    handles_regression = False
    inner_gradients = False

    def init(self, params: Params) -> Params:
        """Return the parameters: the embedding is all there is to learn."""
        return params

    def __call__(self, apply: Apply, params: Params, episode: Episode, *, way: int) -> EpisodeOutput:
        """Return the query loss [] and logits [Q, W]: minus the squared distances."""
        sizes = [len(episode.support_x), len(episode.query_x)]
        z_SD, z_QD = apply(params, torch.cat([episode.support_x, episode.query_x])).split(sizes)
        member_SW = (episode.support_y[:, None] == torch.arange(way, device=z_SD.device)).to(z_SD.dtype)
        prototype_WD = member_SW.T @ z_SD / member_SW.sum(0)[:, None]
        logits_QW = -(z_QD[:, None, :] - prototype_WD).square().sum(-1)  # not cdist: it has no second derivative
        return EpisodeOutput(task_loss(logits_QW, episode.query_y), logits_QW)

"""Nearest centroid on frozen features: the floor that shows what a representation is worth before meta-training.

Source: Wang, Chao, Weinberger & van der Maaten 2019 (SimpleShot), https://arxiv.org/abs/1911.04623, variant L2N.

Legend: S support items, Q query items, W ways.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.types import Apply, Episode, EpisodeOutput, Params


class NearestCentroid:
    """Classify a query by the nearest class mean of features scaled to length 1; nothing is meta-trained."""

    needs_head = False
    learns = False
    handles_regression = False
    inner_gradients = False

    def init(self, params: Params) -> Params:
        """Return the parameters: nothing is added."""
        return params

    def __call__(self, apply: Apply, params: Params, episode: Episode, *, way: int) -> EpisodeOutput:
        """Return the query loss [] and logits [Q, W]: minus the squared distances."""

        def unit_length(params: Params, x: Tensor) -> Tensor:
            return normalize(apply(params, x), dim=-1)

        with torch.no_grad():
            return ProtoNet()(unit_length, params, episode, way=way)

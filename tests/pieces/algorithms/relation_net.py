"""Relation network: Sung et al. 2018, https://arxiv.org/abs/1711.06025.

Legend: S support items, Q query items, W ways, C channels, H height, W' width of feature maps.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import class_means, one_hot
from metalearn_cli.core.network import Network, Params, pure
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class RelationNet:
    """Learn how alike a query and a class are, from their feature maps side by side (equation 1).

    Args:
        hidden: width of the module that compares, >= 1.
    """

    traits = Traits(sees="maps")

    def __init__(self, hidden: Annotated[int, Range(1)] = 32) -> None:
        self.hidden = hidden

    def init(self, net: Network, way: int) -> Params:
        """Return the tensors of the module that compares."""
        assert net.maps_shape is not None
        module = nn.Sequential(
            nn.Conv2d(2 * net.maps_shape[0], self.hidden, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.hidden, 1),
        )
        self._compare, own = pure(module)
        return own

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the classes' mean maps [W, C, H, W'] of maps x [S, C, H, W'] (the paper sums instead)."""
        return {"maps": class_means(x, y, way)[0]}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of maps x [Q, C, H, W']; their sigmoid is the paper's relation score."""
        ways = state["maps"]
        pairs = torch.cat([ways.expand(len(x), *ways.shape), x[:, None].expand(len(x), len(ways), *x.shape[1:])], dim=2)
        scores: Tensor = self._compare(own, pairs.flatten(0, 1))
        return scores.view(len(x), len(ways))

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the squared error of the relation scores (equation 2), and the logits."""
        state = self.adapt(net, own, episode.support_x, episode.support_y, way)
        logits = self.predict(net, own, state, episode.query_x)
        return EpisodeOutput(mse_loss(logits.sigmoid(), one_hot(episode.query_y, way, logits)), logits)

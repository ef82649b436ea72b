"""Relation networks: Sung et al. 2018, https://arxiv.org/abs/1711.06025, equations 1 and 2.

The feature maps of a query and of a class are laid on top of each other, and a small convolutional network says how
much they are related. So the comparison is learnt as well as the embedding, and no distance has to be chosen.

Legend: S support items, Q query items, W ways, C channels, H height, W' width of feature maps.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import class_means, one_hot
from metalearn_cli.core.network import Network, Params, pure
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class RelationNet:
    """Classify a query by a learnt comparison of its feature maps with each class's.

    The module that compares has the paper's two convolutions and two linear layers. It normalises each pair by itself
    and not over the batch, so that no answer depends on other queries; and it averages over places instead of pooling,
    so that maps may have any size.

    Args:
        hidden: channels of the convolutions, >= 1.
    """

    traits = Traits(sees="maps")

    def __init__(self, hidden: Annotated[int, Range(1)] = 64) -> None:
        self.hidden = hidden

    def init(self, net: Network, way: int) -> Params:
        """Return the tensors of the module that compares."""
        assert net.maps_shape is not None
        module = nn.Sequential(
            *_block(2 * net.maps_shape[0], self.hidden),
            *_block(self.hidden, self.hidden),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.hidden, 8),
            nn.ReLU(),
            nn.Linear(8, 1),
        )
        self._compare, own = pure(module)
        return own

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the classes' mean maps [W, C, H, W'] of maps x [S, C, H, W'].

        The paper sums them, which is the same up to a factor while each class has as many items.
        """
        return {"maps": class_means(x, y, way)[0]}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of maps x [Q, C, H, W']; their sigmoid is the paper's relation score."""
        ways = state["maps"]
        count = x.shape[0]  # not len(x), which fixes the number of items of an exported graph
        pairs = torch.cat([ways.expand(count, *ways.shape), x[:, None].expand(count, len(ways), *x.shape[1:])], dim=2)
        scores: Tensor = self._compare(own, pairs.flatten(0, 1))
        return scores.view(count, len(ways))

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the squared error of the relation scores, and the logits."""
        support_x, query_x = cast(Tensor, episode.support_x), cast(Tensor, episode.query_x)
        logits = self.predict(net, own, self.adapt(net, own, support_x, episode.support_y, way), query_x)
        return EpisodeOutput(mse_loss(logits.sigmoid(), one_hot(episode.query_y, way, logits)), logits)


def _block(channels: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, hidden, 3, padding=1), nn.GroupNorm(1, hidden), nn.ReLU()

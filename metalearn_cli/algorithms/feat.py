"""FEAT: Ye, Hu, Zhan & Sha 2020, https://arxiv.org/abs/1812.03664.

The prototypes of a task attend to each other in a transformer, so that each is adapted to the classes it must be told
from; a query belongs to the nearest adapted prototype. In training, all items of a class are also adapted together, and
every item must be nearest to its own class's mean.

The paper's dropout within the transformer is left out.

Legend: S support items, Q query items, N items of a set, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import class_means, square_distances, task_loss
from metalearn_cli.core.network import Network, Params, pure
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class Feat:
    """Prototypes that a set transformer adapts to each other.

    Args:
        temperature: what squared distances are divided by, > 0.
        balance: weight of the regulariser in the loss, >= 0.
    """

    traits = Traits(sees="features")

    def __init__(
        self, temperature: Annotated[float, Above(0)] = 8.0, balance: Annotated[float, Range(0)] = 0.1
    ) -> None:
        self.temperature = temperature
        self.balance = balance

    def init(self, net: Network, way: int) -> Params:
        """Return the transformer's tensors."""
        self._transform, own = pure(_SetTransformer(net.out_dim))
        return own

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the adapted prototypes [W, D] of features x [S, D] with classes y [S]."""
        everyone = torch.ones(way, way, dtype=torch.bool, device=x.device)
        return {"prototypes": self._transform(own, class_means(x, y, way)[0], everyone)}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: minus the squared distances, divided by the temperature."""
        return -square_distances(x, state["prototypes"]) / self.temperature

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the loss with the regulariser, and the logits [Q, W]."""
        support_x, query_x = cast(Tensor, episode.support_x), cast(Tensor, episode.query_x)
        logits = self.predict(net, own, self.adapt(net, own, support_x, episode.support_y, way), query_x)
        x, y = torch.cat([support_x, query_x]), torch.cat([episode.support_y, episode.query_y])
        adapted = self._transform(own, x, y[:, None] == y)  # the items of each class are a set
        centres = {"prototypes": class_means(adapted, y, way)[0]}
        contrast = cross_entropy(self.predict(net, own, centres, x), y)
        return EpisodeOutput(task_loss(logits, episode.query_y) + self.balance * contrast, logits)


class _SetTransformer(nn.Module):
    """Self-attention with one head, a residual and layer normalisation; it treats the members of a set alike."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.out = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, z: Tensor, together: Tensor) -> Tensor:
        """Return z [N, D] adapted; an item attends to those that `together` [N, N] says it is in a set with."""
        alike_NN = self.query(z) @ self.key(z).T / z.shape[1] ** 0.5
        attention_NN = torch.where(together, alike_NN, -torch.inf).softmax(-1)
        adapted: Tensor = self.norm(z + self.out(attention_NN @ self.value(z)))
        return adapted

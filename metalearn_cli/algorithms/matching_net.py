"""Matching networks: Vinyals et al. 2016, https://arxiv.org/abs/1606.04080, equation 1.

A query attends to every support item by a softmax over cosine similarities, and the probability of a class is the
attention that its items get. Only the embedding is learnt, through this vote of neighbours, which is differentiable.

The full context embeddings (section 2.1.2) are left out: they read the support items one by one, so that answers
depend on their order.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above
from metalearn_cli.core.learning import cosines, one_hot
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class MatchingNet:
    """Classify a query by attention over the support items.

    Args:
        scale: factor of the cosines before the softmax, > 0; 1 in the paper.
    """

    traits = Traits(sees="features")

    def __init__(self, scale: Annotated[float, Above(0)] = 10.0) -> None:
        self.scale = scale

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors: only the embedding is learnt."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the features [S, D] of the support items, and the class of each one-hot [S, W]."""
        return {"x": x, "member": one_hot(y, way, x)}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: the logarithm of each class's attention, up to a constant."""
        similar_QS1 = self.scale * cosines(x, state["x"])[:, :, None]
        return torch.where(state["member"] > 0, similar_QS1, -torch.inf).logsumexp(1)

"""Baseline++: Chen, Liu, Kira, Wang & Huang 2019, https://arxiv.org/abs/1904.04232, section 3.2.

The backbone is frozen, and on the features of the support set a new classifier is trained whose weight vectors are
compared with a feature by their cosine. It measures a representation as nearest_centroid does, with a classifier that
is learnt instead of averaged.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class BaselinePp:
    """Train a cosine classifier on the support set's frozen features, without meta-training.

    Args:
        lr: step size, > 0.
        steps: gradient steps per episode, >= 1.
        scale: what cosines are multiplied by to give logits, > 0.
    """

    traits = Traits(sees="features", learns=False, inner_gradients=True)

    def __init__(
        self,
        lr: Annotated[float, Above(0)] = 0.2,
        steps: Annotated[int, Range(1)] = 50,
        scale: Annotated[float, Above(0)] = 10.0,
    ) -> None:
        self.lr = lr
        self.steps = steps
        self.scale = scale

    def init(self, net: Network, way: int) -> Params:
        """Return the random weight vectors [W, D] that training starts from, of length about 1."""
        return {"weight": torch.randn(way, net.out_dim) / net.out_dim**0.5}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the weight vectors [W, D] after training on features x [S, D] with classes y [S]."""

        def loss(tensors: Params) -> Tensor:
            return task_loss(self.predict(net, own, tensors, x), y)

        return descend(loss, own, self.lr, self.steps, first_order=True)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]: the scaled cosines."""
        return self.scale * normalize(x, dim=-1) @ normalize(state["weight"], dim=-1).T

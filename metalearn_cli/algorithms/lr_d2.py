"""LR-D2: Bertinetto, Henriques, Torr & Vedaldi 2019, https://arxiv.org/abs/1805.08136, section 3.3.

A logistic regression of the features is fitted to each task by a few of Newton's steps, which are differentiable. The
embedding and the penalty are learnt such that the fitted classifier answers the queries.

The paper's classifier has two classes; here each class has one, which tells it from all others.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import one_hot, solved
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class LrD2:
    """Fit a logistic regression for each class by Newton's method (iteratively reweighted least squares).

    Args:
        steps: Newton's steps per episode, >= 1.
        penalty: the penalty (lambda) that training starts from, > 0.
    """

    traits = Traits(sees="features")

    def __init__(self, steps: Annotated[int, Range(1)] = 5, penalty: Annotated[float, Above(0)] = 1.0) -> None:
        self.steps = steps
        self.penalty = penalty

    def init(self, net: Network, way: int) -> Params:
        """Return the logarithms of the penalty and of the scale of answers."""
        return {"log_penalty": torch.tensor(self.penalty).log(), "log_scale": torch.zeros(())}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the weights [D, W] of the classifiers, fitted to features x [S, D] with classes y [S].

        They are sums of the support items' features, w = x.T a, and Newton's steps are those of a [S, W].
        """
        target_WS, penalty = one_hot(y, way, x).T, own["log_penalty"].exp()
        gram_SS = x @ x.T
        identity_SS = torch.eye(len(x), dtype=x.dtype, device=x.device)
        a_WS = torch.zeros_like(target_WS)
        for _ in range(self.steps):
            logit_WS = a_WS @ gram_SS
            p_WS = logit_WS.sigmoid()
            slope_WS = p_WS * (1 - p_WS)
            # the paper's step, multiplied by the slopes: they may be 0 where a classifier is sure
            system_WSS = slope_WS[:, :, None] * gram_SS + penalty * identity_SS
            a_WS = solved(system_WSS, (slope_WS * logit_WS + target_WS - p_WS)[:, :, None])[:, :, 0]
        return {"weight": x.T @ a_WS.T}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W] of features x [Q, D]."""
        return own["log_scale"].exp() * (x @ state["weight"])

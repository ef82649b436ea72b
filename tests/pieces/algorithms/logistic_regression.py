"""Logistic regression on frozen features: Tian et al. 2020, https://arxiv.org/abs/2003.11539, by scikit-learn.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from sklearn.linear_model import LogisticRegression as Estimator
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.core.check import Above
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class LogisticRegression:
    """A linear classifier fitted to the support set's features, scaled to length 1; nothing is meta-trained.

    Args:
        c: inverse strength of the penalty, > 0.
    """

    traits = Traits(sees="features", learns=False, batchable=False)

    def __init__(self, c: Annotated[float, Above(0)] = 10.0) -> None:
        self.c = c

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the features x [S, D] and their classes y [S]; an estimator is no tensor, so it is fitted later."""
        return {"x": normalize(x, dim=-1), "y": y}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the log-probabilities [Q, W] of features x [Q, D]."""
        support_x, support_y, query_x = (
            t.detach().cpu().numpy() for t in (state["x"], state["y"], normalize(x, dim=-1))
        )
        fitted = Estimator(C=self.c, max_iter=1000).fit(support_x, support_y)
        return torch.as_tensor(fitted.predict_log_proba(query_x)).to(x)

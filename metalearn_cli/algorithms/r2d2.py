"""R2-D2: Bertinetto, Henriques, Torr & Vedaldi 2019, https://arxiv.org/abs/1805.08136, equations 4 to 6.

A ridge regression from features to targets is solved in closed form for each task, and the gradient of the query loss
flows through the solution. So the embedding is learnt to be the one on which this small linear learner does best,
together with the penalty, and the scale and shift of its answers.

Legend: S support items, Q query items, W ways or outputs of a regression, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above
from metalearn_cli.core.learning import one_hot, solved
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class R2d2:
    """Fit the support targets, one-hot for classes, by ridge regression.

    Scale and shift turn the fit of classes into logits; numbers are predicted as they are.

    Args:
        penalty: the penalty (lambda) that training starts from, > 0.
    """

    traits = Traits(sees="features", targets=frozenset({"classes", "numbers"}))

    def __init__(self, penalty: Annotated[float, Above(0)] = 1.0) -> None:
        self.penalty = penalty

    def init(self, net: Network, way: int) -> Params:
        """Return the logarithms of the penalty and of the scale (alpha) of answers, and their shift (beta)."""
        log_penalty = torch.tensor(self.penalty).log()
        return {"log_penalty": log_penalty, "log_scale": torch.zeros(()), "shift": torch.zeros(())}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the weights [D, W] that fit features x [S, D] to targets y, and for numbers what `spread` needs."""
        target_SW, penalty = one_hot(y, way, x), own["log_penalty"].exp()
        items, size = x.shape
        if items < size:  # Woodbury's identity: S equations instead of D
            weight_DW = x.T @ solved(x @ x.T + penalty * _identity(items, x), target_SW)
        else:
            weight_DW = solved(x.T @ x + penalty * _identity(size, x), x.T @ target_SW)
        if not y.is_floating_point():
            return {"weight": own["log_scale"].exp() * weight_DW, "bias": own["shift"]}
        # as in Bayesian linear regression: weights are normal, with the variance of the noise divided by the penalty
        covariance_DD = solved(x.T @ x + penalty * _identity(size, x), _identity(size, x))
        used = (x @ covariance_DD * x).sum()  # degrees of freedom that the fit takes from the items
        noise_W = (target_SW - x @ weight_DW).square().sum(0) / (items - used)
        return {"weight": weight_DW, "bias": torch.zeros_like(penalty), "covariance": covariance_DD, "noise": noise_W}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits, or numbers, [Q, W] of features x [Q, D]."""
        return x @ state["weight"] + state["bias"]

    def spread(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the standard deviations [Q, W] of the numbers of features x [Q, D], by noise and weights."""
        share_Q1 = 1 + (x @ state["covariance"] * x).sum(1, keepdim=True)
        return (share_Q1 * state["noise"]).sqrt()


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)

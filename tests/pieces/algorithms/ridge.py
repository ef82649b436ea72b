"""Ridge regression in closed form, the learner within R2-D2 (Bertinetto et al. 2019), as a plug-in writes it.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metalearn_cli.core.learning import one_hot
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class Ridge:
    """Ridge regression from features to targets in closed form (equation 4), with a learnt penalty and scale."""

    traits = Traits(sees="features", targets=frozenset({"classes", "numbers"}))

    def init(self, net: Network, way: int) -> Params:
        """Return the logarithms of the penalty (lambda) and of the scale (alpha) of answers, and their shift (beta)."""
        return {name: torch.zeros(()) for name in ("log_penalty", "log_scale", "shift")}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the weights [D, W] or [D, O] that fit features x [S, D] to targets y [S] or [S, O]."""
        penalty = own["log_penalty"].exp() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return {"weight": x.T @ torch.linalg.solve(x @ x.T + penalty, one_hot(y, way, x))}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W], or numbers [Q, O], of features x [Q, D] (equation 6)."""
        return own["log_scale"].exp() * (x @ state["weight"]) + own["shift"]

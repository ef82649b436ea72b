"""CAVIA: Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson 2019, https://arxiv.org/abs/1810.03642, Algorithm 1.

A new task changes only a few context parameters, which start at zero and are an additional input of the network; all
other weights are shared by all tasks. Meta-training learns weights that a few gradient steps on the context can steer.

The context enters a hidden layer between the backbone's features and the outputs, so that any backbone will do: each
unit is scaled and shifted by a learnt linear function of the context before its ReLU (FiLM, which the paper uses in
convolutional networks; a shift alone is the paper's additional input of a layer). So features are computed once per
episode. The layer of outputs is the learner's own, because the context has no gradient while the outputs are zero.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features, H hidden units, K context
parameters.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class Cavia:
    """Adapt context parameters alone, which modulate a hidden layer.

    Args:
        context: number K of context parameters, >= 1.
        hidden: width H of the layer that they modulate, >= 1.
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode, >= 1.
    """

    traits = Traits(sees="features", targets=frozenset({"classes", "numbers"}), inner_gradients=True)

    def __init__(
        self,
        context: Annotated[int, Range(1)] = 100,
        hidden: Annotated[int, Range(1)] = 64,
        inner_lr: Annotated[float, Above(0)] = 1.0,
        inner_steps: Annotated[int, Range(1)] = 5,
    ) -> None:
        self.context = context
        self.hidden = hidden
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps

    def init(self, net: Network, way: int) -> Params:
        """Return both layers, and the linear functions [H, K] from the context to the scale and shift of each unit."""
        own = {name: torch.randn(self.hidden, self.context) / self.context**0.5 for name in ("scale", "shift")}
        for name, layer in (("hidden", nn.Linear(net.out_dim, self.hidden)), ("outputs", nn.Linear(self.hidden, way))):
            own |= {f"{name}_weight": layer.weight, f"{name}_bias": layer.bias}
        return own

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the context [K] after adaptation to features x [S, D] with targets y [S] or [S, O]."""

        def loss(fast: Params, given: Params) -> Tensor:
            return task_loss(self.predict(net, given, fast, given["x"]), y)

        start = {"context": x.new_zeros(self.context)}
        return descend(loss, start, self.inner_lr, self.inner_steps, given=own | {"x": x})

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits [Q, W], or numbers [Q, O], of features x [Q, D] in the adapted context."""
        context = state["context"]
        units_QH = linear(x, own["hidden_weight"], own["hidden_bias"])
        units_QH = units_QH * (1 + own["scale"] @ context) + own["shift"] @ context
        return linear(relu(units_QH), own["outputs_weight"], own["outputs_bias"])

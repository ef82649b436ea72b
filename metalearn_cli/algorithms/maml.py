"""MAML: Finn, Abbeel & Levine 2017, https://arxiv.org/abs/1703.03400, Algorithm 2.

Meta-training learns initial weights from which a few gradient steps on the support set lead to a good network for a new
task. For this, the outer gradient is taken through these steps; first-order MAML leaves their derivatives out.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class Maml:
    """Adapt every parameter by a few gradient steps on the support set.

    Args:
        inner_lr: step size of the adaptation (alpha in the paper), > 0.
        inner_steps: adaptation steps per episode, >= 1.
        first_order: drop second derivatives (FOMAML, section 5.2): less time and memory.
    """

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.4,
        inner_steps: Annotated[int, Range(1)] = 1,
        first_order: bool = False,
    ) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.traits = Traits(
            head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True, surrogate=first_order
        )

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors: MAML learns only the network's initial values."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        return descend(loss, net.params, self.inner_lr, self.inner_steps, self.first_order)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

"""Training from scratch: the floor for learning across tasks (no paper).

A network with random weights is trained on nothing but the support set of a task, by gradient descent. What learns over
many tasks must do better than this.

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


class FromScratch:
    """Train a network on the support set by gradient descent, without meta-training.

    It is MAML's adaptation without MAML's initialisation: evaluation passes a randomly initialised network.

    Args:
        lr: step size, > 0.
        steps: gradient steps per episode, >= 1.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), learns=False, inner_gradients=True)

    def __init__(self, lr: Annotated[float, Above(0)] = 0.1, steps: Annotated[int, Range(1)] = 20) -> None:
        self.lr = lr
        self.steps = steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after training on items x [S, ...] with targets y [S] or [S, O]."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        return descend(loss, net.params, self.lr, self.steps, first_order=True)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the trained network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

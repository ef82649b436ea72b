"""ANIL: Raghu, Raghu, Bengio & Vinyals 2020, https://arxiv.org/abs/1909.09157.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class Anil:
    """MAML that adapts the last layer alone (section 4), on features that are computed once.

    Args:
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode, >= 1.
    """

    traits = Traits(sees="features", head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True)

    def __init__(self, inner_lr: Annotated[float, Above(0)] = 0.4, inner_steps: Annotated[int, Range(1)] = 5) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the head's tensors after adaptation to features x [S, D] with targets y [S] or [S, O]."""

        def loss(fast: Params, given: Params) -> Tensor:
            return task_loss(net.head(fast, given["x"]), y)

        head = {name: net.params[name] for name in net.head_names}
        return descend(loss, head, self.inner_lr, self.inner_steps, given={"x": x})

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the adapted head's logits [Q, W], or numbers [Q, O], of features x [Q, D]."""
        return net.head(state, x)

"""Proto-MAML: Triantafillou et al. 2019, https://arxiv.org/abs/1903.03096, section 3.

The head of each episode starts as the linear layer that a prototypical network is, made of the class means of the
support set. All weights then adapt by gradient steps as in MAML, and the outer gradient flows through the class means.

Legend: S support items, Q query items, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import linear

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import class_means, descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class ProtoMaml:
    """MAML whose head is initialised by prototypes, for any number of classes.

    Args:
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode, >= 1.
        first_order: drop second derivatives of the steps, as the paper's experiments do; not those of the prototypes.
    """

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.01,
        inner_steps: Annotated[int, Range(1)] = 3,
        first_order: bool = False,
    ) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.traits = Traits(inner_gradients=True, surrogate=first_order)

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors: the head is that of the episode."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors and the head, weight [W, D] and bias [W], after adaptation to items x."""
        means_WD, _ = class_means(net.features(net.params, x), y, way)
        # minus the squared distance to each mean, without the part that is the same for all
        head = {"weight": 2 * means_WD, "bias": -means_WD.square().sum(1)}

        def loss(fast: Params) -> Tensor:
            return task_loss(self.predict(net, own, fast, x), y)

        return descend(loss, net.params | head, self.inner_lr, self.inner_steps, self.first_order)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W]."""
        return linear(net.features(state, x), state["weight"], state["bias"])

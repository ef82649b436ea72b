"""ANIL: Raghu, Raghu, Bengio & Vinyals 2020, https://arxiv.org/abs/1909.09157, section 4.

Meta-training learns features and a head, and a new task changes the head alone, by a few gradient steps on its support
set. BOIL (Oh, Yoo, Kim & Yun 2021, https://arxiv.org/abs/2008.08882) is the reverse: it changes the features and keeps
the head as it was learnt.

Legend: S support items, Q query items, W ways, O outputs of a regression, D features.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits


class Anil:
    """MAML that adapts one part of the network; features that do not adapt are computed once per episode.

    Args:
        adapts: "head" (ANIL) or "body", the backbone (BOIL).
        inner_lr: step size of the adaptation, > 0.
        inner_steps: adaptation steps per episode, >= 1.
    """

    def __init__(
        self,
        adapts: Literal["head", "body"] = "head",
        inner_lr: Annotated[float, Above(0)] = 0.1,
        inner_steps: Annotated[int, Range(1)] = 5,
    ) -> None:
        self.adapts = adapts
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.traits = Traits(
            sees="features" if adapts == "head" else "items",
            head=True,
            targets=frozenset({"classes", "numbers"}),
            inner_gradients=True,
        )

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors.

        Raises:
            ConfigError: if the body is to adapt and nothing of it learns.
        """
        if self.adapts == "body" and net.params.keys() == {*net.head_names}:
            message = "BOIL adapts the backbone, so part of it must learn; type all, or algorithm=anil"
            raise ConfigError([Problem("backbone.train", message)])
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the tensors of the part that adapts, for features x [S, D] or items, with targets y [S] or [S, O]."""
        head = {name: net.params[name] for name in net.head_names}
        body = {name: p for name, p in net.params.items() if name not in head}

        def loss_of_head(fast: Params, given: Params) -> Tensor:
            return task_loss(net.head(fast, given["x"]), y)

        def loss_of_body(fast: Params, given: Params) -> Tensor:
            return task_loss(net.output(given | fast, x), y)

        if self.adapts == "head":
            assert isinstance(x, Tensor)
            return descend(loss_of_head, head, self.inner_lr, self.inner_steps, given={"x": x})
        return descend(loss_of_body, body, self.inner_lr, self.inner_steps, given=head)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        run = net.head if self.adapts == "head" else net.output
        return run(net.params | state, x)

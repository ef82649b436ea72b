"""MAML++: Antoniou, Edwards & Storkey 2019, https://arxiv.org/abs/1810.09502, section 4.

A few gradient steps adapt every weight, as in MAML, by step sizes that are learnt for each tensor and each step. Early
in training the query loss counts after every step and first derivatives are enough; later the last step alone counts,
with second derivatives.

The paper's cosine schedule of the outer learning rate is `scheduler=cosine`, the default. Its batch normalisation with
running statistics for each step is left out: backbones here normalise by the statistics of the current batch.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated

from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import descend, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class MamlPp:
    """MAML with learnt step sizes, the loss of several steps, and annealed derivatives.

    Args:
        inner_lr: step size that training starts from, > 0.
        inner_steps: adaptation steps per episode, >= 1.
        multi_step: fraction of training in which the query loss after every step counts, from 0 to 1; the weights of
            all but the last decrease linearly from equal weights to 0.
        first_order: fraction of training that drops second derivatives, from 0 to 1.
    """

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.1,
        inner_steps: Annotated[int, Range(1)] = 3,
        multi_step: Annotated[float, Range(0, 1)] = 0.1,
        first_order: Annotated[float, Range(0, 1)] = 0.3,
    ) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.multi_step = multi_step
        self.first_order = first_order
        self.traits = Traits(
            head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True, surrogate=first_order > 0
        )
        self._progress = 1.0

    def at(self, progress: float) -> MamlPp:
        """Return the learner at a fraction of training."""
        now = copy.copy(self)
        now._progress = progress
        return now

    def init(self, net: Network, way: int) -> Params:
        """Return the size of each step [inner_steps] for every tensor of the network."""
        return {name: p.new_full((self.inner_steps,), self.inner_lr) for name, p in net.params.items()}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""
        *_, last = self._steps(net, own, x, y)
        return last

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the weighted sum of the query losses after the steps (equation 4), and the last step's logits."""
        early = max(0.0, 1 - self._progress / self.multi_step) / self.inner_steps if self.multi_step else 0.0
        steps = list(self._steps(net, own, episode.support_x, episode.support_y))
        *before, logits = (net.output(fast, episode.query_x) for fast in (steps if early else steps[-1:]))
        loss = (1 - early * len(before)) * task_loss(logits, episode.query_y)
        for outputs in before:
            loss = loss + early * task_loss(outputs, episode.query_y)
        return EpisodeOutput(loss, logits)

    def _steps(self, net: Network, own: Params, x: Items, y: Tensor) -> Iterator[Params]:
        """Yield the network's tensors after each step (equation 3)."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        fast = net.params
        for step in range(self.inner_steps):
            sizes = {name: own[name][step] for name in fast}
            fast = descend(loss, fast, sizes, 1, self._progress < self.first_order)
            yield fast

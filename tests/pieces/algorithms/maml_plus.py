"""MAML++: Antoniou, Edwards & Storkey 2019, https://arxiv.org/abs/1810.09502.

Of its six changes to MAML, two are here: the loss after every step (section 4, "multi-step loss optimization") and step
sizes learnt per tensor and step.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class MamlPlus:
    """MAML that is trained on the query loss after each of its steps, and in the end on the last one alone.

    Args:
        inner_lr: step size that training starts from, > 0.
        inner_steps: adaptation steps per episode, >= 1.
        share: share of training after which only the last step's loss counts, in (0, 1].
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True)

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.1,
        inner_steps: Annotated[int, Range(1)] = 3,
        share: Annotated[float, Above(0), Range(high=1)] = 0.5,
    ) -> None:
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.share = share
        self.early = 0.0  # weight of the loss after each step but the last

    def at(self, progress: float) -> MamlPlus:
        """Return the learner at a share of training: all steps count alike at first, then more and more the last."""
        now = copy.copy(self)
        now.early = max(0.0, 1 - progress / self.share) / self.inner_steps
        return now

    def init(self, net: Network, way: int) -> Params:
        """Return the size of each step [inner_steps] for every tensor of the network."""
        return {name: torch.full((self.inner_steps,), self.inner_lr) for name in net.params}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""
        *_, last = self._steps(net, own, x, y)
        return last

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the weighted sum of the query losses after each step (equation 4), and the last step's logits."""
        steps = list(self._steps(net, own, episode.support_x, episode.support_y))
        *early, logits = (net.output(fast, episode.query_x) for fast in (steps if self.early else steps[-1:]))
        loss = (1 - self.early * len(early)) * task_loss(logits, episode.query_y)
        for before in early:
            loss = loss + self.early * task_loss(before, episode.query_y)
        return EpisodeOutput(loss, logits)

    def _steps(self, net: Network, own: Params, x: Items, y: Tensor) -> Iterator[Params]:
        """Yield the network's tensors after each step."""

        def loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, x), y)

        fast = net.params
        for step in range(self.inner_steps):
            slope = gradient(loss, fast)
            fast = {name: p - own[name][step] * slope[name] for name, p in fast.items()}
            yield fast

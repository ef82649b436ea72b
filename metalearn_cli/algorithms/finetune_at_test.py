"""Fine-tuning at test: Hu, Li, Stuehmer, Kim & Hospedales 2022 (PMF), https://arxiv.org/abs/2204.07305, section 3.3.

For each test episode, the backbone is trained by the loss of prototypical networks, where random views of the support
items stand for the queries. Whether that helps depends on how new the test data is, so that the paper chooses the
learning rate on validation episodes, among values that include 0.

Legend: S support items, Q query items, W ways, L tokens, C channels, H height, W width, ... the shape of one item.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Generator, Tensor

from metalearn_cli.core.check import Below, Range
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Items, each
from metalearn_cli.core.learning import class_means, descend, square_distances, task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import State, Traits
from metalearn_cli.core.views import affine, noisy, thinned


class FinetuneAtTest:
    """Prototypical networks whose backbone is trained on the support set of each episode, without meta-training.

    It is meant for a checkpoint of protonet. A step has one random view, the same for each item, so that the order of
    items does not matter; the views of an episode are those of every other.

    Args:
        lr: step size, >= 0; 0 is protonet.
        steps: gradient steps per episode, >= 1.
        blocks: how many of the last blocks of the backbone learn, >= 1; None means all.
        spread: how far views are from the items, in [0, 1): see `core.views`; the share of tokens, of text.
    """

    # random numbers cannot be drawn within vmap
    traits = Traits(learns=False, inner_gradients=True, batchable=False)

    def __init__(
        self,
        lr: Annotated[float, Range(0)] = 0.0003,
        steps: Annotated[int, Range(1)] = 20,
        blocks: Annotated[int, Range(1)] | None = None,
        spread: Annotated[float, Range(0), Below(1)] = 0.2,
    ) -> None:
        self.lr = lr
        self.steps = steps
        self.blocks = blocks
        self.spread = spread

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors.

        Raises:
            ConfigError: if the backbone is frozen, or has fewer than `blocks` blocks.
        """
        if self.blocks is not None and self.blocks > len(net.blocks):
            told = f"must be at most {len(net.blocks)}, the backbone's number of blocks, got {self.blocks}"
            raise ConfigError([Problem("algorithm.blocks", told)])
        if not self._start(net):
            raise ConfigError([Problem("algorithm", "has nothing to fine-tune: the backbone is frozen; use protonet")])
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the backbone's tensors after training on items x [S, ...] with classes y [S], and the prototypes."""

        def loss(view: Items, fast: Params) -> Tensor:
            means_WD, _ = class_means(net.features(net.params | fast, x), y, way)
            return task_loss(-square_distances(net.features(net.params | fast, view), means_WD), y)

        fast = self._start(net)
        generator = Generator(y.device).manual_seed(0)
        for _ in range(self.steps if self.lr else 0):
            view = each(partial(_view, spread=self.spread, generator=generator), x)
            fast = descend(partial(loss, view), fast, self.lr, steps=1, first_order=True)
        means_WD, count_W = class_means(net.features(net.params | fast, x), y, way)
        return {**fast, "prototypes": means_WD, "counts": count_W}

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the logits [Q, W] of items x [Q, ...]: minus the squared distances."""
        return -square_distances(net.features(net.params | state, x), state["prototypes"])

    def _start(self, net: Network) -> Params:
        """Return the tensors that learn, as they are."""
        learning = net.blocks[-(self.blocks or 0) :]
        return {name: net.params[name] for names in learning for name in names}


def _view(x: Tensor, spread: float, generator: Generator) -> Tensor:
    """Return items x [S, ...], all under the same random view: ids [S, L], images [S, C, H, W] or other numbers."""
    if not x.is_floating_point():
        return x * thinned(torch.ones_like(x[:1]), spread, generator)
    if x.ndim == 4:  # as the channels of one image
        return affine(x.flatten(0, 1)[None], spread, generator)[0].unflatten(0, x.shape[:2])
    return x + noisy(torch.zeros_like(x[:1]), spread, generator)

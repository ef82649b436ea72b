"""Conditional neural process: Garnelo et al. 2018, https://arxiv.org/abs/1807.01613, equations 1 to 4.

A network encodes every support item with its target, the mean of the codes describes the task, and a second network
predicts a query's target from that description. Both are learnt over many tasks, so a new one takes no gradient step,
and numbers come with a standard deviation.

Legend: S support items, Q query items, W ways or outputs of a regression, D features, H hidden.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import class_means, task_loss
from metalearn_cli.core.network import Network, Params, pure
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits

_LEAST = 0.1  # smallest standard deviation, as in the paper's code: the likelihood of a perfect fit is bounded


class Cnp:
    """Predict by a network that sees the mean code of the support set.

    A class is described by the mean code of its own items alone, and the same decoder scores every class, where the
    paper's gets all codes at once: so classes have no order, and there can be any number of them. In the same way each
    output of a regression is a function of its own.

    Args:
        hidden: width of both networks, and size of a code, >= 1.
    """

    traits = Traits(sees="features", targets=frozenset({"classes", "numbers"}))

    def __init__(self, hidden: Annotated[int, Range(1)] = 64) -> None:
        self.hidden = hidden

    def init(self, net: Network, way: int) -> Params:
        """Return the tensors of encoder and decoder."""
        self._run, own = pure(_Process(net.out_dim, self.hidden))
        return own

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        """Return the mean code of each class or output [W, H] of features x [S, D] with targets y [S] or [S, W]."""
        target_SW = y if y.is_floating_point() else torch.ones_like(x[:, :1])
        pairs = torch.cat([x[:, None].expand(-1, target_SW.shape[1], -1), target_SW[:, :, None]], dim=2)
        code_SWH = self._run(own, pairs, "encoder")
        return {"code": code_SWH.mean(0) if y.is_floating_point() else class_means(code_SWH[:, 0], y, way)[0]}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the logits, or means of numbers, [Q, W] of features x [Q, D]."""
        return self._answers(own, state, x)[..., 0]

    def spread(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        """Return the standard deviations [Q, W] of the numbers of features x [Q, D]."""
        return _LEAST + (1 - _LEAST) * softplus(self._answers(own, state, x)[..., 1])

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the cross-entropy, or minus the log-likelihood of numbers; and the logits or means [Q, W]."""
        support_x, x, y = cast(Tensor, episode.support_x), cast(Tensor, episode.query_x), episode.query_y
        state = self.adapt(net, own, support_x, episode.support_y, way)
        answers = self.predict(net, own, state, x)
        if not y.is_floating_point():
            return EpisodeOutput(task_loss(answers, y), answers)
        spread = self.spread(net, own, state, x)
        return EpisodeOutput(-Normal(answers, spread, validate_args=False).log_prob(y).mean(), answers)

    def _answers(self, own: Params, state: State, x: Tensor) -> Tensor:
        """Return mean and raw standard deviation [Q, W, 2]."""
        code = state["code"]
        count = x.shape[0]  # not len(x), which fixes the number of items of an exported graph
        pairs = [x[:, None].expand(-1, len(code), -1), code.expand(count, -1, -1)]
        answers: Tensor = self._run(own, torch.cat(pairs, dim=2), "decoder")
        return answers


class _Process(nn.Module):
    """An encoder of an item with its target, and a decoder of an item with a code, each with one hidden layer."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.decoder = nn.Sequential(nn.Linear(size + hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, x: Tensor, part: str) -> Tensor:
        """Return what one of the two networks makes of x [..., D + 1] or [..., D + H]."""
        result: Tensor = getattr(self, part)(x)
        return result

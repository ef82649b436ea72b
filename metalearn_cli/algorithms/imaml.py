"""iMAML: Rajeswaran, Finn, Kakade & Levine 2019, https://arxiv.org/abs/1909.04630, Algorithms 1 and 2.

Adaptation minimises the support loss plus a penalty on the distance from the initial weights. At a minimum the outer
gradient depends on where adaptation ends and not on its path, so it is the solution of a linear system, found by
conjugate gradient without storing the steps.

Legend: S support items, Q query items, W ways, O outputs of a regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.items import Items
from metalearn_cli.core.learning import descend, task_loss, with_gradient
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits


class Imaml:
    """Adapt every parameter near its initial value, with an implicit outer gradient.

    Args:
        inner_lr: step size of the adaptation, > 0 and below 2 / penalty.
        inner_steps: adaptation steps per episode, >= 1.
        penalty: strength of the penalty (lambda in the paper), > 0.
        cg_steps: steps of conjugate gradient, >= 1.

    Raises:
        ValueError: if steps of size `inner_lr` diverge from the penalty's minimum.
    """

    traits = Traits(head=True, targets=frozenset({"classes", "numbers"}), inner_gradients=True, surrogate=True)

    def __init__(
        self,
        inner_lr: Annotated[float, Above(0)] = 0.2,
        inner_steps: Annotated[int, Range(1)] = 5,
        penalty: Annotated[float, Above(0)] = 0.5,
        cg_steps: Annotated[int, Range(1)] = 5,
    ) -> None:
        if inner_lr * penalty >= 2:
            most = f"2 / penalty ({2 / penalty:.4g})"
            raise ValueError(f"inner_lr must be below {most}, where adaptation diverges, got {inner_lr}")
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.penalty = penalty
        self.cg_steps = cg_steps

    def init(self, net: Network, way: int) -> Params:
        """Return no tensors."""
        return {}

    def adapt(self, net: Network, own: Params, x: Items, y: Tensor, way: int) -> State:
        """Return the network's tensors after adaptation to items x [S, ...] with targets y [S] or [S, O]."""
        start = {name: p.detach() for name, p in net.params.items()}

        def loss(fast: Params) -> Tensor:
            moved = {name: p - start[name] for name, p in fast.items()}
            return task_loss(net.output(fast, x), y) + self.penalty / 2 * _dot(moved, moved)

        return descend(loss, start, self.inner_lr, self.inner_steps, first_order=True)

    def predict(self, net: Network, own: Params, state: State, x: Items) -> Tensor:
        """Return the adapted network's logits [Q, W], or numbers [Q, O]."""
        return net.output(state, x)

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        """Return the query loss, with the implicit gradient (equation 6), and the logits."""
        fast = self.adapt(net, own, episode.support_x, episode.support_y, way)
        logits = net.output(fast, episode.query_x)

        def support_loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, episode.support_x), episode.support_y)

        def query_loss(fast: Params) -> Tensor:
            return task_loss(net.output(fast, episode.query_x), episode.query_y)

        def times(v: Params) -> Params:
            """Return (I + H / penalty) v, where H is the Hessian of the support loss."""
            hv = gradient(lambda at: _dot(gradient(support_loss, at), v), fast, first_order=True)
            return {name: part + hv[name] / self.penalty for name, part in v.items()}

        found = solve(times, gradient(query_loss, fast, first_order=True), self.cg_steps)
        return EpisodeOutput(with_gradient(task_loss(logits, episode.query_y), net.params, found), logits)


def solve(times: Callable[[Params], Params], b: Params, steps: int) -> Params:
    """Return v with `times(v)` near b, by conjugate gradient from 0; `times` is linear and symmetric.

    Where the loss is not convex, a direction may have negative curvature: there is no minimum along it. The search ends
    there, with the v so far, or with b itself if it is the first direction.
    """
    v, r, p = {name: torch.zeros_like(part) for name, part in b.items()}, b, b
    square = _dot(r, r)
    going = square > 0
    for step in range(steps):
        product = times(p)
        curvature = _dot(p, product)
        going = going & (curvature > 0)
        length = torch.where(going, square / curvature, float(step == 0))
        v = {name: part + length * p[name] for name, part in v.items()}
        r = {name: part - length * product[name] for name, part in r.items()}
        before, square = square, _dot(r, r)
        p = {name: part + torch.where(going, square / before, 0.0) * p[name] for name, part in r.items()}
    return v


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()

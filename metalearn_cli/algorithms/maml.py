"""MAML: Finn, Abbeel & Levine 2017, https://arxiv.org/abs/1703.03400, Algorithm 2.

Legend: S support items, Q query items, W ways.
"""

from __future__ import annotations

from torch import Tensor

from metalearn_cli.core.functional import gradient
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.types import Apply, Episode, EpisodeOutput, Params


class Maml:
    """Adapt every parameter by a few gradient steps on the support set, then score the query set.

    Args:
        inner_lr: step size of the adaptation (alpha in the paper), > 0.
        inner_steps: adaptation steps per episode, >= 1.
        first_order: drop second derivatives (FOMAML, section 5.2): less time and memory.

    Raises:
        ValueError: if inner_lr <= 0 or inner_steps < 1.
    """

    needs_head = True
    learns = True
    handles_regression = True
    inner_gradients = True

    def __init__(self, inner_lr: float = 0.4, inner_steps: int = 1, first_order: bool = False) -> None:
        if not inner_lr > 0:
            raise ValueError(f"inner_lr must be > 0, got {inner_lr}")
        if inner_steps < 1:
            raise ValueError(f"inner_steps must be >= 1, got {inner_steps}")
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def init(self, params: Params) -> Params:
        """Return the parameters: MAML learns their initial values and nothing else."""
        return params

    def __call__(self, apply: Apply, params: Params, episode: Episode, *, way: int) -> EpisodeOutput:
        """Return the query loss [] and logits [Q, W] after adaptation."""

        def support_loss(fast: Params) -> Tensor:
            return task_loss(apply(fast, episode.support_x), episode.support_y)

        fast = params
        for _ in range(self.inner_steps):
            gradients = gradient(support_loss, fast, self.first_order)
            fast = {name: p.sub(gradients[name], alpha=self.inner_lr) for name, p in fast.items()}
        logits = apply(fast, episode.query_x)
        return EpisodeOutput(task_loss(logits, episode.query_y), logits)

"""Training on the support set alone, from random weights: the floor that any learning across tasks has to beat.

Legend: Q query items, W ways.
"""

from __future__ import annotations

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.core.types import Apply, Episode, EpisodeOutput, Params


class FromScratch:
    """Train a network on the support set by gradient descent; nothing is meta-trained.

    It is MAML's adaptation without MAML's initialisation: evaluation passes freshly initialised parameters in.

    Args:
        lr: step size, > 0.
        steps: gradient steps per episode, >= 1.

    Raises:
        ValueError: if lr <= 0 or steps < 1.
    """

    needs_head = True
    learns = False
    handles_regression = True
    inner_gradients = True

    def __init__(self, lr: float = 0.1, steps: int = 20) -> None:
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}")
        self._adapt = Maml(lr, steps, first_order=True)

    def init(self, params: Params) -> Params:
        """Return the parameters: nothing is added."""
        return params

    def __call__(self, apply: Apply, params: Params, episode: Episode, *, way: int) -> EpisodeOutput:
        """Return the query loss [] and logits [Q, W] after training on the support set."""
        return self._adapt(apply, params, episode, way=way)

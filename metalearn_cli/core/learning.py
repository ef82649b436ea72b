"""What every learner shares: the loss and the score of a task, by the type of its targets.

Legend: Q items, W classes, O outputs of a regression.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss


def task_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss []: cross-entropy of [Q, W] logits, or squared error of [Q, O] where targets are floats."""
    return mse_loss(output, target) if target.is_floating_point() else cross_entropy(output, target)


def score(output: Tensor, target: Tensor) -> Tensor:
    """Return what is reported []: the share of right answers in [0, 1], or the mean squared error for float targets."""
    if target.is_floating_point():
        return mse_loss(output.detach(), target)
    return (output.detach().argmax(-1) == target).float().mean()

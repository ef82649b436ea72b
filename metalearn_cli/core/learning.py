"""Functions that learners share: losses, class means, distances, linear systems, and gradient descent in an episode.

Legend: S support items, Q query items, W classes, O outputs of a regression, D features, ... any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize

from metalearn_cli.core.functional import Loss, gradient
from metalearn_cli.core.network import Params


def task_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss []: cross-entropy of [Q, W] logits, or squared error of [Q, O] where targets are floats."""
    return mse_loss(output, target) if target.is_floating_point() else cross_entropy(output, target)


def score(output: Tensor, target: Tensor) -> Tensor:
    """Return the reported score []: accuracy in [0, 1], or mean squared error for float targets."""
    if target.is_floating_point():
        return mse_loss(output.detach(), target)
    return (output.detach().argmax(-1) == target).float().mean()


def class_scores(output: Tensor, target: Tensor) -> Tensor:
    """Return the accuracy of each class [W], all with equally many queries; for a regression, the score [1]."""
    if target.is_floating_point():
        return score(output, target)[None]
    right_Q = (output.detach().argmax(-1) == target).float()
    way = output.shape[-1]
    return torch.zeros(way, device=target.device).index_add(0, target, right_Q, alpha=way / len(target))


def one_hot(y: Tensor, way: int, like: Tensor) -> Tensor:
    """Return classes y [S] one-hot as [S, W] in the number format of `like`; numbers [S, O] unchanged."""
    return y if y.is_floating_point() else (y[:, None] == torch.arange(way, device=y.device)).to(like.dtype)


def class_means(z: Tensor, y: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """Return the mean of each class [W, ...] of features z [S, ...] with classes y [S], and the classes' sizes [W]."""
    member_SW = one_hot(y, way, z)
    count_W = member_SW.sum(0)
    means = member_SW.T @ z.flatten(1) / count_W[:, None]
    return means.unflatten(1, z.shape[1:]), count_W


def square_distances(z_QD: Tensor, centre_WD: Tensor) -> Tensor:
    """Return the squared distances [Q, W]; not with `torch.cdist`, which has no second derivative."""
    return (z_QD[:, None, :] - centre_WD).square().sum(-1)


def cosines(z_QD: Tensor, other_ND: Tensor) -> Tensor:
    """Return the cosine similarities [Q, N] of features with other features."""
    return normalize(z_QD, dim=-1) @ normalize(other_ND, dim=-1).T


def principal(z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return features in the two directions in which they vary most [N, 2], and the share of the variance of each [2].

    A direction points to where the largest of its coordinates is positive, so that the result is the same everywhere.
    """
    u, s, _ = torch.linalg.svd(z_ND - z_ND.mean(0), full_matrices=False)
    points = torch.nn.functional.pad(u * s, (0, 2))[:, :2]
    largest = points.gather(0, points.abs().argmax(0)[None])
    share = torch.nn.functional.pad(s.square() / s.square().sum().clamp(min=torch.finfo(s.dtype).tiny), (0, 2))[:2]
    return points * torch.where(largest < 0, -1.0, 1.0), share


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solution [..., S, O] of matrix [..., S, S] @ solution = right; torch solves none in 16 bits."""
    wide = torch.promote_types(right.dtype, torch.float32)
    return torch.linalg.solve(matrix.to(wide), right.to(wide)).to(right.dtype)


def descend(
    loss: Loss, start: Params, lr: float | Params, steps: int, first_order: bool = False, given: Params | None = None
) -> Params:
    """Return tensors after gradient steps.

    Args:
        loss: see `core.functional.gradient`, also for `first_order` and `given`.
        start: the tensors before the first step.
        lr: step size, > 0; or step sizes by the names of the tensors, each a tensor that broadcasts.
        steps: number of steps, >= 0.
        first_order: whether to drop the derivatives of the steps.
        given: other tensors that the loss depends on.
    """
    fast = start
    for _ in range(steps):
        gradients = gradient(loss, fast, first_order, given)
        if isinstance(lr, dict):
            fast = {name: p - lr[name] * gradients[name] for name, p in fast.items()}
        else:
            fast = {name: p.sub(gradients[name], alpha=lr) for name, p in fast.items()}
    return fast


def with_gradient(loss: Tensor, params: Params, gradients: Params) -> Tensor:
    """Return a loss [] of the same value whose gradient by `params` is `gradients`, for a surrogate of its own one."""
    for name, p in params.items():
        loss = loss + ((p - p.detach()) * gradients[name].detach()).sum()
    return loss

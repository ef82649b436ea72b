"""Steps that learners share, against what they stand for, item by item."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from metalearn_cli.core.functional import gradient
from metalearn_cli.core.learning import (
    class_means,
    descend,
    one_hot,
    principal,
    score,
    square_distances,
    task_loss,
    with_gradient,
)

Z = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([2, 0, 2, 1, 2])


def test_task_loss():
    logits = Z[..., 0]
    torch.testing.assert_close(task_loss(logits, Y), cross_entropy(logits, Y))
    torch.testing.assert_close(task_loss(logits, 0 * logits), logits.square().mean())


def test_score():
    logits = torch.eye(3)[[2, 0, 1, 1, 2]].requires_grad_()
    assert score(logits, Y).item() == pytest.approx(0.8)
    assert score(logits, torch.zeros(5, 3)).item() == pytest.approx(1 / 3)
    assert not score(logits, torch.zeros(5, 3)).requires_grad


def test_one_hot():
    found = one_hot(Y, 4, Z)
    assert found.dtype == torch.float64
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    numbers = Z[0]
    assert one_hot(numbers, 4, Z) is numbers


@pytest.mark.parametrize("z", [Z[:, :, 0], Z], ids=["vectors", "maps"])
def test_class_means(z):
    means, count = class_means(z, Y, 3)
    assert count.tolist() == [1, 1, 3] and means.dtype == z.dtype
    for k in range(3):
        torch.testing.assert_close(means[k], z[k == Y].mean(0))


def test_square_distances_can_be_differentiated_twice():
    q, centres = Z[:, :, 0], Z[:2, :, 1]
    found = square_distances(q, centres)
    torch.testing.assert_close(found, torch.cdist(q, centres).square())
    inputs = (q.clone().requires_grad_(), centres.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(square_distances, inputs)


def loss(fast, given=None):
    return (fast["w"] ** 4).sum() + (0 if given is None else (given["b"] * fast["w"]).sum())


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_descend(steps, first_order):
    start = {"w": torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)}
    expected = start
    for _ in range(steps):
        slope = gradient(loss, expected, first_order)["w"]
        expected = {"w": expected["w"] - 0.1 * slope}
    found = descend(loss, start, 0.1, steps, first_order)
    assert torch.equal(found["w"], expected["w"])
    assert found is start or steps
    (one,) = torch.autograd.grad(found["w"].sum(), start["w"])
    (two,) = torch.autograd.grad(expected["w"].sum(), start["w"])
    assert torch.equal(one, two)
    assert torch.equal(one, torch.ones(2)) is (first_order or not steps)  # of a constant step the derivative is none


def test_principal_directions_are_those_of_the_covariance():
    z = torch.randn(30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * torch.arange(1.0, 6)
    points, share = principal(z)
    values, vectors = torch.linalg.eigh(z.T.cov())
    torch.testing.assert_close(share, values.flip(0)[:2] / values.sum())
    for column, direction in zip(points.T, vectors.T.flip(0)[:2], strict=True):
        wanted = (z - z.mean(0)) @ direction
        torch.testing.assert_close(column, wanted if column @ wanted > 0 else -wanted)
        assert column[column.abs().argmax()] > 0
    torch.testing.assert_close(principal(z + 7)[0], points)


def test_principal_directions_of_one_feature_and_of_equal_items():
    points, share = principal(torch.tensor([[1.0], [2.0], [6.0]]))
    torch.testing.assert_close(points, torch.tensor([[-2.0, 0.0], [-1.0, 0.0], [3.0, 0.0]]))
    assert share.tolist() == [1, 0]
    points, share = principal(torch.ones(4, 3))
    assert not points.any() and not share.any()


def test_descend_learns_through_what_is_given():
    start = {"w": torch.tensor([0.5, -0.3], dtype=torch.float64)}
    given = {"b": torch.ones(2, dtype=torch.float64, requires_grad=True)}
    found = descend(loss, start, 0.1, 1, given=given)
    torch.testing.assert_close(found["w"], start["w"] - 0.1 * (4 * start["w"] ** 3 + 1))
    (slope,) = torch.autograd.grad(found["w"].sum(), given["b"])
    torch.testing.assert_close(slope, torch.full((2,), -0.1, dtype=torch.float64))


def test_descend_with_a_step_size_for_each_weight():
    start = {"w": torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)}
    sizes = {"w": torch.tensor([0.1, 0.4], dtype=torch.float64, requires_grad=True)}
    found = descend(loss, start, sizes, 1)["w"]
    torch.testing.assert_close(found, start["w"] - sizes["w"] * 4 * start["w"] ** 3)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), sizes["w"])[0], -4 * start["w"] ** 3)


def test_with_gradient():
    params = {n: torch.ones(size, requires_grad=True) for n, size in (("a", 2), ("b", 3))}
    wanted = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0, 5.0], requires_grad=True)}
    value = with_gradient(torch.tensor(7.0), params, wanted)
    assert value.item() == 7
    value.backward()
    assert all(torch.equal(p.grad, wanted[n]) for n, p in params.items()) and wanted["b"].grad is None

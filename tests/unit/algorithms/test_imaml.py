"""iMAML against the derivative of an adaptation that has converged, and its solver against a dense one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unit.algorithms.adapting import assert_same_loss_and_gradient, learner_of, loss_of, output, slopes, task

from metalearn_cli.algorithms.imaml import Imaml, solve
from metalearn_cli.engine.episodes import answered

LR, PENALTY = 0.13, 5.0


def converged(learner, episode, steps: int):
    """Return the tensors after steps of a plain loop on the penalised loss, with the graph of all of them."""
    start = learner.net.params
    fast = {n: p.clone() for n, p in start.items()}
    for _ in range(steps):
        penalty = sum(((p - start[n]) ** 2).sum() for n, p in fast.items())
        loss = loss_of(output(fast, episode.support_x), episode.support_y) + PENALTY / 2 * penalty
        slope = slopes(loss, fast)
        fast = {n: p - LR * slope[n] for n, p in fast.items()}
    return fast


@pytest.mark.parametrize("numbers", [False, True])
def test_loss_and_gradient_are_those_through_an_adaptation_that_has_converged(numbers: bool) -> None:
    # of this task, the minimum is not at a kink of a ReLU, where steps would go to and fro
    learner, episode = learner_of(Imaml(LR, 40, PENALTY, cg_steps=30)), task(numbers, seed=4)
    fast = converged(learner, episode, 40)
    assert_same_loss_and_gradient(learner, episode, loss_of(output(fast, episode.query_x), episode.query_y), rtol=1e-7)


def test_adaptation_is_that_of_a_plain_loop() -> None:
    learner, episode = learner_of(Imaml(LR, 3, PENALTY)), task()
    found = answered(learner, episode.support_x, episode.support_y, episode.query_x)
    torch.testing.assert_close(found, output(converged(learner, episode, 3), episode.query_x))


def solved(matrix: Tensor, b: list[float], steps: int) -> Tensor:
    """Return the solution for a vector that lies in two tensors."""

    def times(v):
        one, two = (matrix @ torch.cat([v["a"], v["b"]])).split(2)
        return {"a": one, "b": two}

    vector = torch.tensor(b, dtype=torch.float64)
    found = solve(times, {"a": vector[:2], "b": vector[2:]}, steps)
    return torch.cat([found["a"], found["b"]])


def test_conjugate_gradient_solves_in_as_many_steps_as_there_are_unknowns() -> None:
    root = torch.tensor([[2.0, 1, 0, 0.5], [0, 1, 1, 0], [0.3, 0, 3, 1], [1, 0, 0, 1]], dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(4), [1.0, -2.0, 0.5, 3.0]
    expected = torch.linalg.solve(matrix, torch.tensor(b, dtype=torch.float64))
    torch.testing.assert_close(solved(matrix, b, 4), expected)
    torch.testing.assert_close(solved(matrix, b, 30), expected)  # and stays there
    assert (solved(matrix, b, 2) - expected).norm() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_stops_at_negative_curvature(steps: int) -> None:
    # the first direction has positive curvature, the second has not
    matrix, b = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)), [1.0, 1.0, 1.0, 1.0]
    first = solved(matrix, b, 1)
    torch.testing.assert_close(first, 2 * torch.tensor(b, dtype=torch.float64))
    torch.testing.assert_close(solved(matrix, b, steps), first)
    # here the first has not: what is left is the gradient itself
    b = [0.1, 0.1, 0.1, 1.0]
    torch.testing.assert_close(solved(matrix, b, steps), torch.tensor(b, dtype=torch.float64))


def test_no_gradient_has_the_solution_zero() -> None:
    assert torch.equal(solved(torch.eye(4, dtype=torch.float64), [0.0] * 4, 3), torch.zeros(4, dtype=torch.float64))


def test_steps_that_diverge_are_refused() -> None:
    Imaml(0.19, 1, 10.0)
    with pytest.raises(
        ValueError, match=r"^inner_lr must be below 2 / penalty \(0\.2\), where adaptation diverges, got 0\.2$"
    ):
        Imaml(0.2, 1, 10.0)

"""Gradient checkpointing keeps nothing, changes no gradient and refuses what it would get wrong."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from metalearn_cli.core.functional import checkpointing, gradient
from metalearn_cli.core.types import Params


@pytest.fixture
def checkpointed() -> Iterator[None]:
    before = checkpointing.set(True)
    yield
    checkpointing.reset(before)


def adapted(params: Params, steps: int, kept: list[weakref.ref[Tensor]] | None = None) -> Tensor:
    """A loss after some steps, of one parameter whose first derivative is constant and one whose is not."""

    def loss(fast: Params) -> Tensor:
        hidden = torch.tanh(fast["w"])
        if kept is not None:
            kept.append(weakref.ref(hidden))
        return hidden.square().sum() + fast["constant"].sum()

    for _ in range(steps):
        gradients = gradient(loss, params)
        params = {name: p - 0.3 * gradients[name] for name, p in params.items()}
    return loss(params).square()


def leaves() -> Params:
    values = {"w": [0.3, -0.7], "constant": [1.0]}
    return {name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in values.items()}


def test_gradient_checkpointing_keeps_nothing_of_a_step_and_changes_no_gradient(checkpointed):
    params, kept = leaves(), []
    value = adapted(params, 3, kept)
    assert [ref() is None for ref in kept[:-1]] == [True] * (len(kept) - 1)
    found = torch.autograd.grad(value, list(params.values()))
    checkpointing.set(False)
    kept = []
    value = adapted(params, 3, kept)
    assert len(kept) == 4 and all(ref() is not None for ref in kept)
    for a, b in zip(found, torch.autograd.grad(value, list(params.values())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_gradient_checkpointing_agrees_with_finite_differences(checkpointed):
    params = leaves()
    assert torch.autograd.gradcheck(
        lambda *tensors: adapted(dict(zip(params, tensors, strict=True)), 2), tuple(params.values())
    )


def test_gradient_checkpointing_takes_a_loss_whose_gradient_is_constant(checkpointed):
    params = leaves()
    fast = gradient(lambda p: (3 * p["w"]).sum() + p["constant"].sum(), params)
    moved = sum((p - 0.5 * fast[name]).square().sum() for name, p in params.items())
    for found, p in zip(torch.autograd.grad(moved, list(params.values())), params.values(), strict=True):
        torch.testing.assert_close(found, 2 * (p - 0.5 * (3 if len(p) == 2 else 1)))


def test_gradient_checkpointing_refuses_a_loss_of_other_tensors_that_learn(checkpointed):
    other = torch.ones(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="the loss depends on tensors that it is not differentiated by"):
        gradient(lambda fast: (fast["w"] * other).sum(), leaves())
    constant = gradient(lambda fast: (fast["w"] * other).sum() + fast["constant"].sum(), leaves(), first_order=True)
    assert not constant["w"].requires_grad

"""Gradients to take steps with; checkpointing keeps nothing, changes none and refuses what it would get wrong."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from metalearn_cli.core.functional import checkpointing, gradient
from metalearn_cli.core.network import Params


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
    with pytest.raises(ValueError, match="the loss depends on tensors that are not in `params`"):
        gradient(lambda fast: (fast["w"] * other).sum(), leaves())
    constant = gradient(lambda fast: (fast["w"] * other).sum() + fast["constant"].sum(), leaves(), first_order=True)
    assert not constant["w"].requires_grad


@pytest.fixture(params=[False, True], ids=["kept", "recomputed"])
def either(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = checkpointing.set(request.param)
    yield request.param
    checkpointing.reset(before)


def of_both(fast: Params, given: Params) -> Tensor:
    """A loss of a head's weights on features that something else learns; it does not use everything."""
    return (torch.tanh(given["features"]) @ fast["head"]).square().sum()


def head_and_features() -> tuple[Params, Params]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"head": (2,), "left": (2,), "features": (3, 2), "aside": (2,)}
    made = {n: torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for n, s in shapes.items()}
    return {n: made[n] for n in ("head", "left")}, {n: made[n] for n in ("features", "aside")}


def after_two_steps(fast: Params, given: Params) -> Tensor:
    """As ANIL learns: the head moves, and what it saw while it moved is learnt through."""
    for _ in range(2):
        gradients = gradient(of_both, fast, given=given)
        fast = {name: p - 0.3 * gradients[name] for name, p in fast.items()}
    return of_both(fast, given) + fast["left"].sum()


def through(*tensors: Tensor) -> Tensor:
    fast, given = head_and_features()
    names = [*fast, *given]
    values = dict(zip(names, tensors, strict=True))
    return after_two_steps({n: values[n] for n in fast}, {n: values[n] for n in given})


def test_gradients_reach_given_tensors(either):
    fast, given = head_and_features()
    tensors = (*fast.values(), *given.values())
    assert torch.autograd.gradcheck(lambda *t: through(*t) + t[-1].sum(), tensors)


def test_gradients_of_given_tensors_are_the_same_with_checkpointing():
    found = []
    for checkpointed in (False, True):
        before = checkpointing.set(checkpointed)
        fast, given = head_and_features()
        after_two_steps(fast, given).backward()
        checkpointing.reset(before)
        found.append([None if p.grad is None else p.grad for p in (*fast.values(), *given.values())])
    assert [g is None for g in found[0]] == [False, False, False, True] == [g is None for g in found[1]]
    assert found[0][2].abs().sum() > 0
    for kept, recomputed in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=1e-13, atol=0)


def test_what_is_not_given_gets_no_gradient():
    """That is what `given` is for: the second derivative by the features is more than the first of the last loss."""
    fast, given = head_and_features()
    after_two_steps(fast, given).backward()
    whole = given["features"].grad
    given["features"].grad = None
    constant = {name: p.detach() for name, p in given.items()}
    moved = fast
    for _ in range(2):
        gradients = gradient(of_both, moved, given=constant)
        moved = {name: p - 0.3 * gradients[name] for name, p in moved.items()}
    of_both(moved, given).backward()
    assert not torch.allclose(given["features"].grad, whole)


def test_tensors_that_a_loss_does_not_use_have_a_gradient_of_zeros(either):
    fast, given = head_and_features()
    for first_order in (False, True):
        found = gradient(of_both, fast, first_order, given)
        assert found.keys() == fast.keys()
        assert torch.equal(found["left"], torch.zeros(2, dtype=torch.float64))
        assert found["head"].abs().sum() > 0


def test_in_a_batch_of_tasks_likewise():
    fast, given = head_and_features()
    tasks = torch.stack([given["features"], -2 * given["features"]]).detach().requires_grad_()

    def loss(features: Tensor, fast: Params) -> Tensor:
        return after_two_steps(fast, {**given, "features": features})

    together = torch.func.vmap(loss, in_dims=(0, None))(tasks, fast)
    torch.testing.assert_close(together, torch.stack([loss(features, fast) for features in tasks]))
    (found,) = torch.autograd.grad(together.sum(), tasks)
    (expected,) = torch.autograd.grad(sum(loss(features, fast) for features in tasks), tasks)
    torch.testing.assert_close(found, expected)


def test_first_order_is_a_constant(either):
    fast, given = head_and_features()
    found = gradient(of_both, fast, first_order=True, given=given)
    assert not any(g.requires_grad for g in found.values())


def test_a_variable_that_changed_before_the_loss_is_computed_again_is_found(checkpointed):
    factor = 1.0
    gradients = gradient(lambda fast: (factor * fast["w"]).square().sum() + fast["constant"].sum(), leaves())
    factor = 2.0
    with pytest.raises(RuntimeError, match=r"the loss was 1\.58, but 3\.32 when recomputed; a function"):
        gradients["w"].sum().backward()


def test_a_variable_that_changed_does_no_harm_without_checkpointing():
    params = leaves()
    factor = 1.0
    gradients = gradient(lambda fast: (factor * fast["w"]).square().sum() + fast["constant"].sum(), params)
    factor = 2.0
    gradients["w"].sum().backward()
    assert params["w"].grad.tolist() == [2, 2]


@pytest.mark.parametrize("again", [False, True])
def test_the_gradient_is_not_through_a_tensor_that_depends_on_another(again):
    before = checkpointing.set(again)
    w = torch.tensor(3.0, requires_grad=True)
    found = gradient(lambda fast: fast["w"] * fast["head"], {"w": w, "head": 2 * w})
    checkpointing.reset(before)
    assert (found["w"].item(), found["head"].item()) == (6, 3)
    assert torch.autograd.grad(found["w"] + found["head"], w)[0].item() == 3  # it still is a function of w

"""A step is taken whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from conftest import on_cpu
from torch import Tensor

from metalearn_cli.core.errors import NonFiniteError
from metalearn_cli.core.network import Params
from metalearn_cli.engine.stepper import Stepper


def stepper(params: Params, skips: int = 0) -> Stepper:
    optimizer = torch.optim.SGD([params["w"]], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return Stepper(on_cpu(), params, optimizer, scheduler, skips, buffers=("mean", "count"))


def tensors() -> Params:
    return {"w": torch.ones(2).requires_grad_(), "mean": torch.zeros(2), "count": torch.tensor(0)}


def gradients(params: Params, factor: float = 1.0) -> Mapping[str, Tensor]:
    """Compute a loss as a network with running statistics does: the buffers are written before it is known."""
    loss = (factor * params["w"]).sum()
    with torch.no_grad():
        params["mean"].add_(params["w"] * factor)
        params["count"].add_(1)
    loss.backward()
    return {"loss": loss.detach(), "twice": 2 * loss.detach()}


def test_a_step_moves_what_learns_and_keeps_what_was_written():
    params = tensors()
    stepper(params).take(lambda: gradients(params), "here")
    torch.testing.assert_close(params["w"].detach(), torch.full((2,), 0.9))
    assert params["mean"].tolist() == [1, 1] and params["count"] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_left_out_puts_buffers_back(bad):
    params = tensors()
    steps = stepper(params, skips=1)
    steps.take(lambda: gradients(params), "here")
    before = {name: p.detach().clone() for name, p in params.items()}
    steps.take(lambda: gradients(params, bad), "here")
    assert all(torch.equal(params[name], tensor) for name, tensor in before.items())
    assert (steps.memory.skipped, steps.memory.in_a_row) == (1, 1)
    steps.take(lambda: gradients(params), "here")
    assert params["count"] == 2 and steps.memory.in_a_row == 0


def test_the_last_step_of_a_run_puts_buffers_back_too():
    params = tensors()
    with pytest.raises(NonFiniteError, match=r"nan here; nothing was updated\. No step was taken before:"):
        stepper(params).take(lambda: gradients(params, float("nan")), "here")
    assert params["mean"].tolist() == [0, 0] and params["w"].tolist() == [1, 1] and params["count"] == 0


def test_the_first_step_may_be_left_out_and_the_rate_goes_on():
    params = tensors()
    steps = stepper(params, skips=1)
    steps.take(lambda: gradients(params, float("nan")), "here")
    steps.take(lambda: gradients(params), "here")
    torch.testing.assert_close(params["w"].detach(), torch.full((2,), 0.95))
    assert steps.metrics()["train/skipped"] == 1


def test_gradients_of_a_step_are_its_own():
    params = tensors()
    steps = stepper(params)
    for expected in (0.9, 0.85):  # the rate halves
        steps.take(lambda: gradients(params), "here")
        torch.testing.assert_close(params["w"].detach(), torch.full((2,), expected))


def test_metrics_are_means_since_the_last_call():
    params = tensors()
    steps = stepper(params)
    for factor in (1.0, 2.0):
        steps.take(lambda factor=factor: gradients(params, factor), "here")
    assert steps.metrics() == pytest.approx({"train/loss": 2.8, "train/twice": 5.6, "train/lr": 0.05})
    assert steps.metrics() == {"train/lr": 0.05}


def test_a_lower_rate_is_advised_only_where_a_step_was_taken():
    params = tensors()
    steps = stepper(params)
    steps.take(lambda: gradients(params), "here")
    with pytest.raises(NonFiniteError, match="A lower learning rate usually helps"):
        steps.take(lambda: gradients(params, float("nan")), "here")
    steps = stepper(params, skips=1)
    steps.take(lambda: gradients(params, float("nan")), "here")
    with pytest.raises(NonFiniteError, match=r"look at the data \(mlx data check\)"):
        steps.take(lambda: gradients(params, float("nan")), "here")

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import on_cpu
from torch import Tensor

from metalearn_cli.core.config import Every
from metalearn_cli.core.errors import NonFiniteError, Stopped
from metalearn_cli.core.metric import Metric
from metalearn_cli.engine.loop import Ahead, Job, Plan, fit
from metalearn_cli.engine.stepper import Memory, Stepper

RUNTIME = on_cpu()
EVERY = Every(log=2, evaluate=3, save=4)


def test_each_batch_is_drawn_while_the_one_before_is_learnt_from() -> None:
    drawn = [threading.Event() for _ in range(4)]

    def batch(step: int) -> int:
        drawn[step].set()
        return 10 * step

    batches = Ahead(batch, steps=3)
    for step in range(1, 3):  # as a run does that goes on after step 1
        assert batches(step) == 10 * step
        assert step == 2 or drawn[step + 1].wait(5)
    assert not drawn[3].wait(0.3)
    batches.close()
    assert [event.is_set() for event in drawn] == [False, True, True, False]


def test_a_batch_that_cannot_be_drawn_ends_its_own_step() -> None:
    def batch(step: int) -> int:
        if step == 1:
            raise OSError("Input/output error")
        return step

    batches = Ahead(batch, steps=3)
    assert batches(0) == 0
    with pytest.raises(OSError, match="Input/output"):
        batches(1)
    batches.close()


def backward(loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {"loss": loss.detach()}


class Task:
    """A line to be fitted; everything that the loop said is kept."""

    def __init__(self) -> None:
        self.params = {"w": torch.zeros(3).requires_grad_(), "frozen": torch.ones(1)}
        self.optimizer = torch.optim.SGD([self.params["w"]], lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.memory = Memory()
        self.recorded: list[tuple[int, dict[str, float]]] = []
        self.saved: list[tuple[int, int, dict[str, float]]] = []
        self.advanced: list[int] = []

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return x, x.sum(1)

    def gradients(self, params: Any, batch: Any, step: int) -> Any:
        x, y = batch
        noise = 0.01 * torch.randn(len(y))  # of the global generator, as a model's would be
        return backward((x @ params["w"] - y + noise).square().mean())

    def evaluate(self, params: Any) -> dict[str, float]:
        return {"val/x": params["w"].sum().item()}

    def advance(self, done: int) -> None:
        self.advanced.append(done)

    def measured(self, done: int, values: Any) -> None:
        self.recorded.append((done, dict(values)))

    def save(self, done: int, scores: dict[str, float]) -> None:
        self.saved.append((done, len(self.memory.window), scores))

    def exhausted(self, done: int) -> bool:
        return False

    def fit(
        self,
        steps: int = 6,
        start: int = 0,
        every: Every = EVERY,
        runtime: Any = RUNTIME,
        skips: int = 0,
        job: Any = (),
        **log: Any,
    ) -> Task:
        """Train, with other entries of the job, and the log's methods `log`."""
        for name, method in log.items():
            setattr(self, name, method)
        made = Job(
            params=self.params,
            rates={"w": 1.0},
            batches=self.batch,
            gradients=self.gradients,
            evaluate=self.evaluate,
            metric=Metric("x", "", higher_is_better=True),
            model={},
            data={},
        )
        stepper = Stepper(runtime, self.params, self.optimizer, self.scheduler, skips)
        stepper.memory = self.memory
        plan = Plan(start, steps, every, 0, runtime.stop_on)
        fit(replace(made, **dict(job)), stepper, plan, self)
        return self


def test_everything_happens_at_its_step():
    task = Task().fit(steps=7)
    assert task.advanced == [1, 2, 3, 4, 5, 6, 7]
    names = [(step, sorted(values)) for step, values in task.recorded]
    train, val = ["train/loss", "train/lr"], ["val/x"]
    assert names == [(2, train), (3, val), (4, train), (6, train), (6, val), (7, train), (7, val)]
    assert [(step, size, sorted(values)) for step, size, values in task.saved] == [
        (3, 1, val),  # every evaluation is saved, so that the best can be kept
        (4, 0, []),
        (6, 0, val),
        (7, 0, val),
    ]


def test_what_is_logged_is_the_mean_since_the_last_line():
    single = Task().fit(every=Every(1, 9, 9))
    pairs = Task().fit()
    losses = [values["train/loss"] for _, values in single.recorded if "train/loss" in values]
    logged = [values["train/loss"] for _, values in pairs.recorded if "train/loss" in values]
    assert logged == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)])
    rates = [values["train/lr"] for _, values in single.recorded if "train/lr" in values]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])  # those with which the steps were taken


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_stopped_and_gone_on_equals_uninterrupted(stop):
    whole = Task().fit()

    task = Task()
    with pytest.raises(KeyboardInterrupt):
        task.fit(advance=lambda step: os.kill(os.getpid(), signal.SIGINT) if step == stop else None)
    assert task.saved[-1][0] == stop
    state = [task.optimizer.state_dict(), task.scheduler.state_dict()]
    torch.manual_seed(99)  # nothing may depend on what the other process left behind

    again = Task()
    again.params["w"].data.copy_(task.params["w"])
    again.optimizer.load_state_dict(state[0])
    again.scheduler.load_state_dict(state[1])
    again.memory.window.extend(task.memory.window)
    again.fit(start=stop)
    assert torch.equal(again.params["w"], whole.params["w"])
    before = [line for line in task.recorded if line[0] <= stop]
    assert before + again.recorded == whole.recorded


def test_second_sigint_acts_at_once():
    def twice(step: int) -> None:
        signal.raise_signal(signal.SIGINT)  # in this thread: two that wait for another one count as one
        signal.raise_signal(signal.SIGINT)

    task = Task()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            task.fit(advance=twice)
    finally:
        signal.signal(signal.SIGINT, before)
    assert task.saved == []


def test_sigint_in_the_last_step_changes_nothing():
    task = Task().fit(steps=3, advance=lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None)
    assert task.saved[-1][0] == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_other_signals_stop_likewise(name):
    number = signal.Signals[name]
    runtime = on_cpu(stop_on=["SIGUSR1", "SIGHUP"])
    task = Task()
    with pytest.raises(Stopped) as caught:
        task.fit(advance=lambda step: os.kill(os.getpid(), number) if step == 2 else None, runtime=runtime)
    assert (caught.value.number, task.saved) == (number, [(2, 0, {})])


def test_handlers_of_signals_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    Task().fit(steps=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_training_ends_early():
    task = Task().fit(exhausted=lambda step: step >= 3)
    assert task.advanced == [1, 2, 3]
    assert [step for step, _, _ in task.saved] == [3]
    again = Task().fit(start=3, exhausted=lambda step: step >= 3)
    assert again.advanced == again.saved == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_leaves_the_weights(value):
    task = Task()
    seen = []

    def gradients(params: Any, batch: Any, step: int) -> Any:
        seen.append(params["w"].detach().clone())
        return backward(params["w"].sum() * (value if len(seen) == 3 else 1.0))

    with pytest.raises(NonFiniteError, match=r"the loss became (nan|-inf|inf) at step 3 of 6; nothing was updated"):
        task.fit(job={"gradients": gradients})
    assert torch.equal(task.params["w"], seen[-1])
    assert task.advanced == [1, 2]


def test_gradient_that_is_not_finite_leaves_the_weights():
    task = Task()

    def gradients(params: Any, batch: Any, step: int) -> Any:
        return backward(params["w"].sum() + params["w"].abs().sqrt().sum())  # finite at 0, its gradient is not

    with pytest.raises(NonFiniteError, match="the gradient of w is not finite at step 1 of 6"):
        task.fit(job={"gradients": gradients})
    assert torch.equal(task.params["w"], torch.zeros(3))


class Trouble(Task):
    """A loss that is no number in some steps, and a gradient that is not in others; the first one is step 1."""

    def __init__(self, losses: tuple[int, ...] = (), gradients: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.bad = (losses, gradients)

    def gradients(self, params: Any, batch: Any, step: int) -> Any:
        if step + 1 in self.bad[0]:
            return backward(params["w"].sum() * float("nan"))
        if step + 1 in self.bad[1]:
            return backward((params["w"] * 0).abs().sqrt().sum())
        return super().gradients(params, batch, step)


def test_step_that_is_left_out_changes_nothing_but_the_rate(caplog):
    task = Trouble(losses=(2,), gradients=(3,)).fit(skips=2, every=Every(1, 9, 9))
    assert task.advanced == [1, 2, 3, 4, 5, 6]
    assert (task.memory.skipped, task.memory.in_a_row) == (2, 0)
    by_hand = Trouble()
    by_hand.fit(steps=1)
    for _ in range(2):
        by_hand.scheduler.step()
    by_hand.fit(start=3)
    assert torch.equal(task.params["w"], by_hand.params["w"])
    said = {step: values.get("train/skipped") for step, values in task.recorded if "train/lr" in values}
    assert said == {1: None, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}
    assert "train/loss" not in dict(task.recorded)[2]
    assert "the loss became nan at step 2 of 6: the step is skipped (1 in a row, 1 in all)" in caplog.messages
    assert "the gradient of w is not finite at step 3 of 6: the step is skipped (2 in a row" in caplog.text


def test_too_many_steps_left_out_stop_the_run():
    task = Trouble(losses=(2, 4, 5, 6))
    with pytest.raises(NonFiniteError, match="the loss became nan at step 6 of 6, after 2 skipped steps in a row"):
        task.fit(skips=2)
    assert task.advanced == [1, 2, 3, 4, 5]


def test_anomaly_is_told_with_its_step():
    runtime = on_cpu(anomaly=True)
    with pytest.raises(NonFiniteError, match=r"Function 'AbsBackward0' returned nan .* at step 2 of 6"):
        Trouble(gradients=(2,)).fit(runtime=runtime)


def test_tensors_that_the_optimizer_does_not_hold_stay():
    task = Task().fit()
    assert torch.equal(task.params["frozen"], torch.ones(1))
    assert not torch.equal(task.params["w"], torch.zeros(3))


def test_a_tensor_follows_after_each_step_and_knows_how_far_training_is():
    """A moving average of what learns: it is what it would be by hand, and is there before anything is saved."""
    shares: list[float] = []
    weights: list[Tensor] = []

    def follow(params: Any, progress: float) -> Any:
        shares.append(progress)
        weights.append(params["w"].detach().clone())
        return {"frozen": 0.5 * params["frozen"] + 0.5 * params["w"].sum()}

    kept: list[float] = []
    task = Task()
    task.fit(steps=4, job={"follow": follow}, advance=lambda done: kept.append(task.params["frozen"].item()))
    assert shares == [0.25, 0.5, 0.75, 1.0]
    average, expected = 1.0, []
    for w in weights:
        average = 0.5 * average + 0.5 * w.sum().item()
        expected.append(average)
    assert kept == pytest.approx(expected)
    assert not task.params["frozen"].requires_grad
    assert torch.equal(task.params["w"], Task().fit(steps=4).params["w"])


def test_nothing_follows_after_a_step_that_was_left_out():
    shares: list[float] = []

    def follow(params: Any, progress: float) -> Any:
        shares.append(progress)
        return {}

    Trouble(losses=(2,)).fit(steps=4, skips=2, job={"follow": follow})
    assert len(shares) == 3


def test_the_step_is_told_to_the_gradients():
    seen: list[int] = []
    task = Task()

    def gradients(params: Any, batch: Any, step: int) -> Any:
        seen.append(step)
        return Task.gradients(task, params, batch, step)

    task.fit(steps=5, start=2, job={"gradients": gradients})
    assert seen == [2, 3, 4]

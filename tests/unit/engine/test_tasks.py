"""Every way to compute the tasks of a meta-batch gives the same gradients, and the same bits every time."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from conftest import on_cpu
from torch import Tensor

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.core.functional import checkpointing
from metalearn_cli.core.learning import score
from metalearn_cli.core.network import Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine import runtime as module
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.tasks import Tasks

WAY, TASKS = 3, 3  # a number of tasks that neither the threads nor the chunks divide
WAYS = [("loop", None), ("threads", None), ("groups", 2), ("vmap", 2), ("vmap", None)]
LEARNERS = {
    **{f"maml-{s}-{o}": Maml(0.2, s, o == "first") for s in (1, 2) for o in ("first", "second")},
    "protonet": ProtoNet(),
}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(module, "cores", lambda: 2)
    yield
    torch.set_num_threads(before)


def runtime(batching: str = "auto", chunk: int | None = None, precision: str = "64-true", **changes: Any) -> Runtime:
    values = {"threads": 1 if batching in ("loop", "vmap") else None, **changes}
    return on_cpu(precision=precision, task_batching=batching, task_chunk=chunk, **values)


def problem(algorithm: Any, found: Runtime, pool: str = "max") -> tuple[Any, Params, Episode]:
    """A task of a learner on a small conv4 with batch statistics, its parameters, and a meta-batch."""
    with seeded(1, "tasks"):  # with 0, the gradient of one bias is zero
        net = network(Conv4((1, 16, 16), hidden=4, pool=pool), WAY if algorithm.traits.head else None)
        support_x, query_x = torch.rand(TASKS, WAY, 1, 16, 16), torch.rand(TASKS, 2 * WAY, 1, 16, 16)
    y = torch.arange(WAY).expand(TASKS, -1)
    learner = Learner(algorithm, net, {}, WAY, "inductive")

    def task(params: Params, episode: Episode) -> dict[str, Tensor]:
        output = trained(learner.of(params), episode)
        return {"loss": output.loss, "accuracy": score(output.logits, episode.query_y)}

    return task, found.place(net.params), found.cast(Episode(support_x, y, query_x, y.repeat(1, 2)))


def plain(task: Any, params: Params, episodes: Episode) -> tuple[Tensor, list[Tensor]]:
    """The mean loss and its gradient, by a Python loop and one call of autograd."""
    losses = [task(params, Episode(*(part[t] for part in episodes)))["loss"] for t in range(TASKS)]
    loss = torch.stack(losses).mean()
    return loss, list(torch.autograd.grad(loss, list(params.values())))


@cache
def expected(learner: str, pool: str) -> tuple[Tensor, list[Tensor]]:
    """What every way has to come to."""
    return plain(*problem(LEARNERS[learner], runtime("loop"), pool))


def deviation(params: Params, expected: list[Tensor]) -> float:
    """How far the gradients are from what they should be, relatively, all in all."""
    found = torch.cat([p.grad.flatten() for p in params.values()])
    wanted = torch.cat([gradient.flatten() for gradient in expected])
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("batching", "chunk"), WAYS)
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("pool", ["max", "stride"])
def test_gradients_equal_those_of_a_plain_loop(learner, batching, chunk, pool):
    found = runtime(batching, chunk)
    task, params, episodes = problem(LEARNERS[learner], found, pool)
    values = Tasks(found, TASKS).gradients(task, params, episodes)
    loss, gradients = expected(learner, pool)
    torch.testing.assert_close(values["loss"], loss, rtol=1e-12, atol=0)
    assert not values["loss"].requires_grad
    for p, gradient in zip(params.values(), gradients, strict=True):
        assert (p.grad - gradient).norm() <= 1e-9 * gradient.norm()


@pytest.mark.parametrize(
    ("learner", "batching"), [pytest.param("maml-1-second", "loop", marks=pytest.mark.slow), ("protonet", "vmap")]
)
@pytest.mark.medium
def test_a_recorded_graph_holds_for_all_values(learner, batching, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **settings: graph)  # which takes a minute, and is tested below
    found = runtime(batching, task_compile=True)
    task, params, episodes = problem(LEARNERS[learner], found)
    tasks = Tasks(found, TASKS)
    for _ in range(2):
        values = tasks.gradients(task, params, episodes)
        loss, expected = plain(task, params, episodes)
        torch.testing.assert_close(values["loss"], loss, rtol=1e-12, atol=0)
        assert deviation(params, expected) <= 1e-9
        for p in params.values():
            p.grad = None
            p.data = torch.randn_like(p)  # negative weights of the normalisation among them
        episodes = Episode(*(part.flip(0).flip(1) for part in episodes))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler uses it
@pytest.mark.parametrize(("learner", "batching"), [("maml-1-second", "vmap"), ("protonet", "loop")])
def test_compiled_gradients_equal_those_of_a_plain_loop(learner, batching):
    found = runtime(batching, task_compile=True)
    task, params, episodes = problem(LEARNERS[learner], found)
    tasks = Tasks(found, TASKS)
    assert tasks.description.endswith(f"({batching}, compiled)")
    for _ in range(2):
        values = tasks.gradients(task, params, episodes)
    loss, expected = plain(task, params, episodes)
    torch.testing.assert_close(values["loss"], loss, rtol=1e-12, atol=0)
    assert deviation(params, [2 * gradient for gradient in expected]) <= 1e-9  # added up


@pytest.mark.medium
def test_without_a_compiler_the_setting_is_named(monkeypatch):
    from torch._inductor.exc import InductorError

    class Missing(InductorError):
        def __init__(self):
            RuntimeError.__init__(self, "No working C++ compiler found in torch._inductor.config.cpp.cxx\nand more")

    def broken(graph, **settings):
        raise Missing

    monkeypatch.setattr(torch, "compile", broken)
    found = runtime("loop", task_compile=True)
    task, params, episodes = problem(LEARNERS["protonet"], found)
    with pytest.raises(
        UserError, match=r"^runtime.task_compile: torch cannot compile here \(No working C\+\+ .*cxx\);"
    ):
        Tasks(found, TASKS).gradients(task, params, episodes)


@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("learner", ["maml-2-first", "maml-2-second", "protonet"])
@pytest.mark.medium
def test_no_step_of_the_computation_waits_for_the_device(learner, batching, monkeypatch):
    # tensors without values: whoever looks at one, as a host that waits for its GPU does, gets an error
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # it does not know such a device
    found = runtime(batching)
    task, params, episodes = problem(LEARNERS[learner], found)
    params = {name: p.detach().to("meta").requires_grad_() for name, p in params.items()}
    values = Tasks(found, TASKS).gradients(task, params, Episode(*(part.to("meta") for part in episodes)))
    assert values["loss"].is_meta
    assert all(p.grad.is_meta for p in params.values())
    with pytest.raises(RuntimeError, match="meta"):
        bool(values["loss"] > 0)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_threads_leave_the_default_number_format_alone(precision):
    found = runtime("threads", precision=precision)
    _, params, episodes = problem(LEARNERS["protonet"], found)
    seen = []

    def apply(params: Params, x: Tensor) -> Tensor:
        seen.append(torch.get_default_dtype())
        return x.sum() + sum(p.sum() for p in params.values())

    run = found.under_precision(apply)
    Tasks(found, TASKS).gradients(lambda p, e: {"loss": run(p, e.query_x)}, params, episodes)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("batching", ["loop", "threads"])
def test_gradient_checkpointing_changes_no_gradient(batching):
    found = runtime(batching, gradient_checkpointing=True)
    task, params, episodes = problem(LEARNERS["maml-2-second"], found)
    seen = []

    def watched(params: Params, episode: Episode) -> dict[str, Tensor]:
        seen.append(checkpointing.get())
        return task(params, episode)

    Tasks(found, TASKS).gradients(watched, params, episodes)
    assert seen == [True] * TASKS and not checkpointing.get()
    _, expected = plain(task, params, episodes)
    for p, gradient in zip(params.values(), expected, strict=True):
        assert (p.grad - gradient).norm() <= 1e-9 * gradient.norm()


@pytest.mark.parametrize("batching", ["vmap", "groups"])
def test_what_cannot_be_batched_is_refused_in_words(batching):
    found = runtime(batching)
    task, params, episodes = problem(LEARNERS["protonet"], found)
    assert Tasks(found, TASKS).refused(task, params, episodes) == ""

    def unfit(params: Params, episode: Episode) -> dict[str, Tensor]:
        return {"loss": torch.tensor(episode.query_x.sum().item())}

    reason = Tasks(found, TASKS).refused(unfit, params, episodes)
    assert reason.startswith(f"{batching} cannot batch this learner on this network over tasks (") and reason.endswith(
        "use loop"
    )
    assert Tasks(runtime("threads"), TASKS).refused(unfit, params, episodes) == ""


def test_what_goes_wrong_with_one_task_too_is_the_learners_own_error():
    found = runtime("vmap")
    _, params, episodes = problem(LEARNERS["protonet"], found)

    def broken(params: Params, episode: Episode) -> dict[str, Tensor]:
        raise RuntimeError("kaboom")

    with pytest.raises(RuntimeError, match=r"^kaboom$"):
        Tasks(found, TASKS).refused(broken, params, episodes)


@pytest.mark.parametrize(("batching", "chunk"), WAYS)
@pytest.mark.medium
def test_same_bits_every_time_in_float32(batching, chunk):
    trained = []
    for _ in range(2):
        found = runtime(batching, chunk, "32-true")
        task, params, episodes = problem(LEARNERS["maml-1-second"], found)
        tasks, optimizer = Tasks(found, TASKS), torch.optim.Adam(list(params.values()))
        for _ in range(3):
            optimizer.zero_grad()
            tasks.gradients(task, params, episodes)
            optimizer.step()
        trained.append(params)
    assert all(torch.equal(p, trained[1][name]) for name, p in trained[0].items())


@pytest.mark.parametrize(("batching", "chunk"), WAYS)
def test_each_gives_the_episodes_in_order_and_without_gradients(batching, chunk):
    found = runtime(batching, chunk)
    task, params, episodes = problem(LEARNERS["maml-1-second"], found)
    one = Tasks(found, TASKS).each(
        lambda p, e: {"loss": task(p, e)["loss"]}, params, lambda i: Episode(*(t[i : i + 1] for t in episodes)), TASKS
    )
    expected = [task(params, Episode(*(t[i] for t in episodes)))["loss"].detach() for i in range(TASKS)]
    found_losses = torch.stack([each["loss"] for each in one])
    assert not found_losses.requires_grad
    torch.testing.assert_close(found_losses, torch.stack(expected), rtol=1e-11, atol=0)


@pytest.mark.parametrize(("batching", "chunk", "held"), [("loop", None, 1), ("vmap", 2, 2)])
def test_a_part_is_gone_before_the_next_one(batching, chunk, held):
    found = runtime(batching, chunk)
    sizes = []

    def task(params: Params, episode: Episode) -> dict[str, Tensor]:
        sizes.append(len(alive))
        kept = _Counted.apply(params["w"] * episode.support_x.sum())
        return {"loss": kept.square().sum()}

    alive: set[int] = set()

    class _Counted(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            alive.add(id(ctx))

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            alive.clear()
            return gradient

    params = {"w": torch.ones(2, dtype=torch.float64).requires_grad_()}
    x = torch.ones(4, 1, dtype=torch.float64)
    Tasks(found, 4).gradients(task, params, Episode(x, x, x, x))
    assert sizes == [0] * (4 // held)


def test_what_auto_comes_to(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert Tasks(runtime(), 4).batching == "threads"
    assert Tasks(runtime(), 1).batching == "loop"
    assert Tasks(runtime(threads=1), 4).batching == "loop"
    assert Tasks(runtime(task_compile=True), 4).batching == "loop"


@pytest.mark.parametrize(("checkpointing", "batching"), [(False, "vmap"), (True, "loop")])
def test_what_auto_comes_to_on_another_device(checkpointing, batching, monkeypatch):
    found = runtime(gradient_checkpointing=checkpointing)
    monkeypatch.setattr(found, "device", torch.device("meta"))
    assert Tasks(found, 4).batching == batching


def test_tensors_that_do_not_learn_get_no_gradient():
    found = runtime("threads")
    task, params, episodes = problem(LEARNERS["protonet"], found)
    frozen = next(iter(params))
    params[frozen].requires_grad_(False)
    Tasks(found, TASKS).gradients(task, params, episodes)
    assert params[frozen].grad is None
    assert all(p.grad is not None for name, p in params.items() if name != frozen)


def test_an_error_in_a_thread_is_raised_here():
    found = runtime("threads")
    _, params, episodes = problem(LEARNERS["protonet"], found)

    def broken(params: Params, episode: Episode) -> dict[str, Tensor]:
        raise ZeroDivisionError("in a task")

    with pytest.raises(ZeroDivisionError, match="in a task"):
        Tasks(found, TASKS).gradients(broken, params, episodes)


@pytest.mark.parametrize("batching", ["vmap", "groups"])
def test_a_learner_that_leaves_torch_is_not_batched(batching):
    with pytest.raises(ConfigError, match=f"^runtime.task_batching: {batching} cannot run this learner; use loop"):
        Tasks(runtime(batching), TASKS, batchable=False)
    for fine in ("loop", "threads"):
        assert Tasks(runtime(fine), TASKS, batchable=False).batching == fine


def test_auto_on_another_device_does_not_batch_such_a_learner(monkeypatch):
    found = runtime()
    monkeypatch.setattr(found, "device", torch.device("meta"))
    assert Tasks(found, 4, batchable=False).batching == "loop"


@pytest.mark.parametrize(("batching", "chunk"), WAYS)
def test_items_of_several_parts(batching, chunk):
    """An item that is a dict of tensors goes to the task whole, in every way and in the same order."""
    found = runtime(batching, chunk)
    x = torch.arange(4 * 2.0, dtype=torch.float64).reshape(4, 2, 1)
    items = {"image": x, "number": -2 * x}
    episodes = Episode(items, x, items, x)

    def task(params: Params, episode: Episode) -> dict[str, Tensor]:
        both = episode.support_x["image"] * params["w"] + episode.query_x["number"]
        return {"loss": both.square().mean()}

    params = {"w": torch.tensor(3.0, dtype=torch.float64).requires_grad_()}
    values = Tasks(found, 4).gradients(task, params, episodes)
    torch.testing.assert_close(values["loss"], x.square().mean())
    torch.testing.assert_close(params["w"].grad, 2 * x.square().mean())
    scored = Tasks(found, 4).each(task, params, lambda i: episodes.map(lambda t: t[i : i + 1]), 4)
    torch.testing.assert_close(torch.stack([each["loss"] for each in scored]), x.square().mean((1, 2)))

"""What every learner must be: a pure, batchable function of an episode that keeps to what its traits say.

Every learner is tested on every kind of target that it can learn, with a network that follows from what it sees: an
MLP on vectors, or a small conv4 where it wants feature maps. No test knows a learner by name.

A tensor of a learner's own may have one entry per class, along one of its dimensions: one that grows with the way and
is as long. Renaming classes renames these entries, as it does the rows of the network's head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from contract.components import built, params
from safetensors.torch import load, save
from torch import Tensor

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.functional import checkpointing
from metalearn_cli.core.items import joined, size
from metalearn_cli.core.learning import score, task_loss
from metalearn_cli.core.network import HEAD, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Algorithm, Episode, EpisodeOutput, Traits
from metalearn_cli.engine.episodes import Learner, answered, fitted, trained
from metalearn_cli.stages.learner import fresh_learner

WAY, OUTPUTS, SHOT, QUERY = 3, 2, 2, 4
TASKS = 10  # that scores are measured on
VECTOR, IMAGE, POINT = (6,), (1, 16, 16), (1,)


class Case(NamedTuple):
    """A learner on a small network in float64, whose head is not zero, and the tasks that it is to learn."""

    learner: Learner
    shape: tuple[int, ...]
    numbers: bool

    def tasks(self, step: int, count: int) -> Episode:
        """Return the `count` tasks of a step, stacked."""
        with seeded(0, "tasks", step):
            return (_curves if self.numbers else _clusters)(self.shape, count)

    @property
    def one(self) -> Episode:
        """One task."""
        return self.tasks(0, 1).map(lambda part: part[0])


def case_of(algorithm: Algorithm, target: str = "classes", images: bool = False) -> Case:
    """Return the case of a learner and what it is to learn."""
    traits, numbers = algorithm.traits, target == "numbers"
    images = images or traits.sees == "maps"
    shape = IMAGE if images else POINT if numbers else VECTOR
    way = OUTPUTS if numbers else WAY
    with seeded(0, "network"):
        backbone = Conv4(shape, hidden=4) if images else Mlp(shape, hidden=8)
        net = network(backbone, way if traits.head else None)
        drawn = {n: p + 0.3 * torch.randn_like(p) if n.startswith(HEAD) else p for n, p in net.params.items()}
    learner = fresh_learner(algorithm, net._replace(params=drawn), way, "inductive", seed=0)
    learner = learner.of({n: t.detach().double().requires_grad_() for n, t in learner.tensors.items()})
    return Case(learner, shape, numbers)


def _clusters(shape: tuple[int, ...], count: int) -> Episode:
    """Return tasks of telling clusters apart."""
    centres = 2 * torch.randn(count, WAY, *shape, dtype=torch.float64)
    support_y = torch.stack([torch.randperm(WAY * SHOT) % WAY for _ in range(count)])
    query_y = (torch.arange(WAY * QUERY) % WAY).repeat(count, 1)
    labels = torch.cat([support_y, query_y], dim=1)
    x = torch.stack([c[y] for c, y in zip(centres, labels, strict=True)])
    x = x + 0.5 * torch.randn_like(x)
    return Episode(x[:, : WAY * SHOT], support_y, x[:, WAY * SHOT :], query_y)


def _curves(shape: tuple[int, ...], count: int) -> Episode:
    """Return tasks of predicting sine and cosine, of some amplitude and phase, of an item's mean."""
    x = torch.randn(count, 22, *shape, dtype=torch.float64)
    amplitude, phase = 1 + torch.rand(count, 1, dtype=torch.float64), torch.rand(count, 1, dtype=torch.float64)
    at = x.flatten(2).mean(2) - phase
    y = torch.stack([amplitude * at.sin(), amplitude * at.cos()], dim=2)
    return Episode(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])


LEARNERS = built("algorithm")
CASES = {f"{name} {target}": (a, target) for name, a in LEARNERS.items() for target in sorted(a.traits.targets)}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(*CASES[request.param])


def of_those(where: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Have a test run over the cases of those learners alone."""

    def mark(test: Any) -> Any:
        test.where = where
        # numbers are another loss on the same path where a learner takes classes, too
        names = [
            pytest.param(
                name, marks=[pytest.mark.slow] * (target == "numbers" and "classes" in algorithm.traits.targets)
            )
            for name, (algorithm, target) in CASES.items()
            if where(algorithm)
        ]
        return pytest.mark.parametrize("case", names, indirect=True)(test)

    return mark


every = of_those(lambda algorithm: True)
learning = of_those(lambda algorithm: algorithm.traits.learns)


def answers(learner: Learner, episode: Episode) -> Tensor:
    return answered(learner, episode.support_x, episode.support_y, episode.query_x)


def gradients(learner: Learner, episode: Episode) -> dict[str, Tensor]:
    """Return the gradient of what is trained, by all tensors of network and learner."""
    tensors = learner.tensors
    found = torch.autograd.grad(trained(learner, episode).loss, list(tensors.values()), materialize_grads=True)
    return dict(zip(tensors, found, strict=True))


def seen(learner: Learner, episode: Episode) -> tuple[Any, Any]:
    """Return support and query items as the learner sees them, under the inductive protocol."""
    net, sees, x = learner.net, learner.algorithm.traits.sees, (episode.support_x, episode.query_x)
    if sees == "items":
        return x
    run, n = {"features": net.features, "maps": net.maps}[sees], size(episode.support_x)
    found = run(net.params, joined(x), reference=n)
    return found[:n], found[n:]


@pytest.mark.parametrize("name", params("algorithm"))
def test_every_learner_is_found(name: str) -> None:
    assert name in LEARNERS


@every
def test_traits_are_of_their_types(case: Case) -> None:
    traits = case.learner.algorithm.traits
    assert isinstance(traits, Traits)
    assert traits.sees in ("items", "features", "maps")
    assert isinstance(traits.targets, frozenset) and {"classes", "numbers"} >= traits.targets > set()
    others = traits._replace(sees=True, targets=True)  # type: ignore[arg-type]
    assert all(isinstance(value, bool) for value in others)


@every
def test_own_tensors_are_a_function_of_the_seed(case: Case) -> None:
    learner = case.learner
    drawn = []
    for state in range(2):
        with seeded(state, "whatever happened before"):
            drawn.append(fresh_learner(learner.algorithm, learner.net, learner.way, None, seed=0).own)
    assert drawn[0].keys() == drawn[1].keys() == learner.own.keys()
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())


@of_those(lambda algorithm: hasattr(algorithm, "rates"))
def test_rates_are_those_of_own_tensors(case: Case) -> None:
    rates = case.learner.algorithm.rates(case.learner.own)  # type: ignore[attr-defined]
    assert rates.keys() <= case.learner.own.keys()
    assert all(isinstance(rate, float) and rate > 0 for rate in rates.values())


@every
def test_answers_have_one_number_per_query_and_way(case: Case) -> None:
    episode = case.one
    output = trained(case.learner, episode)
    assert output.loss.shape == ()
    assert output.logits.shape == answers(case.learner, episode).shape == (size(episode.query_x), case.learner.way)
    assert torch.isfinite(output.loss) and torch.isfinite(output.logits).all()


@every
def test_is_pure(case: Case) -> None:
    learner, episode = case.learner, case.one
    given = {**learner.tensors, **episode._asdict()}
    before = {name: tensor.detach().clone() for name, tensor in given.items()}
    outputs = [(*trained(learner, episode), answers(learner, episode)) for _ in range(2)]
    assert all(map(torch.equal, *outputs))
    assert [name for name, tensor in before.items() if not torch.equal(tensor, given[name])] == []


@every
def test_answers_do_not_depend_on_query_labels(case: Case) -> None:
    """Scoring hands no labels over; what is trained has them, and keeps them out of its answers and of later ones."""
    episode = case.one
    y = episode.query_y
    labels = (y, -y if case.numbers else (y + 1) % WAY)
    found = []
    for query_y in labels:
        found.append((trained(case.learner, episode._replace(query_y=query_y)).logits, answers(case.learner, episode)))
    assert all(map(torch.equal, *found))


@every
def test_the_state_is_all_that_answers_depend_on(case: Case) -> None:
    """It is saved and loaded, and another task is adapted to in between."""
    learner, episode, other = case.learner, case.one, case.tasks(1, 1).map(lambda part: part[0])
    algorithm, net, own, way = learner.algorithm, learner.net, learner.own, learner.way
    support_x, query_x = seen(learner, episode)
    state = algorithm.adapt(net, own, support_x, episode.support_y, way)
    loaded = load(save({name: tensor.detach().contiguous() for name, tensor in state.items()}))
    algorithm.adapt(net, own, seen(learner, other)[0], other.support_y, way)
    found = algorithm.predict(net, own, loaded, query_x)
    torch.testing.assert_close(found, answers(learner, episode))


@every
def test_a_fit_has_the_answers_those_of_the_head_before_and_their_spread(case: Case) -> None:
    learner, episode = case.learner, case.one
    fit = fitted(learner, episode.support_x, episode.support_y, episode.query_x)
    assert torch.equal(fit.after, answers(learner, episode))
    before = learner.net.output(learner.net.params, episode.query_x) if learner.algorithm.traits.head else None
    assert fit.before is before is None or torch.allclose(fit.before, before)
    assert (fit.spread is not None) == (case.numbers and hasattr(learner.algorithm, "spread"))
    if fit.spread is not None:
        assert fit.spread.shape == fit.after.shape and (fit.spread > 0).all()


@of_those(lambda algorithm: algorithm.traits.batchable)
def test_vmap_over_tasks_equals_a_loop(case: Case) -> None:
    def one(episode: Episode) -> EpisodeOutput:
        return EpisodeOutput(trained(case.learner, episode).loss, answers(case.learner, episode))

    episodes = case.tasks(0, 2)
    batched = torch.func.vmap(one)(episodes)
    single = [one(episodes.map(lambda part, t=t: part[t])) for t in range(2)]  # type: ignore[misc]
    for found, expected in zip(batched, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(expected))


@every
def test_order_of_support_items_does_not_matter(case: Case) -> None:
    episode = case.one
    turned = episode._replace(support_x=episode.support_x.flip(0), support_y=episode.support_y.flip(0))
    torch.testing.assert_close(answers(case.learner, turned), answers(case.learner, episode), rtol=1e-5, atol=1e-6)


@of_those(lambda algorithm: "classes" in algorithm.traits.targets)
def test_renaming_classes_renames_answers(case: Case) -> None:
    if case.numbers:
        return
    learner, episode = case.learner, case.one
    names = torch.tensor([2, 0, 1])
    renamed = episode._replace(support_y=names[episode.support_y], query_y=names[episode.query_y])
    one, two = trained(learner, episode), trained(_renamed(case, names), renamed)
    torch.testing.assert_close(two.logits[:, names], one.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-5, atol=1e-6)


def _renamed(case: Case, names: Tensor) -> Learner:
    """Return a learner whose tensors have their classes renamed."""
    learner, order = case.learner, names.argsort()
    heads = {n: torch.cat([p, p[:1]]) for n, p in learner.net.params.items() if n.startswith(HEAD)}
    wider = learner.net._replace(params=learner.net.params | heads)
    wider_own = fresh_learner(learner.algorithm, wider, WAY + 1, None, seed=0).own
    own = {}
    for name, tensor in fresh_learner(learner.algorithm, learner.net, WAY, None, seed=0).own.items():
        grown = [d for d, (n, more) in enumerate(zip(tensor.shape, wider_own[name].shape, strict=True)) if n != more]
        assert all(tensor.shape[d] == WAY for d in grown), f"{name} has a dimension that mixes classes with others"
        own[name] = learner.own[name]
        for d in grown:
            own[name] = own[name].index_select(d, order)
    head = {name: learner.net.params[name][order] for name in learner.net.head_names}
    return learner._replace(net=learner.net._replace(params=learner.net.params | head), own=own)


@every
def test_an_answer_depends_on_other_queries_where_the_traits_say_so(case: Case) -> None:
    """Under the inductive protocol, with a network that has batch statistics."""
    algorithm = case.learner.algorithm
    case = case_of(algorithm, "numbers" if case.numbers else "classes", images=True)
    episode = case.one
    with torch.no_grad():
        together = answers(case.learner, episode)[:3]
        alone = [answers(case.learner, episode._replace(query_x=x[None])) for x in episode.query_x[:3]]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-6, atol=1e-6) is not algorithm.traits.uses_queries


@of_those(lambda algorithm: algorithm.traits.learns and not algorithm.traits.surrogate)
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    episode, step = case.one, 1e-6
    for progress in (0.0, 0.5, 1.0) if hasattr(case.learner.algorithm, "at") else (1.0,):
        learner = case.learner.at(progress)
        found = gradients(learner, episode)
        for name, tensor in learner.tensors.items():
            with seeded(1, name):
                direction = torch.randn_like(tensor)
            moved = [learner.of(learner.tensors | {name: tensor.detach() + s * step * direction}) for s in (1, -1)]
            ends = [trained(there, episode).loss.item() for there in moved]
            slope = (found[name] * direction).sum().item()
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8), name


@of_those(lambda algorithm: algorithm.traits.surrogate)
def test_a_gradient_of_another_kind_descends(case: Case) -> None:
    """It is finite and not zero, and a small step against it makes the tasks' queries easier after adaptation."""
    episodes = [case.tasks(0, 4).map(lambda part, t=t: part[t]) for t in range(4)]  # type: ignore[misc]
    found = [gradients(case.learner, episode) for episode in episodes]
    mean = {name: torch.stack([g[name] for g in found]).mean(0) for name in found[0]}
    norm = torch.stack([g.square().sum() for g in mean.values()]).sum().sqrt()
    assert torch.isfinite(norm) and norm > 1e-6
    stepped = case.learner.of({name: t.detach() - 1e-3 / norm * mean[name] for name, t in case.learner.tensors.items()})

    def loss(learner: Learner) -> float:
        return sum(task_loss(answers(learner, e), e.query_y).item() for e in episodes)

    assert loss(stepped) < loss(case.learner)


@learning
def test_gradient_checkpointing_changes_no_gradient(case: Case) -> None:
    expected = gradients(case.learner, case.one)
    before = checkpointing.set(True)
    try:
        found = gradients(case.learner, case.one)
    finally:
        checkpointing.reset(before)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@every
def test_answers_need_no_graph(case: Case) -> None:
    with torch.no_grad():
        found = answers(case.learner, case.one)
    assert not found.requires_grad
    torch.testing.assert_close(found, answers(case.learner, case.one).detach())


@of_those(lambda algorithm: hasattr(algorithm, "at"))
def test_changes_with_progress_and_leaves_itself_as_it_is(case: Case) -> None:
    episode = case.one
    before = trained(case.learner, episode).loss
    losses = [trained(case.learner.at(progress), episode).loss for progress in (0.0, 0.5, 1.0)]
    assert all(map(torch.isfinite, losses))
    assert len({loss.item() for loss in losses}) > 1
    assert torch.equal(trained(case.learner, episode).loss, before)
    assert torch.isfinite(answers(case.learner.at(1.0), episode)).all()


def measured(case: Case, learner: Learner) -> tuple[float, float]:
    """Return the loss and the score on tasks that nothing was trained on."""
    losses, scores = [], []
    with torch.no_grad():
        for t in range(TASKS):
            episode = case.tasks(1000 + t, 1).map(lambda part: part[0])
            found = answers(learner, episode)
            losses.append(task_loss(found, episode.query_y).item())
            scores.append(score(found, episode.query_y).item())
    return sum(losses) / TASKS, sum(scores) / TASKS


@learning
@pytest.mark.medium
def test_learns(case: Case) -> None:
    """After 30 steps, from a head of zeros as always, it is better than before on new tasks, and than chance."""
    heads = case.learner.net.head_names
    start = {n: torch.zeros_like(t) if n in heads else t.detach().clone() for n, t in case.learner.tensors.items()}
    tensors = {name: tensor.requires_grad_() for name, tensor in start.items()}
    learner = case.learner.of(tensors)
    before = measured(case, learner.at(1.0))
    optimizer = torch.optim.Adam(list(tensors.values()), lr=0.02)
    for step in range(30):
        optimizer.zero_grad()
        now, episodes = learner.of(tensors).at(step / 30), case.tasks(step, 3)
        for t in range(3):
            (trained(now, episodes.map(lambda part, t=t: part[t])).loss / 3).backward()  # type: ignore[misc]
        optimizer.step()
    after = measured(case, learner.of(tensors).at(1.0))
    if case.numbers:
        assert after[0] < 0.9 * before[0]
    else:
        assert after[0] < before[0] or after[1] > before[1]
        assert after[1] > 0.5  # chance is 1/3


@of_those(lambda algorithm: not algorithm.traits.learns)
def test_what_learns_nothing_before_does_better_than_chance(case: Case) -> None:
    loss, found = measured(case, case.learner)
    if not case.numbers:
        assert found > 0.5
        return
    episodes = [case.tasks(1000 + t, 1).map(lambda part: part[0]) for t in range(TASKS)]
    constant = sum((e.query_y - e.support_y.mean(0)).square().mean().item() for e in episodes) / TASKS
    assert loss < constant

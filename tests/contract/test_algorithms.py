"""What every algorithm must be: a pure, batchable, label-symmetric function of an episode.

The algorithms are found by listing configs/algorithm, so that a new one is tested by being there.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.backbones.common.network import Network
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode, EpisodeOutput

FOLDER = Path(__file__).parents[2] / "configs" / "algorithm"
WAY, SHOT, QUERY, FEATURES = 3, 2, 4, 6


def load(name: str) -> dict:
    """Return an algorithm's settings, with those it inherits."""
    config = OmegaConf.load(FOLDER / f"{name}.yaml")
    parents = [p for p in config.pop("defaults", []) if p != "_self_"]
    return {k: v for parent in parents for k, v in load(parent).items()} | OmegaConf.to_container(config)


NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
LEARNING = [name for name in NAMES if build(load(name), "algorithm").learns]
DIFFERENTIABLE = [name for name in LEARNING if not load(name).get("first_order")]  # FOMAML's gradient is no gradient


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> SimpleNamespace:
    """An algorithm with a small network in float64 and two episodes."""
    algorithm = build(load(request.param), "algorithm")
    with seeded(0, request.param):
        network = Network(Mlp((FEATURES,), hidden=5), WAY if algorithm.needs_head else None).double()
        centres = 2 * torch.randn(2, WAY, FEATURES, dtype=torch.float64)
        support_y = torch.stack([torch.randperm(WAY * SHOT) % WAY for _ in range(2)])
        query_y = (torch.arange(WAY * QUERY) % WAY).expand(2, -1)
        noise = torch.randn(2, WAY * (SHOT + QUERY), FEATURES, dtype=torch.float64)
    labels = torch.cat([support_y, query_y], dim=1)
    x = torch.stack([c[y] for c, y in zip(centres, labels, strict=True)]) + 0.5 * noise
    apply, params = pure(network)
    episodes = Episode(x[:, : WAY * SHOT], support_y, x[:, WAY * SHOT :], query_y)
    return SimpleNamespace(algorithm=algorithm, apply=apply, params=algorithm.init(params), episodes=episodes)


def run(case: SimpleNamespace, episode: Episode, params: dict[str, Tensor] | None = None) -> EpisodeOutput:
    return case.algorithm(case.apply, params or case.params, episode, way=WAY)


def first(case: SimpleNamespace) -> Episode:
    return Episode(*(part[0] for part in case.episodes))


def test_output_has_a_scalar_loss_and_one_logit_per_query_and_way(case: SimpleNamespace) -> None:
    output = run(case, first(case))
    assert output.loss.shape == ()
    assert output.logits.shape == (WAY * QUERY, WAY)
    assert torch.isfinite(output.loss) and torch.isfinite(output.logits).all()


def test_is_pure(case: SimpleNamespace) -> None:
    before = {name: p.detach().clone() for name, p in case.params.items()}
    one, two = run(case, first(case)), run(case, first(case))
    assert torch.equal(one.logits, two.logits)
    assert all(torch.equal(before[name], p) for name, p in case.params.items())


def test_vmap_over_tasks_equals_a_loop(case: SimpleNamespace) -> None:
    def one(params: dict[str, Tensor], episode: Episode) -> EpisodeOutput:
        return case.algorithm(case.apply, params, episode, way=WAY)

    batched = torch.func.vmap(one, in_dims=(None, 0), randomness="different")(case.params, case.episodes)
    for task in range(2):
        single = run(case, Episode(*(part[task] for part in case.episodes)))
        torch.testing.assert_close(batched.loss[task], single.loss)
        torch.testing.assert_close(batched.logits[task], single.logits)


def test_order_of_support_items_does_not_matter(case: SimpleNamespace) -> None:
    episode = first(case)
    order = torch.arange(WAY * SHOT).flip(0)
    turned = episode._replace(support_x=episode.support_x[order], support_y=episode.support_y[order])
    torch.testing.assert_close(run(case, turned).logits, run(case, episode).logits)


def test_renaming_classes_renames_answers(case: SimpleNamespace) -> None:
    episode = first(case)
    names = torch.tensor([2, 0, 1])
    renamed = episode._replace(support_y=names[episode.support_y], query_y=names[episode.query_y])
    params = dict(case.params)
    if case.algorithm.needs_head:  # the head's outputs belong to the names, so they are renamed with them
        for name in ("head.weight", "head.bias"):
            params[name] = params[name][names.argsort()]
    one, two = run(case, episode), run(case, renamed, params)
    torch.testing.assert_close(two.logits[:, names], one.logits)
    torch.testing.assert_close(two.loss, one.loss)


@pytest.mark.parametrize("case", [name for name in NAMES if name not in ("maml", "fomaml")], indirect=True)
def test_does_better_than_chance_untrained(case: SimpleNamespace) -> None:
    episodes = [Episode(*(part[task] for part in case.episodes)) for task in range(2)]
    hits = [(run(case, e).logits.argmax(-1) == e.query_y).double().mean().item() for e in episodes]
    assert sum(hits) / 2 > 0.6  # chance is 1/3; MAML, whose one step counts only once trained, is tested below


@pytest.mark.parametrize("case", DIFFERENTIABLE, indirect=True)
def test_gradient_is_that_of_finite_differences(case: SimpleNamespace) -> None:
    episode = first(case)
    loss = run(case, episode).loss
    gradients = dict(zip(case.params, torch.autograd.grad(loss, list(case.params.values())), strict=True))
    for name, p in case.params.items():
        with seeded(1, name):
            direction = torch.randn_like(p)
        step = 1e-6
        ends = [run(case, episode, case.params | {name: p.detach() + s * step * direction}).loss for s in (1, -1)]
        expected = (ends[0] - ends[1]).item() / (2 * step)
        assert (gradients[name] * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("case", sorted(set(NAMES) - set(LEARNING)), indirect=True)
def test_floors_run_without_a_graph(case: SimpleNamespace) -> None:
    with torch.no_grad():
        assert not run(case, first(case)).loss.requires_grad


@pytest.mark.parametrize("case", LEARNING, indirect=True)
def test_meta_training_lowers_the_loss(case: SimpleNamespace) -> None:
    optimizer = torch.optim.Adam(list(case.params.values()), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.stack([run(case, Episode(*(p[t] for p in case.episodes))).loss for t in range(2)]).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import Split
from metalearn_cli.data.common.varying import VaryingSampler, _shots


def data(counts: tuple[int, ...], groups: tuple[int, ...] = ()) -> Dataset:
    """Items that know where they are: [class, position]; classes are in groups of these sizes."""
    items = torch.tensor([[k, i] for k, count in enumerate(counts) for i in range(count)], dtype=torch.float32)
    names = [f"{g}/{k}" for g, size in enumerate(groups) for k in range(size)] or list(map(str, range(len(counts))))
    return Dataset.of("marked", "by hand", {"test": Split(items, torch.tensor(counts), tuple(names))}, "vector")


RAGGED = tuple(4 + 3 * k for k in range(30)) + (400,) * 40


def test_an_episode_has_the_items_that_it_says() -> None:
    sampler = VaryingSampler(data(RAGGED), "test", seed=0)
    names, shots = sampler.classes(20), sampler.shots(20)
    for step in range(20):
        episode = sampler.batch(step, 1)
        support, query = episode.support_x[0], episode.query_x[0]
        rows = [tuple(row) for row in torch.cat([support, query]).tolist()]
        assert len(set(rows)) == len(rows)  # without replacement, and support and query share nothing
        way = len(names[step])
        assert episode.support_y[0].bincount().tolist() == list(shots[step])
        labels = torch.cat([episode.support_y[0], episode.query_y[0]]).tolist()
        assert {(label, int(k)) for (k, _), label in zip(rows, labels, strict=True)} == {
            (label, int(name)) for label, name in enumerate(names[step])
        }
        counts = [RAGGED[int(name)] for name in names[step]]
        assert episode.query_y[0].bincount().tolist() == [min(10, min(counts) // 2)] * way
        assert episode.query_y[0].tolist() != sorted(episode.query_y[0].tolist())


@pytest.mark.medium
def test_way_and_shots_have_the_bounds_of_the_rule() -> None:
    sampler = VaryingSampler(data(RAGGED), "test", seed=1)
    shots, names = sampler.shots(200), sampler.classes(200)
    ways = torch.tensor([len(own) for own in shots])
    assert sampler.varying == {"way": [5, 50], "support": 500, "counted": 100, "query": 10}
    assert ways.min() == 5 and ways.max() == 50 and abs(ways.double().mean() - 27.5) < 3
    assert max(map(sum, shots)) <= 500 + 50 and min(map(min, shots)) == 1  # rounding adds less than one for each class
    for own, classes in zip(shots, names, strict=True):
        counts = [RAGGED[int(name)] for name in classes]
        query = min(10, min(counts) // 2)
        assert all(shot <= count - query for shot, count in zip(own, counts, strict=True))


@pytest.mark.parametrize("counts", [(20,) * 5, (4, 9, 400, 30, 7, 120), (400,) * 40])
def test_shots_are_those_of_the_papers_formulas(counts: tuple[int, ...]) -> None:
    query = min(10, math.floor(0.5 * min(counts)))
    left = [n - query for n in counts]
    for seed in range(20):
        shots = _shots(torch.tensor(counts), torch.tensor(left), torch.Generator().manual_seed(seed))
        source = torch.Generator().manual_seed(seed)
        beta = 1 - torch.rand((), dtype=torch.float64, generator=source).item()
        drawn = torch.rand(len(counts), dtype=torch.float64, generator=source).tolist()
        size = min(500, sum(math.ceil(beta * min(100, n)) for n in left))
        alpha = [math.log(0.5) + u * (math.log(2) - math.log(0.5)) for u in drawn]
        total = sum(math.exp(a) * n for a, n in zip(alpha, counts, strict=True))
        shares = [math.exp(a) * n / total for a, n in zip(alpha, counts, strict=True)]
        expected = [min(math.floor(r * (size - len(counts))) + 1, n) for r, n in zip(shares, left, strict=True)]
        assert shots.tolist() == expected


@pytest.mark.medium
def test_episodes_are_a_function_of_seed_and_step() -> None:
    one, same, other = (VaryingSampler(data(RAGGED), "test", seed=s) for s in (3, 3, 4))
    assert one.hash(5) == same.hash(5) != other.hash(5)
    assert torch.equal(one.batch(4, 1).support_x, same.batch(4, 1).support_x)
    assert one.hash(5) != VaryingSampler(replace(data(RAGGED), fingerprint="other"), "test", seed=3).hash(5)


def test_episodes_within_groups_and_of_few_classes() -> None:
    within = data((6,) * 12, groups=(3, 7, 2)).within_groups("groups")
    sampler = VaryingSampler(within, "test", seed=0)
    assert sampler.varying["way"] == [5, 7] == [5, sampler.way]
    assert {name[0] for names in sampler.classes(30) for name in names} == {"1"}
    assert VaryingSampler(data((6,) * 3), "test", seed=0).varying["way"] == [3, 3]


@pytest.mark.parametrize(("found", "told"), [
    (data((6,)), "an episode needs 2 classes, and marked/test has 1"),
    (data((6, 1, 6)), "a class of marked/test has only 1 item"),
    (replace(data((2, 2)), fixed={"test": EpisodeShape(2, 1, 1)}), "marked/test has a list of fixed episodes"),
])  # fmt: skip
def test_what_cannot_vary(found: Dataset, told: str) -> None:
    with pytest.raises(ConfigError, match=f"varying: {told}"):
        VaryingSampler(found, "test", seed=0)

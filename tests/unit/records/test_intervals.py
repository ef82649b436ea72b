"""95 % intervals: by hand, against scipy's t, and how often they hold what they should."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from metalearn_cli.records.intervals import Spread, holm, over_classes, over_episodes, over_items, over_trainings
from metalearn_cli.records.student import student_t
from metalearn_cli.stages.scores import mean_of

WAY = 5


@pytest.mark.parametrize("freedom", [1, 1.37, 2, 4, 19, 111, 999, 9999.5, 1e6])
def test_student_is_that_of_scipy(freedom: float) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-5)


@pytest.mark.parametrize("freedom", [1, 1.37, 4, 111, 9999.5, 1e6])
@pytest.mark.parametrize("mean", [0.0, 0.3, -1.2, 2.5, 40.0])
def test_the_chance_of_a_mean_is_that_of_scipy(freedom: float, mean: float) -> None:
    expected = 2 * stats.t.sf(abs(mean) / 0.5, freedom)
    assert Spread(0.5, freedom).chance(mean) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_the_interval_holds_0_exactly_if_the_chance_is_above_5_percent() -> None:
    spread = Spread(0.5, 3.7)
    assert spread.chance(spread.half) == pytest.approx(0.05, rel=1e-4)


def test_without_spread_only_0_is_0() -> None:
    assert [Spread(0.0, 1.0).chance(mean) for mean in (0.0, 1e-9)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("chances", "adjusted"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.02, 0.04], [0.03, 0.04, 0.04]),
        ([0.9, 0.02, 0.6], [1.0, 0.06, 1.0]),
        ([0.03, 0.01, 0.011], [0.03, 0.03, 0.03]),
    ],
)
def test_chances_are_adjusted_as_holm_does(chances: list[float], adjusted: list[float]) -> None:
    assert holm(chances) == pytest.approx(adjusted)


def test_over_episodes_by_hand() -> None:
    deviation = math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2)  # of the mean 0.5, with n - 1
    assert over_episodes(torch.tensor([0.2, 0.4, 0.9])) == pytest.approx(4.3027 * deviation / math.sqrt(3), rel=1e-4)
    assert over_episodes(torch.full((5,), 0.25)) == 0
    large = torch.tensor([1e8, 1e8 + 8])
    assert over_episodes(large) == pytest.approx(12.7062 * math.sqrt(32) / math.sqrt(2), rel=1e-5)


def test_over_classes_by_hand() -> None:
    """Four classes, every pair of them once."""
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    scores = [0.1, 0.3, 0.2, 0.7, 0.5, 0.9]
    mean = sum(scores) / 6
    moved, chance = [], 0.0
    for name in "abcd":
        left = [score for score, pair in zip(scores, pairs, strict=True) if name not in pair]
        moved.append(sum(left) / len(left))
        for score, pair in zip(scores, pairs, strict=True):
            chance += ((score - mean) * ((name not in pair) / len(left) - 1 / 6)) ** 2
    centre = sum(moved) / 4
    jackknife = 3 / 4 * (sum((m - centre) ** 2 for m in moved) - chance)
    variance = max(jackknife, 0) + sum((score - mean) ** 2 for score in scores) / 5 / 6
    assert jackknife > 0
    assert over_classes(torch.tensor(scores), pairs) == pytest.approx(3.1824 * math.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("episodes", [[("a", "b")] * 6, [("a", "b")] * 5 + [("b", "c")], [("a", "a")] * 6])
def test_over_classes_that_the_episodes_do_not_tell(episodes: list[tuple[str, ...]]) -> None:
    assert over_classes(torch.arange(6) / 6, episodes) is None


def test_over_trainings_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.6], [0.3, 0.9, 0.6]])
    # means of rows 0.4, 0.6; of columns 0.2, 0.7, 0.6; of all 0.5; rest +-(0, -0.1, 0.1)
    by_training, by_episode, rest = 3 * 0.02, 2 * 0.07, 0.04 / 2
    variance = (by_training + by_episode - rest) / 6
    freedom = (6 * variance) ** 2 / (by_training**2 / 1 + by_episode**2 / 2 + rest**2 / 2)
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert over_trainings(scores) == pytest.approx(expected, rel=1e-5)
    assert over_trainings(torch.full((3, 4), 0.5)) == 0


def drawn(source: torch.Generator, episodes: int, classes: int) -> tuple[Tensor, list[tuple[str, ...]]]:
    """Return classes of episodes, as indices and as names."""
    chosen = torch.rand(episodes, classes, generator=source).topk(WAY).indices
    return chosen, [tuple(str(k) for k in row) for row in chosen.tolist()]


def coverage(times: int) -> dict[str, float]:
    """Return how often each interval held the truth, of learners whose score depends on classes, episodes and seed."""
    source = torch.Generator().manual_seed(0)
    held = dict.fromkeys(["episodes", "episodes, for other classes", "classes", "no effect of classes", "trainings"], 0)
    for _ in range(times):
        chosen, names = drawn(source, 400, 60)
        ease = 0.1 * torch.randn(60, generator=source)
        chance = 0.07 * torch.randn(400, generator=source)
        scores = ease[chosen].mean(1) + chance
        held["episodes"] += abs(chance.mean()) < over_episodes(chance)
        held["episodes, for other classes"] += abs(scores.mean()) < over_episodes(scores)
        held["classes"] += abs(scores.mean()) < over_classes(scores, names)
        held["no effect of classes"] += abs(chance.mean()) < over_classes(chance, names)
        trained = 0.01 * torch.randn(4, 1, generator=source)
        crossed = trained + chance + 0.03 * torch.randn(4, 400, generator=source)
        held["trainings"] += abs(crossed.mean()) < over_trainings(crossed)
    return {name: int(count) / times for name, count in held.items()}


@pytest.mark.parametrize(
    ("times", "least", "most"), [(150, 0.89, 0.99), pytest.param(2000, 0.93, 0.975, marks=pytest.mark.slow)]
)
@pytest.mark.medium
def test_coverage(times: int, least: float, most: float) -> None:
    """Each interval holds the truth of what it is over as often as it says; that over episodes does no more."""
    found = coverage(times)
    print({name: f"{100 * share:.1f} %" for name, share in found.items()})
    assert found.pop("episodes, for other classes") < 0.7
    assert all(least < share < most for share in found.values()), found


def test_folds_have_classes_of_their_own_and_variances_that_add():
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = [(f"c{e % 6}", f"c{(e + 1 + e // 6) % 6}") for e in range(60)]
    other = [tuple(f"other {name}" for name in episode) for episode in classes]
    one = over_classes(scores, classes)
    both = over_classes(torch.cat([scores, scores + 9]), [*classes, *other], folds=2)  # folds that differ in their mean
    assert both == pytest.approx(one / student_t(5) * student_t(10) / math.sqrt(2))
    assert over_classes(torch.cat([scores, scores]), [*classes, *[("a", "b")] * 60], folds=2) is None


@pytest.mark.parametrize("episodes", [10, 40, 400])
@pytest.mark.medium
def test_no_interval_is_narrower_than_that_over_episodes(episodes: int) -> None:
    source = torch.Generator().manual_seed(3)
    narrow = dict.fromkeys(["classes", "folds", "trainings"], 0)
    for _ in range(40):
        _, names = drawn(source, episodes, 60)
        scores = torch.rand(3, episodes, generator=source, dtype=torch.float64)  # neither class nor training matters
        for part, found in (
            ("classes", mean_of(scores[:1], names)["interval_classes"]),
            ("trainings", mean_of(scores, names)["interval_trainings"]),
        ):
            narrow[part] += found < mean_of(scores[:1] if part == "classes" else scores, names)["interval"]
        split = [*names, *[tuple(f"other {name}" for name in episode) for episode in names]]
        folded = mean_of(torch.cat([scores[:1], scores[1:2]], 1), split, folds=2)
        narrow["folds"] += folded["interval_classes"] < folded["interval"]
    assert narrow == {"classes": 0, "folds": 0, "trainings": 0}


def test_share_of_items():
    assert over_items([1.0] * 18) == pytest.approx(0.1201, abs=1e-4)  # by hand: 20 of 22
    assert over_items([1.0, 0.0, 1.0]) == pytest.approx(1.96 * (4 / 7 * 3 / 7 / 7) ** 0.5, abs=1e-4)
    assert over_items([1.0]) < 0.5

from __future__ import annotations

import math

import pytest
import torch

from metalearn_cli.core.errors import ConfigError
from metalearn_cli.data.common.curves import normal
from metalearn_cli.data.harmonic import harmonic


@pytest.mark.medium
def test_points_lie_on_two_waves_of_one_frequency_and_its_double() -> None:
    episode = harmonic().episodes("train", way=1, shot=10, query=30, seed=0).batch(3, 200)
    assert [part.shape for part in episode] == [(200, 10, 1), (200, 10, 1), (200, 30, 1), (200, 30, 1)]
    x = torch.cat([episode.support_x, episode.query_x], 1).double()
    y = torch.cat([episode.support_y, episode.query_y], 1).double()
    # for the right frequency, least squares on both waves with any phase leaves nothing
    left, best = torch.full((200,), math.inf).double(), torch.zeros(200, 4, 1).double()
    for frequency in torch.linspace(5, 7, 401):
        basis = torch.cat([wave(n * frequency * x) for n in (1, 2) for wave in (torch.sin, torch.cos)], -1)
        weights = torch.linalg.lstsq(basis, y).solution
        error = (basis @ weights - y).abs().amax((1, 2))
        best[error < left] = weights[error < left]
        left = torch.minimum(left, error)
    assert left.max() < 0.1 and left.median() < 0.01
    amplitudes = best.reshape(200, 2, 2).norm(dim=-1)
    # the size of a standard normal number: its square has the mean 1
    assert amplitudes.square().mean() == pytest.approx(1, abs=0.2)


def test_a_task_sees_a_part_of_the_line() -> None:
    x = harmonic().episodes("train", way=1, shot=10, query=90, seed=0).batch(0, 500).query_x[..., 0]
    middle = x.mean(1)
    assert -4.4 < middle.min() < -3.7 and 3.7 < middle.max() < 4.4
    assert (x - middle[:, None]).std().item() == pytest.approx(1, abs=0.02)


def test_normal_numbers_are_finite() -> None:
    x = normal(torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.linspace(0.0005, 0.9995, 1000)]))
    assert x.isfinite().all() and x.abs().max() < 6
    assert (x.mean().abs() < 0.01) and x[2:].std().item() == pytest.approx(1, abs=0.01)


def test_is_a_function_of_seed_split_and_step() -> None:
    def drawn(split: str = "train", seed: int = 0, step: int = 0, tasks: int = 4) -> torch.Tensor:
        return harmonic().episodes(split, way=1, shot=2, query=3, seed=seed).batch(step, tasks).query_y

    assert torch.equal(drawn(), drawn(tasks=30)[:4])
    for other in (drawn(split="test"), drawn(seed=1), drawn(step=1)):
        assert not torch.isclose(drawn(), other).any()


def test_names_itself_in_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="harmonic is regression, without classes; way must be 1, got 5"):
        harmonic().episodes("train", way=5, shot=1, query=1, seed=0)

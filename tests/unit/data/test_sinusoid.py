from __future__ import annotations

import math

import pytest
import torch

from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.data.sinusoid import sinusoid


def test_support_and_query_lie_on_one_sine_per_task() -> None:
    episode = sinusoid().episodes("train", way=1, shot=10, query=15, seed=0).batch(3, 200)
    assert [part.shape for part in episode] == [(200, 10, 1), (200, 10, 1), (200, 15, 1), (200, 15, 1)]
    x, y = torch.cat([episode.support_x, episode.query_x], 1), torch.cat([episode.support_y, episode.query_y], 1)
    # a sine with a phase is a combination of sin and cos: least squares on both must leave nothing
    basis = torch.cat([x.sin(), x.cos()], -1).double()
    weights = torch.linalg.lstsq(basis, y.double()).solution
    assert (basis @ weights - y).abs().max() < 1e-5
    amplitude = weights.norm(dim=1).flatten()
    phase = torch.atan2(-weights[:, 1], weights[:, 0]).flatten()
    assert 0.1 <= amplitude.min() < 0.5 and 4.5 < amplitude.max() <= 5
    assert -1e-4 <= phase.min() < 0.2 and math.pi - 0.2 < phase.max() <= math.pi + 1e-4
    assert -5 <= x.min() < -4.9 and 4.9 < x.max() <= 5


def test_is_a_function_of_seed_split_and_step() -> None:
    def drawn(split: str = "train", seed: int = 0, step: int = 0) -> torch.Tensor:
        return sinusoid().episodes(split, way=1, shot=2, query=3, seed=seed).batch(step, 4).query_y

    assert torch.equal(drawn(), drawn())
    for other in (drawn(split="test"), drawn(seed=1), drawn(step=1)):
        assert not torch.isclose(drawn(), other).any()
    sampler = sinusoid().episodes("train", way=1, shot=2, query=3, seed=0)
    assert torch.equal(sampler.batch(0, 2).query_y, sampler.batch(0, 5).query_y[:2])


def test_hash_names_the_episodes() -> None:
    def hash_of(split: str = "test", shot: int = 5, episodes: int = 10) -> str:
        return sinusoid().episodes(split, way=1, shot=shot, query=5, seed=0).hash(episodes)

    assert hash_of() == hash_of()
    assert len({hash_of(), hash_of("val"), hash_of(shot=6), hash_of(episodes=11)}) == 4


def test_the_numbers_stay_what_they_were() -> None:
    # see test_the_hash_stays_what_it_was of data sets with classes
    sampler = sinusoid().episodes("test", way=1, shot=2, query=1, seed=0)
    assert sampler.hash(5) == "7470ff335c637f6d3bedb44d6cf2d4997e625885adc5776872b107617f587bf4"
    assert sampler.batch(3, 1).support_y.flatten().tolist() == pytest.approx([2.795882225036621, 2.84879207611084])


def test_says_that_it_is_regression() -> None:
    data = sinusoid()
    assert data.facts.regression and data.episodes("val", 1, 1, 1, 0).regression
    assert data.facts.shape == (1,)


def test_refuses_classes_and_unknown_splits() -> None:
    with pytest.raises(ConfigError) as error:
        sinusoid().episodes("train", way=5, shot=0, query=1, seed=0)
    assert [p.key for p in error.value.problems] == ["shot", "way"]
    with pytest.raises(UserError, match="no split 'dev'"):
        sinusoid().episodes("dev", way=1, shot=1, query=1, seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_draws_the_same() -> None:
    here = sinusoid().episodes("val", 1, 5, 5, 0)
    there = sinusoid().to("cuda").episodes("val", 1, 5, 5, 0)
    assert there.batch(0, 2).query_x.is_cuda
    assert torch.allclose(there.batch(0, 2).query_y.cpu(), here.batch(0, 2).query_y, atol=1e-5)
    assert there.hash(3) == here.hash(3)

import pytest
import torch

from metalearn_cli.core.random import derive_seed, seed_torch, seeded


@pytest.mark.parametrize("there", [False, True])
def test_draws_are_those_of_torchs_own_seed(monkeypatch, there):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    torch.manual_seed(3)
    expected = torch.rand(4)
    seed_torch(3)
    assert torch.equal(torch.rand(4), expected)


def test_seeds_accelerators_where_there_are_some(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for there in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=there: there)
        seed_torch(5)
    assert seeds == [5]


def test_a_block_draws_by_its_parts_alone_and_leaves_the_generator_as_it_was():
    before, found = torch.get_rng_state(), []
    for parts in ((1, "a"), (1, "a"), (1, "b")):
        with seeded(*parts):
            found.append(torch.rand(4))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert derive_seed(1, "a") != derive_seed("1a")

"""An optimizer that is divided among ranks takes the steps of one that is not; here all ranks are in one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn_cli.engine.shards import Shards

SIZES = (3, 50, 7, 40, 1)


@dataclass(frozen=True)
class Rank:
    """A rank whose messages are read from a list that all ranks share."""

    rank: int
    world: int
    said: list[dict[str, Any]] = field(default_factory=list)

    def sent(self, tensors: list[Tensor], by: int) -> list[Tensor]:
        """Return what the rank `by` has of the same tensors."""
        theirs = self.said[by]["params"]
        return [theirs[index] for index in (self.said[self.rank]["names"][id(t)] for t in tensors)]

    def collected(self, own: Any) -> list[Any]:
        """Return the state of all ranks."""
        self.said[self.rank]["state"] = own
        return [words["state"] for words in self.said]


def optimizer(kind: type[torch.optim.Optimizer]) -> tuple[list[Tensor], torch.optim.Optimizer]:
    params = [torch.arange(1.0, size + 1).requires_grad_() for size in SIZES]
    groups = [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.01}]
    return params, kind(groups, weight_decay=0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("world", [2, 3, 7])
def test_divided_steps_are_those_of_the_whole(kind: type[torch.optim.Optimizer], world: int) -> None:
    def gradients(params: list[Tensor], step: int) -> None:
        for p in params:
            p.grad = (p.detach() + step).sin()

    whole, undivided = optimizer(kind)
    said: list[dict[str, Any]] = [{} for _ in range(world)]
    ranks = [optimizer(kind) for _ in range(world)]
    for words, (params, _) in zip(said, ranks, strict=True):
        words |= {"params": params, "names": {id(p): index for index, p in enumerate(params)}}
    shards = [Shards(Rank(rank, world, said), made) for rank, (_, made) in enumerate(ranks)]  # type: ignore[arg-type]
    for step in range(3):
        gradients(whole, step)
        undivided.step()
        for (params, made), shard in zip(ranks, shards, strict=True):
            gradients(params, step)
            shard.drop()
            made.step()
        for shard in shards:
            shard.exchange()
        for params, _ in ranks:
            torch.testing.assert_close(params, whole, rtol=0, atol=0)
    kept = [sum(p.numel() for p in made.state) for _, made in ranks]
    assert sum(kept) == sum(SIZES) and max(kept) < sum(SIZES)
    for words, (_, made) in zip(said, ranks, strict=True):
        words["state"] = made.state_dict()["state"]
    torch.testing.assert_close(shards[0].state(), undivided.state_dict()["state"], rtol=0, atol=0)


def test_the_state_of_others_is_dropped() -> None:
    params, made = optimizer(torch.optim.Adam)
    for p in params:
        p.grad = torch.ones_like(p)
    made.step()
    Shards(Rank(0, 2), made)  # type: ignore[arg-type]
    assert {p.numel() for p in made.state} == {50, 1}

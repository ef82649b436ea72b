from __future__ import annotations

import pytest
from torch import nn

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import network
from metalearn_cli.methods.finetune import Finetune
from metalearn_cli.methods.linear_probe import LinearProbe

NET = network(Mlp((4,), hidden=2, layers=3), outputs=5)
HEAD = {"head.weight": 1.0, "head.bias": 1.0}


def block(number: int, rate: float = 1.0) -> dict[str, float]:
    return {f"backbone.blocks.{number}.{name}": rate for name in ("weight", "bias")}


ALL = {**HEAD, **block(0), **block(1), **block(2)}


def test_finetune_trains_everything():
    assert Finetune().rates(NET) == ALL
    assert Finetune(blocks=3).rates(NET) == ALL


def test_finetune_of_the_last_blocks():
    assert Finetune(blocks=1).rates(NET) == {**HEAD, **block(2)}


def test_finetune_slows_down_towards_the_input():
    assert Finetune(decay=0.5).rates(NET) == {**HEAD, **block(2, 0.5), **block(1, 0.25), **block(0, 0.125)}


def test_finetune_at_rates_that_are_listed():
    assert Finetune(block_rates=[0.0, 0.5, 2.0]).rates(NET) == {**HEAD, **block(2, 2.0), **block(1, 0.5)}
    with pytest.raises(ValueError, match="block_rates must have 3 numbers, one for each block of the backbone, got 2"):
        Finetune(block_rates=[1.0, 1.0]).rates(NET)


def test_blocks_begin_to_learn_one_after_the_other():
    """The last first (section 3.3); each learns for a third of the share, and then on."""
    method = Finetune(decay=0.5, unfreeze=0.6)
    stages = [HEAD, {**HEAD, **block(2, 0.5)}, {**HEAD, **block(2, 0.5), **block(1, 0.25)}, method.rates(NET)]
    for progress, stage in [(0.0, 0), (0.19, 0), (0.21, 1), (0.39, 1), (0.41, 2), (0.59, 2), (0.6, 3), (1.0, 3)]:
        assert method.at(progress).rates(NET) == stages[stage], progress
    assert method.rates(NET).keys() == ALL.keys()
    assert Finetune().at(0.0).rates(NET) == ALL
    assert Finetune(blocks=1, unfreeze=0.5).at(0.49).rates(NET) == HEAD
    assert Finetune(blocks=1, unfreeze=0.5).at(0.5).rates(NET) == {**HEAD, **block(2)}


def test_linear_probe_trains_the_head():
    assert LinearProbe().rates(NET) == HEAD


class WithBuffers(nn.Module):
    """A backbone with running statistics."""

    out_dim, batch_statistics = 2, False

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.first, self.last]


def test_buffers_do_not_learn():
    rates = Finetune().rates(network(WithBuffers(), outputs=3))
    assert rates.keys() == {*HEAD, "backbone.first.weight", "backbone.last.weight", "backbone.last.bias"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"blocks": 0}, r"method\.blocks: must be a whole number >= 1 or null, got 0"),
        ({"decay": 0.0}, r"method\.decay: must be a number > 0 and <= 1, got 0.0"),
        ({"unfreeze": 1.5}, r"method\.unfreeze: must be a number from 0 to 1, got 1.5"),
        ({"block_rates": [-1.0]}, r"method\.block_rates: must be a list of a number >= 0 or null, got \[-1.0\]"),
        ({"block_rates": [1.0], "decay": 0.5}, r"method\.block_rates: block_rates replaces blocks and decay"),
        ({"decay": 1.5}, r"method\.decay: must be a number > 0 and <= 1, got 1.5"),
        ({"decay": float("nan")}, r"method\.decay: must be a number > 0 and <= 1, got nan"),
    ],
)
def test_finetune_refuses(arguments, told):
    with pytest.raises(ConfigError, match=told):
        build({"_target_": "metalearn_cli.methods.finetune.Finetune", **arguments}, "method")


def test_finetune_refuses_more_blocks_than_there_are():
    with pytest.raises(ValueError, match="blocks must be at most 3, the backbone's number of blocks, got 4"):
        Finetune(blocks=4).rates(NET)

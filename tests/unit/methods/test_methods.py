from __future__ import annotations

import pytest

from metalearn_cli.methods.finetune import Finetune
from metalearn_cli.methods.linear_probe import LinearProbe

BLOCKS = [["b.0.w", "b.0.b"], ["b.1.w"], ["b.2.w"]]
HEAD = ["head.weight", "head.bias"]
ALL = {"b.0.w": 1.0, "b.0.b": 1.0, "b.1.w": 1.0, "b.2.w": 1.0, "head.weight": 1.0, "head.bias": 1.0}


def test_finetune_trains_everything():
    assert Finetune().rates(BLOCKS, HEAD) == ALL
    assert Finetune(blocks=3).rates(BLOCKS, HEAD) == ALL


def test_finetune_of_the_last_blocks():
    assert Finetune(blocks=1).rates(BLOCKS, HEAD) == {"head.weight": 1.0, "head.bias": 1.0, "b.2.w": 1.0}


def test_finetune_slows_down_towards_the_input():
    rates = Finetune(decay=0.5).rates(BLOCKS, HEAD)
    assert rates == {**ALL, "b.2.w": 0.5, "b.1.w": 0.25, "b.0.w": 0.125, "b.0.b": 0.125}


def test_linear_probe_trains_the_head():
    assert LinearProbe().rates(BLOCKS, HEAD) == {"head.weight": 1.0, "head.bias": 1.0}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"blocks": 0}, "blocks must be >= 1 or null, got 0"),
        ({"decay": 0.0}, r"decay must be in \(0, 1\], got 0.0"),
        ({"decay": 1.5}, r"decay must be in \(0, 1\], got 1.5"),
        ({"decay": float("nan")}, "decay must be in"),
    ],
)
def test_finetune_refuses(arguments, told):
    with pytest.raises(ValueError, match=told):
        Finetune(**arguments)


def test_finetune_refuses_more_blocks_than_there_are():
    with pytest.raises(ValueError, match="blocks must be at most 3, the backbone's number of blocks, got 4"):
        Finetune(blocks=4).rates(BLOCKS, HEAD)

"""Items of any modality: a tensor, or a dict of tensors of the same length."""

from __future__ import annotations

import torch

from metalearn_cli.core.items import each, joined, size
from metalearn_cli.core.types import Episode

IMAGE = torch.arange(6.0).reshape(3, 2)
PAIR = {"image": IMAGE, "words": torch.tensor([[1], [2], [0]])}


def test_each_part_by_itself():
    assert each(lambda t: 2 * t, IMAGE).equal(2 * IMAGE)
    doubled = each(lambda t: 2 * t, PAIR)
    assert list(doubled) == ["image", "words"]
    assert doubled["words"].tolist() == [[2], [4], [0]]


def test_parts_of_several_batches_together():
    found = each(lambda one, two: one + two, PAIR, {"words": PAIR["words"], "image": 10 * IMAGE})
    assert found["image"].equal(11 * IMAGE) and found["words"].equal(2 * PAIR["words"])


def test_size():
    assert size(IMAGE) == size(PAIR) == 3
    assert size({"image": IMAGE[:0]}) == 0


def test_joined():
    assert joined([IMAGE, 2 * IMAGE]).equal(torch.cat([IMAGE, 2 * IMAGE]))
    found = joined([PAIR, each(lambda t: t[:1], PAIR)])
    assert found["words"].tolist() == [[1], [2], [0], [1]] and found["words"].dtype == torch.int64
    assert found["image"].shape == (4, 2)


def test_episodes_of_them():
    episode = Episode(PAIR, torch.arange(3), IMAGE, torch.arange(3)).map(lambda t: t[1:])
    assert (size(episode.support_x), episode.support_x["words"].tolist()) == (2, [[2], [0]])
    assert episode.query_x.equal(IMAGE[1:]) and episode.query_y.tolist() == [1, 2]
    assert isinstance(episode, Episode)

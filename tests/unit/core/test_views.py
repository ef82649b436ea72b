"""Views: random changes of items, functions of torch's generator."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.core.random import seeded
from metalearn_cli.core.views import affine, dimmed, noisy, shifted, view


def test_no_spread_changes_nothing():
    x = torch.rand(3, 2, 9, 7)
    torch.testing.assert_close(affine(x, 0.0), x)
    assert torch.equal(noisy(x, 0.0), x)


@pytest.mark.parametrize("view", [affine, noisy])
def test_each_item_is_changed_in_its_own_way_and_the_same_under_the_same_seed(view):
    x = torch.rand(1, 1, 12, 12).expand(4, -1, -1, -1).contiguous()
    with seeded(0):
        one = view(x, 0.2)
    with seeded(0):
        assert torch.equal(view(x, 0.2), one)
    assert one.shape == x.shape
    assert len(torch.unique(one.flatten(1), dim=0)) == 4


def test_affine_has_the_spread_that_is_asked_for():
    ramp = torch.linspace(-1, 1, 33)
    x = ramp.expand(400, 1, 33, -1)  # a picture of its own horizontal coordinate
    with seeded(0):
        seen = affine(x, 0.1)
    centre = seen[:, 0, 16, 16]  # the shift alone
    assert centre.std().item() == pytest.approx(0.05, rel=0.15)
    slope = (seen[:, 0, 16, 24] - centre) / ramp[24]
    assert (slope - 1).std().item() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    "x",
    [torch.rand(64, 3, 9, 7), torch.randn(64, 2, 12), torch.randn(64, 6), torch.randint(1, 9, (64, 8))],
    ids=["images", "series", "vectors", "text"],
)
def test_a_view_is_of_the_same_kind_and_drawn_for_each_item(x):
    x = x[:1].expand_as(x)
    with seeded(0):
        seen = view(x, 0.3)
    assert seen.shape == x.shape and seen.dtype == x.dtype
    assert len(torch.unique(seen.flatten(1), dim=0)) > 32
    if x.is_floating_point():
        assert seen.max() <= x.max() or x.ndim < 4  # images in [0, 1] stay there
    else:
        assert ((seen == x) | (seen == 0)).all()
    again = view(x, 1e-9)
    assert torch.equal(again, x) if not x.is_floating_point() else torch.allclose(again, x, atol=1e-6)


def test_a_view_of_an_item_of_several_parts_is_one_of_each():
    parts = {"text": torch.randint(1, 9, (40, 8)), "picture": torch.rand(40, 1, 8, 8)}
    seen = view(parts, 0.5)
    assert seen.keys() == parts.keys()
    assert (seen["text"] == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert not torch.equal(seen["picture"], parts["picture"])


def test_a_series_is_moved_in_a_circle_by_no_more_than_its_share():
    x = torch.zeros(400, 2, 20)
    x[:, 0, 10], x[:, 1, 12] = 1, 1
    places = shifted(x, 0.25).argmax(2)
    assert (places[:, 1] == places[:, 0] + 2).all()
    assert (places[:, 0].min().item(), places[:, 0].max().item()) == (5, 15)
    assert torch.equal(shifted(x, 1.0).sum(2), x.sum(2))


def test_channels_are_dimmed_each_by_its_own_factor():
    factors = dimmed(torch.ones(200, 3, 2, 2), 0.4).flatten(2)
    assert torch.equal(factors.amin(2), factors.amax(2))
    assert 0.6 <= factors.min() < 0.61 and 0.99 < factors.max() <= 1
    assert (factors[:, 0] != factors[:, 1]).any()

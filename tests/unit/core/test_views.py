"""Views: random changes of items, functions of torch's generator."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.core.random import seeded
from metalearn_cli.core.views import affine, noisy


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

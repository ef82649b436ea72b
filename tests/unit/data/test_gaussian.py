from __future__ import annotations

import pytest
import torch

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.data.gaussian import gaussian


def test_is_the_documents_toy_in_equal_classes() -> None:
    data = gaussian()
    x = torch.cat([split.items for split in data.splits.values()])
    assert x.shape == (1000, 100)
    assert len(torch.unique(x, dim=0)) == 1000
    assert abs(float(x.mean())) < 0.02
    assert abs(float(x.std()) - 1) < 0.02
    assert {name: len(split.names) for name, split in data.splits.items()} == {"train": 10, "val": 5, "test": 5}
    assert all(split.counts.tolist() == [50] * len(split.names) for split in data.splits.values())


def test_labels_follow_from_the_vectors() -> None:
    """Class means point into different directions, on items that did not make them."""
    data = gaussian()
    x, y = next(data.all("train", "fit", 9999))
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    x, y = next(data.all("train", "held_out", 9999))
    assert float(((x @ means.T).argmax(1) == y).float().mean()) > 0.3  # chance is 0.1


def test_is_a_function_of_its_settings() -> None:
    assert gaussian().fingerprint == gaussian().fingerprint
    assert len({gaussian().fingerprint, gaussian(seed=1).fingerprint, gaussian(classes=10).fingerprint}) == 3


@pytest.mark.parametrize("settings", [{"classes": 5}, {"items": 1001}, {"items": 20}, {"features": 0}])
def test_refuses_naming_the_argument(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"_target_": "metalearn_cli.data.gaussian.gaussian", **settings}, "data")
    assert [problem.key for problem in refused.value.problems] == [f"data.{name}" for name in settings]

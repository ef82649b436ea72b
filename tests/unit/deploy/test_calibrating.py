"""Validation episodes fit how sure answers are, and beyond which distance an item is of no class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import GRAY, meta_trained

from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy.calibrating import calibrated, told
from metalearn_cli.deploy.trained import Trained, data_of, of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture
def trained(of_pictures: Path) -> Trained:
    return of_checkpoint(open_checkpoint(of_pictures))


@pytest.fixture
def data(of_pictures: Path):
    return data_of(open_checkpoint(of_pictures))


@pytest.mark.medium
def test_the_threshold_keeps_a_share_of_known_items(trained, data):
    half, most = (calibrated(trained, data, 2, 3, 10, keep) for keep in (0.5, 0.9))
    assert 0 < half.threshold < most.threshold
    assert 0 < half.let_through < most.let_through <= 1
    assert half.temperature == most.temperature > 0 and half[4:] == (2, 3, 10)
    line = told(most)
    numbers = "10 validation episodes of 2 classes with 3 examples"
    assert line.startswith(f"temperature {most.temperature:.3g}, fitted on {numbers}")
    assert "are 90 % of the items of these classes, and" in line and "of the items of other ones" in line


@pytest.mark.medium
def test_random_pictures_are_let_through_as_often_as_known_ones(trained, data):
    """Nothing can be told apart in noise, and the figure says so."""
    split = data.splits["val"]
    items = torch.randint(0, 256, split.items.shape, dtype=torch.uint8)
    noise = replace(data, splits={**data.splits, "val": replace(split, items=items)})
    assert calibrated(trained, noise, 2, 3, 20, 0.9).let_through == pytest.approx(0.9, abs=0.06)


def test_episodes_are_as_large_as_validation_classes_allow(trained, data):
    classes = len(data.splits["val"].names)
    found = calibrated(trained, data, classes + 3, 99, 2, 0.95)
    assert found.way == classes and found.shot == int(data.splits["val"].counts.min()) - 1
    assert found.threshold is None and "distance" not in told(found)  # no other class is left to try it on


def test_data_without_validation_classes_are_told(trained, data):
    without = replace(data, splits={"train": data.splits["train"]})
    with pytest.raises(UserError, match="images has no validation classes"):
        calibrated(trained, without, 2, 1, 2, 0.95)

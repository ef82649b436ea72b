from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path

import pytest
import torch

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.data import glyphs as module
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.glyphs import SCRIPTS, glyphs


@pytest.fixture(scope="module")
def data() -> Dataset:
    return glyphs()


@pytest.fixture(scope="module")
def images(data: Dataset) -> torch.Tensor:
    return torch.cat([split.items for split in data.splits.values()])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Small scripts in four faces only, in a cache of their own."""
    monkeypatch.setattr(module, "SCRIPTS", {"test": ("LAO",), "val": ("HEBREW",), "train": ("ARMENIAN",)})
    monkeypatch.setattr(module, "FACES", module.FACES[:4])
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    return monkeypatch


def test_has_classes_for_every_split(data: Dataset) -> None:
    classes = {name: len(split.names) for name, split in data.splits.items()}
    # the exact numbers (226, 63, 112 with the versions of constraints.txt) hang on how FreeType draws
    assert classes["train"] > 200 and classes["val"] > 55 and classes["test"] > 100
    assert all(set(split.counts.tolist()) == {20} for split in data.splits.values())
    assert data.facts.shape == (1, 28, 28)


def test_splits_go_by_script(data: Dataset) -> None:
    for name, split in data.splits.items():
        assert {character.split("/")[0] for character in split.names} == set(SCRIPTS[name])
    assert data.facts.groups == tuple(sorted(script for scripts in SCRIPTS.values() for script in scripts))
    assert "GREEK/CAPITAL LETTER ALPHA" in data.splits["test"].names
    assert "LATIN/CAPITAL LETTER A" not in data.splits["train"].names


def test_episodes_may_stay_within_a_script() -> None:
    data = glyphs(within=True)
    assert data.protocol == "scripts, within scripts"
    names = data.episodes("test", way=10, shot=1, query=5, seed=0).classes(30)
    assert {len({name.split("/")[0] for name in episode}) for episode in names} == {1}
    assert {episode[0].split("/")[0] for episode in names} == set(SCRIPTS["test"])


def test_no_image_occurs_twice(images: torch.Tensor) -> None:
    assert len(torch.unique(images.flatten(1), dim=0)) == len(images)


def test_every_image_is_ink_inside_the_picture(images: torch.Tensor) -> None:
    ink = images.float().flatten(1) / 255
    assert ink.amax(1).min() > 0.6
    assert ink.sum(1).min() > 20
    assert ink.mean(1).max() < 0.5  # ink on nothing, not nothing in ink
    grid = torch.arange(28.0) - 13.5
    share = images[:, 0].float() / images[:, 0].float().sum((1, 2), keepdim=True)
    middle = torch.stack([(share.sum(1) * grid).sum(1), (share.sum(2) * grid).sum(1)], 1)
    assert middle.abs().max() < 8
    assert middle.mean(0).abs().max() < 1


@pytest.mark.medium
def test_no_character_is_the_box_of_a_missing_one(data: Dataset) -> None:
    """The DejaVu fonts draw what they do not have as a box; the STIX fonts draw nothing."""
    paths = module._fonts()
    for path in paths[:12]:
        font = module._font(path, 48)
        missing = module._shape(module._ink(font, "\u0378"))
        covered = module._covered(path)
        for split in data.splits.values():
            for name in split.names:
                character = module.unicodedata.lookup(name.replace("/", " ", 1))
                if ord(character) in covered:
                    assert module._shape(module._ink(font, character)) @ missing < 0.99, name


def test_looking_alike(data: Dataset) -> None:
    path = module._fonts()[0]
    font = module._font(path, 48)

    def likeness(a: str, b: str) -> float:
        return float(module._shape(module._ink(font, a)) @ module._shape(module._ink(font, b)))

    for pair in ("A\u0391", "o\u039f", "cC", "H\u157c"):  # Alpha, Omicron, syllabic Nunavut H
        assert likeness(*pair) > module.ALIKE, pair
    for pair in combinations("ACEIKOSX", 2):
        assert likeness(*pair) < module.ALIKE, pair


def test_each_instance_is_another_distortion_of_the_character(data: Dataset) -> None:
    split = data.splits["test"]
    per_class = split.items.reshape(len(split.names), 20, -1).float()
    spread = per_class.std(1).mean()
    between = per_class.mean(1).std(0).mean()
    assert spread > 20  # of 255: they differ
    assert between > 20  # and yet classes have a shape


@pytest.mark.medium
def test_settings_change_the_images_and_not_the_classes(few: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small, other = glyphs(instances=2, size=16), glyphs(instances=2, size=16, seed=1)
    assert small.facts.shape == (1, 16, 16)
    assert small.preprocessing["size"] == [16, 16]
    assert small.fingerprint != other.fingerprint
    for name, split in small.splits.items():
        assert split.counts.tolist() == [2] * len(split.names)
        assert other.splits[name].names == split.names
    few.setenv("MLX_CACHE_DIR", str(tmp_path / "cold"))
    assert glyphs(instances=2, size=16).fingerprint == small.fingerprint  # drawn again as it was


@pytest.mark.parametrize("settings", [{"instances": 1}, {"size": 7}, {"size": 129}])
def test_refuses_naming_the_argument(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.{next(iter(settings))}: must be a whole number from "):
        build({"_target_": "metalearn_cli.data.glyphs.glyphs", **settings}, "data")


def test_missing_fonts_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FACES", ("DejaVuSans", "NoSuchFace"))
    with pytest.raises(UserError, match=r"lacks NoSuchFace\.ttf"):
        glyphs()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        glyphs()

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import old_pickle, pixels, put
from sources.tiered_imagenet import CLASSES, SPLITS, images, labels, pickles

from metalearn_cli.core.errors import DataError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.tiered_imagenet import tiered_imagenet


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def read(root: Path) -> Dataset:
    return tiered_imagenet(root=str(root), size=8)


def findings(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root)
    return [f"{finding.where} {finding.what}" for finding in error.value.findings]


def test_the_pickles_are_read(tmp_path: Path) -> None:
    data = read(pickles(tmp_path / "tiered-imagenet", items=2))
    assert data.protocol == "ren"
    for start, split in enumerate(SPLITS):
        found = data.splits[split]
        assert found.names == tuple(f"{split} dog {k}, Canis {k}" for k in range(CLASSES))
        assert found.counts.tolist() == [2] * CLASSES
        expected = torch.stack(
            [torch.from_numpy(pixels(start * 1000 + n)).permute(2, 0, 1) for n in range(2 * CLASSES)]
        )
        assert torch.equal(found.items, expected)
    assert any("5 of the benchmark's 351 classes" in finding.what for finding in data.findings)


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    root = pickles(tmp_path / "copy", items=2)
    for split in SPLITS:
        put(root / f"{split}_labels.pkl", old_pickle({"label_specific": labels(split, 2)["label_specific"].tolist()}))
    assert read(root).splits["val"].names == tuple(f"val {k:03d}" for k in range(CLASSES))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("images_png", [1, 2], "is no list of encoded images"),
        ("images_png", {"images": 1}, "is no list of encoded images"),
        ("images_png", images("test", 2)[:-1], "has 10 labels for 9 images"),
        ("labels", {"labels": [1]}, "_labels.pkl has no label_specific; it has labels"),
        ("labels", labels("test", 2) | {"label_specific_str": ["a"]}, "_labels.pkl has the label 4, but names only 1"),
        ("labels", labels("test", 2) | {"label_specific": "12"}, "_labels.pkl has no list of whole numbers"),
        ("labels", labels("test", 2) | {"label_specific": [0.5] * 10}, "_labels.pkl has no list of whole numbers"),
    ],
)
def test_pickles_that_cannot_be_used_are_named(name: str, content: Any, said: str, tmp_path: Path) -> None:
    root = pickles(tmp_path / "copy", items=2)
    for split in ("train", "test"):
        put(root / f"{split}_{name}.pkl", old_pickle(content))
    told = findings(root)
    assert [line.split()[0] for line in told] == ["train_images_png.pkl", "test_images_png.pkl"]
    assert all(said in line for line in told)


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    root = pickles(tmp_path / "copy", items=2)
    (root / "val_labels.pkl").unlink()
    assert findings(root) == ["val_images_png.pkl has no val_labels.pkl beside it"]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = pickles(tmp_path / "copy", items=2)
    wrong = [*images("val", 2)[:3], np.zeros(9, np.uint8), *images("val", 2)[4:]]
    put(root / "val_images_png.pkl", old_pickle(wrong))
    assert findings(root)[0].startswith("val_images_png.pkl: image 3 is no image")


def test_another_folder_is_told_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "copy" / "readme.txt", "?")
    with pytest.raises(DataError, match=r"train_images_png\.pkl and train_labels\.pkl"):
        read(tmp_path / "copy")

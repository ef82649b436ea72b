from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from foreign import encoded, put
from sources.cub import NAMES, birds

from metalearn_cli.core.errors import DataError
from metalearn_cli.data.common.benchmarks import shipped
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.cub import CHECKSUM, cub


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def read(root: Path, split: Any = "closer_look") -> Dataset:
    return cub(split=split, root=str(root), size=8)


def findings(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root)
    return [f"{finding.where} {finding.what}" for finding in error.value.findings]


def test_every_second_class_trains(tmp_path: Path) -> None:
    data = read(birds(tmp_path / "copy", items=2))
    assert data.protocol == "closer_look"
    assert {split: [int(name[:3]) for name in found.names] for split, found in data.splits.items()} == {
        "train": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19],
        "val": [2, 6, 10, 14, 18],
        "test": [4, 8, 12, 16, 20],
    }


def test_the_lists_of_meta_dataset(tmp_path: Path) -> None:
    lists = shipped("cub.json", CHECKSUM)
    assert [len(set(lists[split])) for split in ("val", "test")] == [30, 30]
    assert not set(lists["val"]) & set(lists["test"])
    chosen = (*NAMES[:3], *lists["val"][:3], *lists["test"][:4])
    data = read(birds(tmp_path / "copy", chosen, items=2), "meta_dataset")
    assert data.protocol == "meta_dataset"
    assert data.splits["train"].names == NAMES[:3]
    assert data.splits["val"].names == tuple(lists["val"][:3])
    assert data.splits["test"].names == tuple(lists["test"][:4])
    told = [finding.what for finding in data.findings if not finding.blocks]
    assert "has 3 of the benchmark's 140 classes: results do not compare" in told


def test_every_image_of_the_list_that_is_missing_is_named(tmp_path: Path) -> None:
    root = birds(tmp_path / "copy", items=2)
    gone = sorted((root / "CUB_200_2011" / "images").glob("*/*_0001_*"))[:4]
    for path in gone:
        path.unlink()
    told = [f"CUB_200_2011/images.txt names {p.parent.name}/{p.name}, which is not there" for p in gone]
    assert findings(root) == told


def test_without_a_list_the_folders_are_enough(tmp_path: Path) -> None:
    root = birds(tmp_path / "copy", items=2)
    (root / "CUB_200_2011" / "images.txt").unlink()
    assert len(read(root / "CUB_200_2011" / "images").splits["train"].names) == 10


def test_classes_that_are_not_of_the_benchmark_are_refused(tmp_path: Path) -> None:
    root = birds(tmp_path / "copy", (*NAMES, "201.Dodo", "000.Roc"), items=2)
    assert findings(root) == ["000.Roc is no class of CUB-200-2011", "201.Dodo is no class of CUB-200-2011"]


def test_another_folder_is_told_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "copy" / "dogs" / "1.png", encoded(1))
    with pytest.raises(DataError, match="a folder for each class, such as 001"):
        read(tmp_path / "copy")

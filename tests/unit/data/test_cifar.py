"""CIFAR-FS and FC100, which are made from the same files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import encoded, old_pickle, pixels, put
from sources.cifar_fs import SPLITS, chosen, folders, own, python

from metalearn_cli.core.errors import DataError, UserError
from metalearn_cli.data.cifar_fs import cifar_fs
from metalearn_cli.data.common import benchmarks
from metalearn_cli.data.common.cifar import lists
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.fc100 import fc100

LOADERS: dict[str, Callable[..., Dataset]] = {"cifar_fs": cifar_fs, "fc100": fc100}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=LOADERS)
def benchmark(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(root: Path, benchmark: str = "cifar_fs") -> Dataset:
    return LOADERS[benchmark](root=str(root), size=8)


def findings(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root)
    return [f"{finding.where} {finding.what}" for finding in error.value.findings]


def names(data: Dataset) -> dict[str, list[str]]:
    return {split: sorted(name.rpartition("/")[2] for name in found.names) for split, found in data.splits.items()}


def test_the_lists_are_those_that_were_published() -> None:
    superclasses, splits = lists()["superclasses"], lists()["cifar_fs"]
    assert [len(own) for own in superclasses.values()] == [5] * 20
    classes = {name for own in superclasses.values() for name in own}
    assert [len(splits[split]) for split in SPLITS] == [64, 16, 20]
    assert {name for split in SPLITS for name in splits[split]} == classes
    assert [len(lists()["fc100"][split]) for split in SPLITS] == [12, 4, 4]
    assert {name for split in SPLITS for name in lists()["fc100"][split]} == set(superclasses)


def test_a_list_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cifar100.json", "{}")
    monkeypatch.setattr(benchmarks, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match=r"cifar100\.json is not the list that belongs to this version"):
        benchmarks.shipped("cifar100.json", "0")
    with pytest.raises(UserError, match=r"other\.json cannot be read"):
        benchmarks.shipped("other.json", "0")


def test_the_published_pickles_are_split_by_the_lists(benchmark: str, tmp_path: Path) -> None:
    data = read(python(tmp_path / "copy", benchmark, side=8, items=4), benchmark)
    assert names(data) == chosen(benchmark)
    fine = sorted(name for own in lists()["superclasses"].values() for name in own)
    for found in data.splits.values():
        assert found.counts.tolist() == [4] * 5  # of train and test together
        label = fine.index(found.names[0].rpartition("/")[2])
        expected = torch.stack([torch.from_numpy(pixels(label * 1000 + i)).permute(2, 0, 1) for i in range(4)])
        assert torch.equal(found.items[:4], expected)


def test_superclasses_are_the_groups_of_fc100_alone(tmp_path: Path) -> None:
    data = read(python(tmp_path / "a", "fc100", side=8, items=4), "fc100")
    assert set(data.facts.groups) <= set(lists()["superclasses"])
    assert "aquatic_mammals/beaver" in data.splits["test"].names
    within = fc100(root=str(tmp_path / "a"), size=8, within=True)
    assert "superclasses" in within.protocol and within.fingerprint == data.fingerprint
    assert read(python(tmp_path / "b", side=8, items=4)).facts.groups == ()


@pytest.mark.parametrize("inside", ["", "cifar-100-python"])
def test_the_folder_itself_may_be_the_root(inside: str, tmp_path: Path) -> None:
    assert names(read(python(tmp_path / "copy", side=8, items=4) / inside)) == chosen()


def test_folders_of_classes_are_split_by_the_lists(benchmark: str, tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", benchmark, items=2)
    assert names(read(root, benchmark)) == chosen(benchmark)


def test_copies_that_another_program_sorted_are_not_read_twice(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", items=2)
    name = chosen()["train"][0]
    put(root / "processed" / "train" / name / f"{name}_0000.png", encoded(0))
    assert read(root).splits["train"].counts.tolist() == [2] * 5


def test_folders_sorted_by_split_are_read_together(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", items=2)
    for split, own_names in chosen().items():
        for name in own_names:
            (root / split).mkdir(exist_ok=True)
            (root / "cifar100" / "data" / name).rename(root / split / name)
    assert names(read(root)) == chosen()


@pytest.mark.parametrize("start", ["CIFAR_FS", "FC100"])
def test_a_pickle_for_each_split_has_numbered_classes(start: str, tmp_path: Path) -> None:
    data = read(own(tmp_path / "copy", start, items=2), start.lower())
    assert names(data) == {split: [f"{split} {k:02d}" for k in range(5)] for split in SPLITS}
    expected = torch.from_numpy(pixels(2000)).permute(2, 0, 1)
    assert torch.equal(data.splits["test"].items[0], expected)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hostile",)


DATA = {"data": np.zeros((2, 192), np.uint8), "fine_labels": [0, 1]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train", old_pickle(DATA)[:-50], "is cut short"),
        ("train", old_pickle({"data": DATA["data"], "labels": [0, 1]}), "has no fine_labels; it has data, labels"),
        ("train", old_pickle(DATA | {"data": DATA["data"][:1]}), "has 2 labels for 1 images"),
        ("train", old_pickle(DATA | {"data": np.zeros((2, 191), np.uint8)}), "has an array of shape [2, 191]"),
        ("train", old_pickle(DATA | {"data": np.zeros((2, 3 * 7), np.uint8)}), "has an array of shape [2, 21]"),
        ("train", old_pickle(DATA | {"fine_labels": [0, 100]}), "has the label 100, but names only 100 classes"),
        ("train", pickle.dumps(DATA | {"fine_labels": Hostile()}), "asks for posix.system"),
        ("meta", old_pickle({"fine_label_names": ["apple", "sausage"]}), "not in CIFAR-100: sausage"),
        ("meta", old_pickle({"names": []}), "has no fine_label_names; it has names"),
    ],
)
def test_pickles_that_cannot_be_used_are_named(
    name: str, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = python(tmp_path / "copy", side=8, items=4)
    put(root / "cifar-100-python" / name, content)
    (told,) = findings(root)
    assert told.startswith(f"cifar-100-python/{name} ") and said in told
    assert not (tmp_path / "hostile").exists()


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    root = python(tmp_path / "copy", side=8, items=4)
    (root / "cifar-100-python" / "test").unlink()
    assert findings(root) == ["cifar-100-python/test is not there, but cifar-100-python/meta is"]


def test_a_copy_without_a_whole_split_is_refused(tmp_path: Path) -> None:
    root = folders(tmp_path / "copy", items=2)
    for name in chosen()["val"]:
        for path in (root / "cifar100" / "data" / name).iterdir():
            path.unlink()
    assert findings(root) == ["val has no images"]


def test_another_folder_is_told_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "copy" / "dogs" / "1.png", encoded(1))
    with pytest.raises(DataError) as error:
        read(tmp_path / "copy", "fc100")
    for layout in ("cifar-100-python/", "FC100_train.pickle", "cifar100/data/apple/"):
        assert layout in str(error.value)

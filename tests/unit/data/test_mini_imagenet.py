from __future__ import annotations

import os
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from foreign import encoded, old_pickle, pixels, put
from sources.mini_imagenet import CLASSES, SPLITS, cache, caches, easyfsl, hdf5, images, ravi, wnids

from metalearn_cli.core.errors import ConfigError, DataError, UserError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.mini_imagenet import mini_imagenet

LAYOUTS: dict[str, Callable[..., Path]] = {
    "flat": ravi,
    "by class": lambda folder, **rest: ravi(folder, "images/{label}", **rest),
    "easyfsl": easyfsl,
    "pickles": caches,
    "pickles of learn2learn": lambda folder, **rest: caches(folder, "validation", **rest),
    "hdf5": hdf5,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("MLX_DATA_DIR", raising=False)


def read(root: Path) -> Dataset:
    return mini_imagenet(root=str(root), size=8)


def findings(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root)
    return [f"{finding.where} {finding.what}" for finding in error.value.findings]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_left_as_it_is(layout: str, tmp_path: Path) -> None:
    root = LAYOUTS[layout](tmp_path / "copy", items=2)
    before = state(root)
    data = read(root)
    assert state(root) == before
    assert data.protocol == "ravi"
    for split in ("train", "val", "test"):
        found = data.splits[split]
        assert found.names == tuple(wnids(split))
        assert found.counts.tolist() == [2] * CLASSES
        expected = torch.stack([torch.from_numpy(pixels(seed)).permute(2, 0, 1) for *_, seed in images(split, 2)])
        if layout in ("pickles", "pickles of learn2learn", "hdf5"):
            assert torch.equal(found.items, expected)
        else:  # JPEG changes noise, but not into that of another image
            error = (found.items.float() - expected.float()).abs().flatten(1).mean(1)
            other = (found.items.float() - expected.float().roll(1, 0)).abs().flatten(1).mean(1)
            assert (error < other).all()


def test_the_pickles_and_hdf5_hold_the_same_items(tmp_path: Path) -> None:
    fingerprints = {read(write(tmp_path / name, items=2)).fingerprint for name, write in (("a", caches), ("b", hdf5))}
    assert len(fingerprints) == 1


def test_a_part_of_the_benchmark_is_used_with_a_warning(tmp_path: Path) -> None:
    data = read(caches(tmp_path / "copy", items=2))
    told = [f"{finding.where} {finding.what}" for finding in data.findings if "benchmark" in finding.what]
    assert told == [
        f"{split} has 5 of the benchmark's {count} classes: results do not compare"
        for split, count in (("train", 64), ("val", 16), ("test", 20))
    ]
    assert not any(finding.blocks for finding in data.findings)


@pytest.mark.parametrize("layout", ["flat", "pickles", "hdf5"])
@pytest.mark.parametrize("packed", ["zip", "tar.gz"])
def test_archives_are_read_in_place(layout: str, packed: str, tmp_path: Path) -> None:
    folder = LAYOUTS[layout](tmp_path / "copy", items=2)
    fingerprint = read(folder).fingerprint
    archive = tmp_path / f"mini.{packed}"
    if packed == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in folder.rglob("*.*"):
                zipped.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:gz") as tarred:
            tarred.add(folder, "copy")
    shutil.rmtree(folder)
    assert read(archive).fingerprint == fingerprint


def test_it_is_decoded_once_and_the_mirror_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = caches(tmp_path / "mini_imagenet", items=2)
    fingerprint = read(root).fingerprint
    monkeypatch.setattr("metalearn_cli.data.mini_imagenet._read", None)
    assert read(root).fingerprint == fingerprint
    monkeypatch.setenv("MLX_DATA_DIR", str(tmp_path))
    assert mini_imagenet(size=8).fingerprint == fingerprint


def test_without_a_copy_it_is_said_how_to_give_one() -> None:
    with pytest.raises(ConfigError, match=r"data\.root: is missing: data\.root=PATH, a folder or archive with miniIm"):
        mini_imagenet()


def test_an_unknown_layout_is_told_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "copy" / "readme.txt", "?")
    with pytest.raises(DataError) as error:
        read(tmp_path / "copy")
    message = str(error.value)
    assert "has no layout that is known; it has readme.txt" in message
    for layout in ("train.csv", "mini-imagenet-cache-train.pkl", "train_data.hdf5", "data=images"):
        assert layout in message


def test_a_pickle_of_objects_is_refused_in_words(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        put(tmp_path / "copy" / f"{split}.pth", "x")
    assert findings(tmp_path / "copy") == [
        "train.pth is a pickle of objects, which can run anything when it is read; use the images and CSV files"
    ]


def test_every_missing_image_is_named(tmp_path: Path) -> None:
    root = ravi(tmp_path / "copy", items=2)
    gone = [f"{wnids('train')[0]}00000001.jpg", f"{wnids('train')[3]}00000002.jpg"]
    for name in gone:
        (root / "images" / name).unlink()
    assert findings(root) == [f"train.csv names {name}, which is not there" for name in gone]
    shutil.rmtree(root / "images")
    assert findings(root) == [f"{split}.csv names 10 images, and none of them is there" for split in SPLITS]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,wnid\na.jpg,n1\n", "has no column filename or image_name; its first line has name, wnid"),
        ("filename,wnid\na.jpg,n1\n", "has no column label or class_name; its first line has filename, wnid"),
        ("", "has no column filename or image_name; its first line has nothing"),
        ("filename,label\n", "has no rows"),
        ("filename,label\na.jpg,n1\nb.jpg\n", "lacks a value in line 3"),
        ("filename,label\na.jpg,\n", "lacks a value in line 2"),
        (b"filename,label\n\xff\xfe,n1\n", "is no UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_used_are_said_together(content: str | bytes, said: str, tmp_path: Path) -> None:
    root = ravi(tmp_path / "copy", items=2)
    for split in ("val", "test"):
        put(root / f"{split}.csv", content)
    assert findings(root) == [f"val.csv {said}", f"test.csv {said}"]


def test_a_split_without_its_file_is_said(tmp_path: Path) -> None:
    root = caches(tmp_path / "copy", items=2)
    (root / "mini-imagenet-cache-val.pkl").unlink()
    told = "mini-imagenet-cache-val.pkl is not there, but mini-imagenet-cache-train.pkl is"
    assert findings(root) == [told]


def test_a_class_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = ravi(tmp_path / "copy", items=2)
    shutil.copy(root / "train.csv", root / "test.csv")
    assert findings(root)[0] == f"{wnids('train')[0]} is a class of more than one split"


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    root = ravi(tmp_path / "copy", items=2)
    names = [f"images/{wnids(split)[1]}00000001.jpg" for split in ("train", "test")]
    put(root / names[0], b"no image")
    put(root / names[1], encoded(1, 40)[:2000])
    told = findings(root)
    assert [line.split()[0] for line in told] == names
    assert "is no image" in told[0] and "cannot be read as an image" in told[1]


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hostile",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (old_pickle(cache("test", 2))[:-100], "is cut short"),
        (b"no pickle", "is not a pickle or is damaged"),
        (b"", "is cut short"),
        (old_pickle([1]), "holds a list instead of a dict with image_data"),
        (old_pickle({"images": 1}), "has no image_data; it has images"),
        (old_pickle(cache("test", 2) | {"image_data": [1]}), "has no array of images of type uint8"),
        (
            old_pickle(cache("test", 2) | {"image_data": np.zeros((3, 8, 8), np.uint8)}),
            "has an array of shape [3, 8, 8]",
        ),
        (old_pickle(cache("test", 2) | {"class_dict": [1]}), "has a class_dict that is no dict"),
        (old_pickle(cache("test", 2) | {"class_dict": {"n1": [10]}}), "indices of more than its 10 images"),
        (old_pickle(cache("test", 2) | {"class_dict": {"n1": [-1]}}), "has no list of whole numbers"),
        (old_pickle(cache("test", 2) | {"class_dict": {"n1": None}}), "has no list of whole numbers"),
    ],
)
def test_pickles_that_cannot_be_used_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    root = caches(tmp_path / "copy", items=2)
    for split in ("train", "test"):
        put(root / f"mini-imagenet-cache-{split}.pkl", content)
    told = findings(root)
    assert [line.split()[0] for line in told] == [f"mini-imagenet-cache-{split}.pkl" for split in ("train", "test")]
    assert all(said in line for line in told)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = caches(tmp_path / "copy", items=2)
    put(root / "mini-imagenet-cache-test.pkl", pickle.dumps({"image_data": Hostile(), "class_dict": {}}))
    assert "asks for posix.system, which is no plain data" in findings(root)[0]
    assert not (tmp_path / "hostile").exists()


def test_hdf5_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = hdf5(tmp_path / "copy", items=2)
    content = (root / "train_data.hdf5").read_bytes()
    put(root / "train_data.hdf5", content[: len(content) // 2])
    with h5py.File(root / "test_data.hdf5", "w") as file:
        file["other"] = 1
    told = findings(root)
    assert told[0].startswith("train_data.hdf5 is damaged or no HDF5 file")
    assert told[1] == "test_data.hdf5 has no group datasets"


def another_file(group: Any, folder: Path) -> None:
    with h5py.File(folder / "other.hdf5", "w") as file:
        file["x"] = np.zeros((2, 8, 8, 3), np.uint8)
    group["n1"] = h5py.ExternalLink(str(folder / "other.hdf5"), "x")


def raw_file(group: Any, folder: Path) -> None:
    put(folder / "secret", bytes(384))
    group.create_dataset("n1", (2, 8, 8, 3), np.uint8, external=[(str(folder / "secret"), 0, 384)])


def virtual(group: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout((2, 8, 8, 3), np.uint8)
    layout[:] = h5py.VirtualSource(str(folder / "other.hdf5"), "x", (2, 8, 8, 3))
    group.create_virtual_dataset("n1", layout)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (another_file, "has a class n1 that lies in another file"),
        (raw_file, "has a class n1 that lies in another file"),
        (virtual, "has a class n1 that lies in another file"),
        (
            lambda group, _: group.create_dataset("n1", (10**9, 84, 84, 3), np.uint8, chunks=(1, 84, 84, 3)),
            "declares 21168000000000 bytes for class n1 and has 0 for them",
        ),
        (lambda group, _: group.create_dataset("n1", (2, 8, 8), np.uint8), "that is no array of images"),
        (lambda group, _: group.create_dataset("n1", (2, 8, 8, 3), np.float32), "that is no array of images"),
        (lambda group, _: group.create_group("n1"), "that is no array of images"),
    ],
)
def test_what_hdf5_can_declare_is_bounded(make: Callable[[Any, Path], Any], said: str, tmp_path: Path) -> None:
    root = hdf5(tmp_path / "copy", items=2)
    with h5py.File(root / "val_data.hdf5", "w") as file:
        make(file.create_group("datasets"), tmp_path)
    told = findings(root)
    assert len(told) == 1 and told[0].startswith("val_data.hdf5 ") and said in told[0]


def test_without_h5py_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = hdf5(tmp_path / "copy", items=2)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'metalearn-cli\[hdf5\]'"):
        read(root)

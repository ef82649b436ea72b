from __future__ import annotations

import errno
import logging
import os
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common import dataset, findings, splits
from metalearn_cli.data.common.cache import cache_dir, cached, large
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import SPLITS, Split, parts_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Counts how often it had to build three splits of one tensor each, or of a dict of two; or of a regression."""

    def __init__(self, parts: bool = False, targets: bool = False) -> None:
        self.parts, self.targets = parts, targets
        self.calls = 0

    def __call__(self) -> Dataset:
        self.calls += 1
        x = torch.arange(18, dtype=torch.uint8).reshape(3, 3, 2)
        x[2, 0] = x[0, 0]  # a finding
        made = {}
        for name, items in zip(SPLITS, x, strict=True):
            own = {"sound": items / 3, "ids": items.long()} if self.parts else items
            targets = items.float().square() if self.targets else None
            made[name] = Split(own, torch.tensor([2, 1]), (f"g/{name}", name), targets)
        return Dataset.of(
            "thing", "by hand", made, "vector", {"size": [2]}, {"ids": 18, "sound": 0} if self.parts else 0
        )


@pytest.fixture(params=[(False,), (True,), (False, True)], ids=["a tensor", "a dict", "a regression"])
def build(request: pytest.FixtureRequest) -> Builder:
    return Builder(*request.param)


def assert_same(one: Dataset, two: Dataset) -> None:
    for name in ("name", "protocol", "facts", "preprocessing", "fingerprint", "findings"):
        assert getattr(one, name) == getattr(two, name)
    assert list(one.splits) == list(two.splits)
    for here, there in zip(one.splits.values(), two.splits.values(), strict=True):
        assert here.names == there.names
        assert torch.equal(here.counts, there.counts)
        assert (here.targets is None) == (there.targets is None)
        if here.targets is not None and there.targets is not None:
            assert torch.equal(here.targets, there.targets)
        parts = parts_of(there.items)
        assert isinstance(here.items, dict) == isinstance(there.items, dict)
        assert parts_of(here.items).keys() == parts.keys()
        for name, part in parts_of(here.items).items():
            assert part.dtype == parts[name].dtype
            assert torch.equal(part, parts[name])


def test_builds_once_per_key(folder: Path, build: Builder) -> None:
    first, second = cached("thing", {"size": 1}, build), cached("thing", {"size": 1}, build)
    assert build.calls == 1
    assert first.findings
    assert_same(first, second)
    cached("thing", {"size": 2}, build)
    assert build.calls == 2
    assert len(list(folder.iterdir())) == 2  # and no temporary file


def test_what_is_kept_is_not_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached("thing", {}, Builder())
    monkeypatch.setattr(dataset, "findings_of", None)
    assert_same(first, cached("thing", {}, Builder()))


def test_other_code_builds_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    read = Path.read_text
    cached("thing", {}, build)
    for calls, module in enumerate((findings, splits), 2):
        changed = Path(module.__file__)
        monkeypatch.setattr(Path, "read_text", lambda p, *rest, c=changed: read(p, *rest) + "#" * (p == c))
        cached("thing", {}, build)
        assert build.calls == calls


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "another file's content"])
def test_a_damaged_file_is_built_again_and_said(folder: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    build = Builder()
    first = cached("thing", {}, build)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    if damage == "another file's content":
        save_file({"x": np.zeros(3)}, file, {"sha256": "0" * 64})
    else:
        file.write_bytes({"empty": b"", "truncated": content[:-30], "noise": b"no archive"}[damage])
    with caplog.at_level(logging.WARNING, "metalearn_cli"):
        assert_same(first, cached("thing", {}, build))
    assert build.calls == 2
    assert str(file) in caplog.text
    cached("thing", {}, build)
    assert build.calls == 2  # mended


def test_whatever_bit_flips_the_data_is_what_was_built(folder: Path, build: Builder) -> None:
    first = cached("thing", {}, build)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    draw = random.Random(0)
    for place in draw.sample(range(len(content)), 40):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        assert_same(first, cached("thing", {}, build))
        file.unlink()


def test_an_unwritable_folder_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "file" / "cache"))  # nobody can make a folder in a file
    with caplog.at_level(logging.WARNING, "metalearn_cli"):
        assert_same(cached("thing", {}, Builder()), Builder()())
    assert "cannot write to the cache" in caplog.text


def test_a_failed_build_leaves_nothing(folder: Path) -> None:
    def build() -> Dataset:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("thing", {}, build)
    assert not folder.exists()


def test_a_failed_build_leaves_a_folder_that_was_there(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(ZeroDivisionError):
        cached("thing", {}, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert list(folder.parent.iterdir()) == [folder] and not list(folder.iterdir())


def test_what_a_killed_process_has_left_is_removed(folder: Path) -> None:
    cached("thing", {}, Builder())
    (file,) = folder.iterdir()
    file.rename(folder / f"{file.stem}0123abcd.tmp")
    other = folder / "thing-0123456789abcdef89abcdef.tmp"  # perhaps of a process that still runs
    other.touch()
    cached("thing", {}, Builder())
    assert set(folder.iterdir()) == {file, other}


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_what_is_kept_is_mapped_and_read_item_by_item(folder: Path) -> None:
    build = Builder()
    cached("thing", {}, build)
    kept = cached("thing", {}, build).splits["val"].items
    address = kept.data_ptr()
    (file,) = folder.iterdir()
    mapping = rf"^(\w+)-(\w+) .*{file}\n(?:\w+:.*\n)*?VmFlags:(.*)"
    ((start, end, flags),) = re.findall(mapping, Path("/proc/self/smaps").read_text(), re.MULTILINE)
    assert int(start, 16) <= address < int(end, 16)
    assert "rr" in flags.split()  # nothing is read ahead


def test_large_arrays_lie_on_the_disk_and_leave_nothing_there(folder: Path) -> None:
    array = large(2, 3)
    assert isinstance(array, np.memmap)
    array[1] = 7
    assert array.tolist() == [[0, 0, 0], [7, 7, 7]]
    assert list(folder.iterdir()) == []


def test_large_arrays_do_without_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    array = large(2, 3)
    assert not isinstance(array, np.memmap)
    assert array.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("MLX_CACHE_DIR")
    assert cache_dir() == tmp_path / "xdg" / "metalearn-cli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "metalearn-cli"


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_files_have_the_permissions_of_any_new_one(folder: Path, build: Builder, mask: int) -> None:
    before = os.umask(mask)
    try:
        cached("thing", {}, build)
        (file,) = folder.iterdir()
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
        assert os.umask(mask) == mask  # which it was all the time
    finally:
        os.umask(before)


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("MLX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UserError, match="set MLX_CACHE_DIR to a folder of yours"):
        cache_dir()
    monkeypatch.undo()
    home = tmp_path / f"metalearn-cli-{os.getuid()}"
    monkeypatch.delenv("MLX_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    assert cache_dir() == cache_dir() == home / ".cache" / "metalearn-cli"
    (record,) = caplog.records
    assert "you have no home folder" in record.getMessage() and "set MLX_CACHE_DIR" in record.getMessage()


def test_who_needs_the_same_waits_and_who_needs_another_does_not(folder: Path) -> None:
    begun, end, builder = threading.Event(), threading.Event(), Builder()

    def slow() -> Dataset:
        begun.set()
        assert end.wait(30)
        return builder()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cached, "thing", {"size": 1}, slow)
        assert begun.wait(30)
        same = pool.submit(cached, "thing", {"size": 1}, builder)
        other = pool.submit(cached, "thing", {"size": 2}, Builder())
        assert other.result(30).name == "thing"
        assert not same.done() and builder.calls == 0
        end.set()
        assert_same(first.result(30), same.result(30))
    assert builder.calls == 1
    assert {path.suffix for path in folder.iterdir()} == {".safetensors"}


def test_a_build_may_need_another_data_set(folder: Path) -> None:
    def outer() -> Dataset:
        return cached("part", {}, Builder())

    assert cached("whole", {}, outer).name == "thing"
    assert len(list(folder.iterdir())) == 2


def test_a_full_disk_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("metalearn_cli.data.common.cache.save_file", full)
    assert cached("thing", {}, Builder()).name == "thing"
    assert "cannot write to the cache" in caplog.text and not list(folder.glob("*"))

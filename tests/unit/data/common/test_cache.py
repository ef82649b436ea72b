from __future__ import annotations

import errno
import logging
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from metalearn_cli.data.common.cache import Arrays, cache_dir, cached, large


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Counts how often it had to build."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "names": np.array(["a", "bc"])}


def test_builds_once_per_key(folder: Path) -> None:
    build = Builder()
    first, second = cached("thing", {"size": 1}, build), cached("thing", {"size": 1}, build)
    assert build.calls == 1
    assert first.keys() == second.keys() == {"x", "names"}
    assert second["x"].dtype == np.uint8
    assert second["x"].tolist() == first["x"].tolist()
    assert second["names"].tolist() == ["a", "bc"]
    cached("thing", {"size": 2}, build)
    assert build.calls == 2
    assert len(list(folder.iterdir())) == 2  # and no temporary file


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "another file's content"])
def test_a_damaged_file_is_built_again_and_said(folder: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    build = Builder()
    cached("thing", {}, build)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    if damage == "another file's content":
        save_file({"x": np.zeros(3)}, file, {"sha256": "0" * 64})
    else:
        file.write_bytes({"empty": b"", "truncated": content[:-30], "noise": b"no archive"}[damage])
    with caplog.at_level(logging.WARNING, "metalearn_cli"):
        assert cached("thing", {}, build)["x"].sum() == 15
    assert build.calls == 2
    assert str(file) in caplog.text
    cached("thing", {}, build)
    assert build.calls == 2  # mended


def test_an_unwritable_folder_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "file" / "cache"))  # nobody can make a folder in a file
    with caplog.at_level(logging.WARNING, "metalearn_cli"):
        assert cached("thing", {}, Builder())["x"].sum() == 15
    assert "cannot write to the cache" in caplog.text


def test_a_failed_build_leaves_nothing(folder: Path) -> None:
    def build() -> Arrays:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("thing", {}, build)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_what_is_kept_is_mapped_and_read_item_by_item(folder: Path) -> None:
    build = Builder()
    cached("thing", {}, build)
    kept = cached("thing", {}, build)["x"]
    address = kept.__array_interface__["data"][0]
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

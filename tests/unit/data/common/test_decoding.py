"""Items are decoded several at a time, in an order that suits the archive, and what waits is dropped on Ctrl-C."""

import numpy as np
import pytest

from metalearn_cli.core.errors import DataError
from metalearn_cli.data.common import decoding
from metalearn_cli.data.common.decoding import decoded
from metalearn_cli.data.common.manifest import Entry, Manifest, placed
from metalearn_cli.data.common.splits import names_of_items


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    return placed(Manifest([Entry(100 * k + i, f"c{k}") for k in range(6) for i in range(20)]), "classes", 0)


def test_items_are_where_they_belong_whatever_the_order_of_reading(found):
    read = []

    def decode(source):
        read.append(source)
        return np.full((2,), source % 251, np.uint8)

    backwards = {entry.source: -entry.source for split in found.classes for entry in found.entries(split)}
    splits, findings = decoded(found, decode, (2,), np.uint8, "stop", backwards)
    assert findings == []
    for split, own in splits.items():
        assert own.items[:, 0].tolist() == [entry.source % 251 for entry in found.entries(split)]
    first = [source for source in read if source in {entry.source for entry in found.entries("train")}]
    assert first == sorted(first, reverse=True)


def test_what_waits_is_not_read_after_an_interruption(found):
    read = []

    def decode(source):
        read.append(source)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(found, decode, (2,), np.uint8, "stop")
    assert len(read) < 40


def test_what_cannot_be_read_is_listed_or_left_out(found):
    def decode(source):
        if source % 100 == 7:
            raise ValueError("is damaged")
        return np.zeros((2,), np.uint8)

    _, findings = decoded(found, decode, (2,), np.uint8, "stop")
    assert {(f.blocks, f.what) for f in findings} == {(True, "is damaged")}
    splits, findings = decoded(found, decode, (2,), np.uint8, "skip")
    kept = [str(entry.source) for entry in found.entries("train") if entry.source % 100 != 7]
    assert names_of_items(splits["train"]) == kept
    assert not any(f.blocks for f in findings)
    assert all(set(own.counts.tolist()) == {19} for own in splits.values())
    assert len(findings) == 6


def test_a_class_of_which_too_few_can_be_read_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    entries = [Entry(100 * k + i, f"c{k}") for k in range(10) for i in range(4)]
    found = placed(Manifest(entries), "classes", 0, min_items=2)
    bad = [next(iter(found.classes["train"])), list(found.classes["test"])[1]]

    def decode(source):
        if f"c{source // 100}" in bad and source % 100:
            raise ValueError("is damaged")
        return np.full((2,), source // 100, np.uint8)

    splits, findings = decoded(found, decode, (2,), np.uint8, "skip")
    for split, own in splits.items():
        assert own.names == tuple(name for name in found.classes[split] if name not in bad)
        assert [f"c{k}" for k in own.items[:, 0].tolist()] == [name for name in own.names for _ in range(4)]
    told = [finding for finding in findings if finding.where == "data.min_items"]
    assert len(told) == 1 and "2 of 10 classes have fewer than 2 items that can be read" in told[0].what
    assert set(told[0].items) == set(bad)


def test_a_split_of_which_nothing_can_be_read_is_an_error(found):
    def decode(source):
        if f"c{source // 100}" in found.classes["val"]:
            raise ValueError("is damaged")
        return np.zeros((2,), np.uint8)

    with pytest.raises(DataError) as error:
        decoded(found, decode, (2,), np.uint8, "skip")
    assert error.value.findings[-1].where == "val"

"""BANKING77: both files, its splits, and files that are not its own."""

import pytest
from sources import banking77 as small

from metalearn_cli.core.errors import DataError
from metalearn_cli.data.banking77 import banking77


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def test_both_files_are_read_as_one(tmp_path):
    settings = small.write(tmp_path)
    data = banking77(**settings)
    assert data.protocol == "classes, seed 0"
    assert {name for split in data.splits.values() for name in split.names} == set(small.INTENTS)
    assert all(count == 16 for split in data.splits.values() for count in split.counts.tolist())
    assert banking77(**settings, seed=1).fingerprint != data.fingerprint


def test_the_published_split_of_questions(tmp_path):
    data = banking77(**small.write(tmp_path), split="items")
    assert data.protocol.startswith("items of the same classes")
    assert [split.counts.unique().tolist() for split in data.splits.values()] == [[11], [2], [3]]


def test_another_table(tmp_path):
    settings = small.write(tmp_path)
    (tmp_path / "test.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"test\.csv has no column category; it has text, label"):
        banking77(**settings)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv cannot be read: No such file"):
        banking77(**settings)

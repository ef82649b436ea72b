"""New files become the items that the same files were in training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sources import audio, images, table, text

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.dataset import Dataset, gather
from metalearn_cli.data.common.pixels import drawing
from metalearn_cli.deploy.inputs import Reader

KINDS = {"images": images, "audio": audio, "text": text, "table": table}


def data_of(kind: str, folder: Path, **settings: Any) -> Dataset:
    return build({"_target_": f"metalearn_cli.data.{kind}.{kind}", **KINDS[kind].write(folder), **settings}, "data")


def reader_of(data: Dataset, **more: Any) -> Reader:
    return Reader(data.facts, data.preprocessing, **more)


def root(kind: str, folder: Path) -> str:
    return str(folder / {"images": "photos", "audio": "sounds", "text": "texts.csv", "table": "plants.csv"}[kind])


def stored(data: Dataset) -> dict[str, torch.Tensor]:
    """Return the items of each class, as episodes have them."""
    found = {}
    for split in data.splits.values():
        ends = split.counts.cumsum(0).tolist()
        for name, end, count in zip(split.names, ends, split.counts.tolist(), strict=True):
            found[name] = gather(split.items, torch.arange(end - count, end))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.medium
def test_files_become_the_items_of_training(kind, tmp_path):
    data = data_of(kind, tmp_path)
    found, queries = reader_of(data).support(root(kind, tmp_path)), reader_of(data).queries([root(kind, tmp_path)])
    assert len(queries.names) == len(found.names) and not queries.labels
    assert torch.equal(queries.items.flatten(1).sort(0).values, found.items.flatten(1).sort(0).values)
    wanted = stored(data)
    assert list(dict.fromkeys(found.labels)) == sorted(wanted)
    for name, items in wanted.items():
        own = found.items[[label == name for label in found.labels]]
        assert torch.equal(own.sort(0).values, items.sort(0).values) and own.dtype == items.dtype


@pytest.mark.medium
def test_a_table_names_files(tmp_path):
    reader = reader_of(data_of("images", tmp_path))
    sheet = tmp_path / "photos" / "sheet.csv"
    sheet.write_text("bird,kind\nclass00/0.jpg,a\nclass01/0.jpg,b\n")
    with pytest.raises(UserError, match=r"say which one is the path: column\.path=NAME; .*label: column\.label=NAME"):
        reader.support(str(sheet))
    found = reader_of(data_of("images", tmp_path / "x"), column={"path": "bird", "label": "kind"}).support(str(sheet))
    assert found.labels == ("a", "b")
    assert torch.equal(
        found.items, reader.queries([str(tmp_path / "photos/class00/0.jpg"), f"{sheet.parent}/class01/0.jpg"]).items
    )


def test_texts_are_given_themselves(tmp_path):
    reader = reader_of(data_of("text", tmp_path))
    lines = tmp_path / "lines.txt"
    lines.write_text("one word\n\nanother one\n")
    found = reader.queries(["one word", str(lines)])
    assert found.names == ("one word", "lines.txt, line 1", "lines.txt, line 3")
    assert torch.equal(found.items[0], found.items[1]) and not torch.equal(found.items[0], found.items[2])
    assert reader.queries(["U.S.A", "and/or"]).names == ("U.S.A", "and/or")
    with pytest.raises(UserError, match=r"there is no file or folder gone\.csv"):
        reader.queries(["gone.csv"])


@pytest.mark.parametrize("paper", [0, 255])
@pytest.mark.medium
def test_ink_is_bright_whatever_the_paper(paper, tmp_path):
    ink = np.zeros((40, 20), np.uint8)
    ink[10:30, 8:12] = 255
    Image.fromarray(ink if paper == 0 else 255 - ink).save(tmp_path / "i.png")
    reader = Reader(data_of("images", tmp_path, size=10).facts._replace(shape=(1, 10, 10)), drawing(10))
    (item,) = reader.queries([str(tmp_path / "i.png")]).items
    assert item.shape == (1, 10, 10)  # padded with paper
    assert item[0, 5, 4] > 0.9 and item[0, :, :2].max() == 0 and item[0, 0].max() == 0


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("gone", "there is no file or folder gone"),
        ("photos/class00", r"has \d+ files in one folder, such as 0\.jpg: a class is a folder"),
        ("sounds", r"sounds has no files of \.png.*; it has files of \.wav"),
        ("one", "one has only the class class00; two or more are needed"),
        ("more", "more/class09 is empty: put examples into it, or remove it"),
    ],
)
@pytest.mark.medium
def test_what_is_no_support_set_is_told(source, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader = reader_of(data_of("images", tmp_path))
    for own in ("a/1.wav", "b/1.wav"):
        audio.save(tmp_path / "sounds" / own, 0)
    shutil.copytree("photos/class00", "one/train/class00")
    shutil.copytree("photos/class00", "one/test/class00")
    for name in ("class00", "class01"):
        shutil.copytree(f"photos/{name}", f"more/{name}")
    (tmp_path / "more" / "class09").mkdir()
    with pytest.raises(UserError, match=told) as error:
        reader.support(source)
    assert "data." not in str(error.value)  # no setting of another command


def test_files_that_cannot_be_read_are_named(tmp_path):
    reader = reader_of(data_of("images", tmp_path))
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png is no image .*2\.png is no image"):
        reader.queries([str(tmp_path / "1.png"), str(tmp_path / "2.png")])
    with pytest.raises(UserError, match=f"^{tmp_path}/1.png is no image"):  # as it was typed
        reader.queries([str(tmp_path / "1.png")])
    for read in (reader.support, lambda word: reader.queries([word])):
        with pytest.raises(UserError, match=r"there is no file or folder|one of the words is empty"):
            read("")
    with pytest.raises(UserError, match=r"plants\.csv"):
        reader.queries([str(table.fill(tmp_path / "plants.csv"))])


def test_a_table_without_the_columns_of_training_is_told(tmp_path):
    reader = reader_of(data_of("table", tmp_path))
    with pytest.raises(UserError, match=r"is a folder; give a table \(\.csv, \.tsv, "):
        reader.support(str(tmp_path))
    other = tmp_path / "other.csv"
    other.write_text("length,mass,colour\n1,2,red\n")
    with pytest.raises(UserError, match="there is no column width, which the learner was trained with"):
        reader.queries([str(other)])
    other.write_text("length,width,mass,colour\n1,wide,2,red\n")
    with pytest.raises(UserError, match="the column width must be numbers, as in training"):
        reader.queries([str(other)])


def test_data_without_files_are_told():
    from metalearn_cli.data.gaussian import gaussian

    with pytest.raises(UserError, match=r"was not trained on files .*in Python it takes arrays"):
        reader_of(gaussian(features=4)).queries(["x.csv"])

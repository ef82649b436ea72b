from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sources.mixed import fill

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.common.findings import episode_findings
from metalearn_cli.data.common.pixels import Shape, pixels_of
from metalearn_cli.data.common.rows import columns_of
from metalearn_cli.data.common.tables import vectors
from metalearn_cli.data.common.texts import encoded
from metalearn_cli.data.mixed import mixed

COLUMN = {"text": "caption"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return fill(tmp_path / "things.csv", classes=12, items=3)


def test_each_part_of_a_row_is_treated_as_alone(file: Path) -> None:
    data = mixed(str(file), size=8, length=8, column=COLUMN)
    assert (data.facts.kind, data.facts.groups) == ("mixed", ())
    assert data.facts.values == {"image": "unit", "table": "real", "text": "ids"}
    assert data.facts.shape == {"image": (3, 8, 8), "table": (4,), "text": (8,)}  # mass, missing, red, green
    columns = columns_of(file)
    for split in data.splits.values():
        items: Any = split.items
        rows = [i for name in split.names for i, label in enumerate(columns["species"]) if label == name]
        own = {name: [values[i] for i in rows] for name, values in columns.items()}
        pixels = [pixels_of(Image.open(file.parent / name), Shape(8)) for name in own["image"]]
        np.testing.assert_array_equal(items["image"], pixels)
        assert torch.equal(items["text"], encoded(own["caption"], data.preprocessing["text"]).ids)
        np.testing.assert_array_equal(items["table"], vectors(own, data.preprocessing["table"]["columns"]))
    assert mixed(str(file), size=8, length=8, column=COLUMN).fingerprint == data.fingerprint


def test_its_episodes_are_checked(file: Path) -> None:
    data = mixed(str(file), size=8, length=8, column=COLUMN)
    assert episode_findings(data, way=2, shot=1, query=1) == []
    data.splits["val"].items["table"][:] = np.nan  # type: ignore[call-overload]
    told = {finding.what for finding in episode_findings(data, way=2, shot=1, query=1)}
    assert {word.split()[1] for word in told} == {"support", "query"}


def test_each_part_is_checked_as_alone(file: Path) -> None:
    data = mixed(str(file), size=16, column=COLUMN)
    species = columns_of(file)["species"]
    rows = {split: species.index(own.names[0]) for split, own in data.splits.items()}
    lines = file.read_text().splitlines()
    first, second = (lines[rows[split] + 1].split(",") for split in ("train", "test"))
    second[:2] = first[0], first[1].upper()
    lines[rows["test"] + 1] = ",".join(second)
    file.write_text("\n".join(lines))
    found = mixed(str(file), size=16, column=COLUMN).findings
    assert any(f.where == "image of test" and f.what == "shares 1 single item with train" for f in found)
    assert any(f.where == "text of train and test" and "share 1 text," in f.what for f in found)


def test_a_part_may_be_left_out(file: Path) -> None:
    data = mixed(str(file), size=8, ignore=["caption", "colour"])
    assert data.facts.shape == {"image": (3, 8, 8), "table": (2,)}
    assert data.facts.vocabulary == {}
    with pytest.raises(ConfigError, match="has one kind of parts: see data=images"):
        mixed(str(file), ignore=["caption", "colour", "mass"])


def test_an_index_of_pandas_is_left_out(file: Path) -> None:
    first, *rows = file.read_text().strip().split("\n")
    file.write_text("\n".join([f",{first}", *(f"{i},{row}" for i, row in enumerate(rows))]))
    data = mixed(str(file), size=8, column=COLUMN)
    assert any("as an index of pandas has: left out" in finding.what for finding in data.findings)


def test_rows_without_a_partner_are_told_in_one_list(file: Path) -> None:
    rows = file.read_text().split("\n")
    rows[1] = rows[1].replace("pictures/0-0.png", "pictures/none.png")
    rows[2] = "," + rows[2].split(",", 1)[1]
    rows[3] = ",".join([rows[3].split(",")[0], " ", *rows[3].split(",")[2:]])
    rows[4] = rows[4].replace("species01", "")
    file.write_text("\n".join(rows))
    with pytest.raises(DataError) as refused:
        mixed(str(file), column=COLUMN)
    assert [f"{f.where} {f.what}".replace(f"{file.parent}", "DIR") for f in refused.value.findings] == [
        "DIR/things.csv, line 5 has no label",
        "DIR/things.csv, line 2 names pictures/none.png, which is not in DIR",
        "DIR/things.csv, line 3 has no picture",
        "DIR/things.csv, line 4 has no text",
    ]


def test_a_changed_caption_is_read_again(file: Path) -> None:
    before = mixed(str(file), size=8, column=COLUMN).fingerprint
    file.write_text(file.read_text().replace("thing", "object"))
    assert mixed(str(file), size=8, column=COLUMN).fingerprint != before

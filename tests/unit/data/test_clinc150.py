"""CLINC150: its domains, and files that are not its own."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from sources import clinc150 as small

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.clinc150 import DOMAINS, FILE, clinc150

MIRROR = Path(os.environ.get("MLX_DATA_DIR") or Path(__file__).parents[4] / "shared" / "data") / "clinc150"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def test_ten_domains_of_fifteen_intents():
    intents = [intent for own in DOMAINS.values() for intent in own.split()]
    assert [len(own.split()) for own in DOMAINS.values()] == [15] * 10
    assert len(set(intents)) == 150


@pytest.mark.skipif(not (MIRROR / FILE).is_file(), reason=f"needs {FILE} in $MLX_DATA_DIR/clinc150 or ../shared/data")
@pytest.mark.medium
def test_the_published_file():
    data = clinc150(str(MIRROR), tokenizer="bytes")
    assert [len(split.names) for split in data.splits.values()] == [90, 30, 30]
    assert all(count == 150 for split in data.splits.values() for count in split.counts.tolist())
    assert [len({name.partition("/")[0] for name in split.names}) for split in data.splits.values()] == [6, 2, 2]
    assert not any(finding.blocks for finding in data.findings)


def test_the_mirror_is_the_default(tmp_path, monkeypatch):
    (tmp_path / "clinc150").mkdir()
    settings = small.write(tmp_path / "clinc150")
    monkeypatch.setenv("MLX_DATA_DIR", str(tmp_path))
    assert clinc150(**settings | {"root": None}).fingerprint == clinc150(**settings).fingerprint
    monkeypatch.delenv("MLX_DATA_DIR")
    with pytest.raises(ConfigError, match=r"data\.root: is missing: data\.root=PATH, data_full\.json of "):
        clinc150()


def test_ways_of_splitting(tmp_path):
    settings = small.write(tmp_path)
    by_domain = clinc150(**settings)
    assert by_domain.protocol == "groups, seed 0"
    owners = Counter(d for s in by_domain.splits.values() for d in {name.partition("/")[0] for name in s.names})
    assert owners == Counter(DOMAINS.keys())  # each domain is in one split
    assert clinc150(**settings, within=True).protocol == "groups, seed 0, within domains"
    assert clinc150(**settings, split="classes").protocol == "classes, seed 0"
    same = clinc150(**settings, split="items")
    assert [split.counts.unique().tolist() for split in same.splits.values()] == [[12], [2], [2]]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "is not {"),
        ("[]", "is not {"),
        (json.dumps({"train": [], "val": []}), "is not {.*'test'"),
        (json.dumps({"train": [["a"]], "val": [], "test": []}), "is not {"),
        (json.dumps({"train": [[1, "time"]], "val": [], "test": []}), "a text is not a string"),
        (json.dumps({"train": [["a", "tiem"]], "val": [], "test": []}), r"that CLINC150 does not have: \['tiem'\]"),
        (None, "cannot be read: No such file"),
    ],
)
def test_another_file(tmp_path, content, error):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=error):
        clinc150(str(tmp_path))

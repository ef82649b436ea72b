"""The sets of Bao et al.: their splits of classes, and files that are not theirs."""

from importlib import import_module

import pytest
import sources

from metalearn_cli.core.errors import DataError
from metalearn_cli.data.huffpost import huffpost

SIZES = {"huffpost": [20, 5, 16], "amazon": [10, 5, 9], "newsgroups": [8, 5, 7], "reuters": [15, 5, 11]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", SIZES)
def test_the_published_split_of_classes(tmp_path, name):
    load = getattr(import_module(f"metalearn_cli.data.{name}"), name)
    data = load(**sources.written(name, tmp_path))
    assert (data.name, data.protocol) == (name, "Bao et al. 2020")
    assert [len(split.names) for split in data.splits.values()] == SIZES[name]


def test_newsgroups_are_split_by_topic(tmp_path):
    from metalearn_cli.data.newsgroups import newsgroups

    data = newsgroups(**sources.written("newsgroups", tmp_path))
    tops = [{name.partition(".")[0] for name in split.names} for split in data.splits.values()]
    assert tops == [{"sci", "rec"}, {"comp"}, {"talk", "misc", "alt", "soc"}]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"text": "a b", "label": 1}', "row 1 must have a list of tokens, and a label from 0 to 40; its label is 1"),
        ('{"text": ["a"], "label": 41}', "its label is 41"),
        ('{"text": ["a"], "label": "1"}', "its label is '1'"),
        ('{"text": ["a"]}', r"huffpost\.json has no column label; it has text"),
        ("", r"huffpost\.json has no rows"),
    ],
)
def test_another_file(tmp_path, content, error):
    (tmp_path / "huffpost.json").write_text(content)
    with pytest.raises(DataError, match=error):
        huffpost(str(tmp_path / "huffpost.json"))

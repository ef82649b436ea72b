"""Tables in files: their columns, and every line that cannot be read."""

import pytest

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.common.rows import check_roles, columns_of, named

GIVEN = {"text": None, "label": None, "split": None}


def table(tmp_path, content, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def wrong(path):
    with pytest.raises(DataError) as error:
        columns_of(path)
    return [(finding.where.removeprefix(f"{path}").strip(", "), finding.what) for finding in error.value.findings]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"one, ""two""\nthree",a\n\nfour,b\n'),
        ("a.csv", b'\xef\xbb\xbftext;label\r\n"one, ""two""\nthree";a\r\nfour;b\r\n'),
        ("a.tsv", 'text\tlabel\n"one, ""two""\nthree"\ta\nfour\tb\n'),
        ("a.jsonl", '{"text": "one, \\"two\\"\\nthree", "label": "a"}\n\n{"label": "b", "text": "four"}'),
    ],
)
def test_columns(tmp_path, name, content):
    assert columns_of(table(tmp_path, content, name)) == {"text": ['one, "two"\nthree', "four"], "label": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.csv", "text,label\na,b\nc\nd,e,f\n", ["line 3", "line 4"], "has 1 values, the first line names 2 columns"),
        ("a.csv", "text,text\na,b\n", ["line 1"], "names a column twice: text"),
        ("a.csv", "text,label\n", [""], "has no rows"),
        ("a.csv", "", [""], "has no rows"),
        ("a.csv", 'text,label\n"never closed,b\n', ["line 2"], "cannot be read: unexpected end of data"),
        (
            "a.csv",
            "text,label\nb\xe9,c\n".encode() + "d\xe9,e\n".encode("latin1"),
            ["line 3"],
            "is not UTF-8 text: byte 0xe9",
        ),
        ("a.jsonl", '{"a": 1}\n{"a": \n[1]\n', ["line 2", "line 3"], "is not JSON"),
    ],
)
def test_every_line_that_cannot_be_read(tmp_path, name, content, where, what):
    found = wrong(table(tmp_path, content, name))
    assert [place for place, _ in found] == where
    assert what in found[0][1]


def test_columns_by_role(tmp_path):
    path = table(tmp_path, "Sentence,Intent,extra\na,b,c\n")
    columns = columns_of(path)
    assert named(columns, "text", GIVEN, path) == ("Sentence", ["a"])
    assert named(columns, "label", {**GIVEN, "label": "extra"}, path) == ("extra", ["c"])
    assert named(columns, "split", GIVEN, path, needed=False) is None
    with pytest.raises(ConfigError, match=r"say which one is the split: data.column.split=NAME"):
        named(columns, "split", GIVEN, path)
    with pytest.raises(ConfigError, match="has no column 'Intend'; it has Sentence, Intent, extra") as error:
        named(columns, "label", {**GIVEN, "label": "Intend"}, path)
    assert error.value.problems[0].hint == "Intent"


def test_roles_that_there_are_not():
    with pytest.raises(ConfigError) as error:
        check_roles({"lable": "x", "text": 3}, ("text", "label"))
    assert [(p.key, p.hint) for p in error.value.problems] == [("data.column.lable", "label"), ("data.column.text", "")]

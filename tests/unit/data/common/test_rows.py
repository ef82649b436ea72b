"""Tables in files: their columns, and every line that cannot be read."""

import json
import sys
import time

import pyarrow
import pytest
from pyarrow import ipc, parquet

from metalearn_cli.core.errors import ConfigError, DataError, UserError
from metalearn_cli.data.common import rows
from metalearn_cli.data.common.rows import check_roles, columns_of, named, nearest
from metalearn_cli.data.common.sources import recognised

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
        ("a.csv", "text,label\na,b\nc\nd,e,f\n", ["line 3", "line 4"], "has 1 value, the first line names 2 columns"),
        ("a.csv", "text,text\na,b\n", ["line 1"], "names a column twice: text"),
        ("a.csv", "text,label\r", [""], "has no rows"),
        ("a.csv", "text,label\n", [""], "has no rows"),
        ("a.csv", "", [""], "has no rows"),
        (
            "a.csv",
            'text,label\n"never closed,b\n',
            ["line 2"],
            'has a quote (") that is not closed',
        ),
        (
            "a.csv",
            "text,label\nb\xe9,c\n".encode() + "d\xe9,e\n".encode("latin1"),
            ["line 3"],
            "is not UTF-8 text: byte 0xe9",
        ),
        (
            "a.jsonl",
            r'{"a": ["\ud83d\ude00"]}' + "\n" + r'{"a": ["\uD800"]}',
            ["line 2"],
            r"has half a character, \ud800",
        ),
        ("a.jsonl", '[{"a": 1},\n{"a": 2}]', [""], "is a JSON list; write each of its objects on a line of its own"),
        ("a.jsonl", '{"a": 1}\n{"a": \n[1]\n', ["line 2", "line 3"], "is not JSON"),
    ],
)
def test_every_line_that_cannot_be_read(tmp_path, name, content, where, what):
    found = wrong(table(tmp_path, content, name))
    assert [place for place, _ in found] == where
    assert what in found[0][1]


def test_rows_are_where_an_editor_shows_them(tmp_path):
    quoted = columns_of(table(tmp_path, 'text,label\n"one\n\ntwo",a\r\n\nthree,b\n'))
    assert [quoted.place(row) for row in range(2)] == ["line 2", "line 6"]
    lines = columns_of(table(tmp_path, '\n{"text": "one"}\n\n{"text": "two"}', "a.jsonl"))
    assert [lines.place(row) for row in range(2)] == ["line 2", "line 4"]
    assert columns_of(arrow(tmp_path / "a.parquet", "parquet")).place(1) == "row 2"
    found = wrong(table(tmp_path, 'text,label\n"one\ntwo",a\n"three\n"\n"four\n'))
    assert [place for place, _ in found] == ["line 4", "line 6"]  # where a row begins, not where it ends


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,label\né,猫\n"), ("a.jsonl", '{"text": "é", "label": "猫"}')]
)
def test_an_encoding_that_the_file_says(tmp_path, encoding, name, content):
    path = table(tmp_path, content.encode(encoding), name)
    assert columns_of(path) == {"text": ["é"], "label": ["猫"]}
    assert recognised(str(path)) == "text"


@pytest.mark.parametrize(
    ("content", "where", "what", "cure"),
    [
        ("é,b\n".encode("latin1"), "line 1", "is not UTF-8 text: byte 0xe9", "iconv -f latin1 -t utf-8"),
        ("a,b\nc,d\n".encode("utf-16le"), "", "is not UTF-8 text: it has zero bytes", "iconv -f utf-16le -t utf-8"),
        ("a,b\nc,d\n".encode("utf-16be"), "", "is not UTF-8 text: it has zero bytes", "iconv -f utf-16be -t utf-8"),
        ("a,b\nc,d\n".encode("utf-16")[:-1], "line 2", "is not UTF-16 text", "iconv -f utf-16 -t utf-8"),
    ],
)
def test_the_right_conversion_is_named(tmp_path, content, where, what, cure):
    path = table(tmp_path, content)
    with pytest.raises(DataError) as error:
        columns_of(path)
    (found,) = error.value.findings
    assert found.where.removeprefix(f"{path}").strip(", ") == where
    assert what in found.what and error.value.cure.endswith(cure)


def test_columns_by_role(tmp_path):
    path = table(tmp_path, "Sentence,Intent,extra\na,b,c\n")
    columns = columns_of(path)
    assert named(columns, "text", GIVEN, path) == ("Sentence", ["a"])
    assert named(columns, "label", {**GIVEN, "label": "extra"}, path) == ("extra", ["c"])
    assert named(columns, "split", GIVEN, path, needed=False) is None
    told = r"say which one is the split: data.column.split=NAME, or none; the first line must hold the names of the col"
    with pytest.raises(ConfigError, match=told):
        named(columns, "split", GIVEN, path, instead=", or none")
    with pytest.raises(ConfigError, match="has no column 'Intend'; it has Sentence, Intent, extra") as error:
        named(columns, "label", {**GIVEN, "label": "Intend"}, path)
    assert error.value.problems[0].hint == "Intent"


@pytest.mark.parametrize("value", [{"bytes": b"", "path": "a.png"}, ["a"], [["a"]], b"a"])
def test_a_nested_column_is_named(tmp_path, value):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"label": [None, value], "kind": ["a", "b"], "text": [value, value]}), path)
    columns = columns_of(path)
    with pytest.raises(ConfigError, match=r"data\.column\.label: the column label of .*a\.parquet is \w+: it holds"):
        named(columns, "label", GIVEN, path)
    assert named(columns, "label", {"label": "kind"}, path) == ("kind", ["a", "b"])
    if value == ["a"]:
        assert named(columns, "text", GIVEN, path) == ("text", [["a"], ["a"]])  # words
    else:
        with pytest.raises(ConfigError, match="the column text of"):
            named(columns, "text", GIVEN, path)


@pytest.mark.parametrize(("typed", "hint"), [("SIZE", "size"), ("weight", "'weight, kg'"), ("nothing", "")])
def test_the_nearest_column_as_it_is_typed(typed, hint):
    assert nearest(typed, {"size": [], "weight, kg": []}) == hint


def test_roles_that_there_are_not():
    with pytest.raises(ConfigError) as error:
        check_roles({"lable": "x", "text": 3}, ("text", "label"))
    assert [(p.key, p.hint) for p in error.value.problems] == [("data.column.lable", "label"), ("data.column.text", "")]


FEATURES = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}


def arrow(path, kind, features=None):
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if features else None
    rows = {"text": ["one", "two", None], "label": [1, 0, -1], "tokens": [["a", "b"], [], ["c"]]}
    contents = pyarrow.table(rows).replace_schema_metadata(metadata)
    if kind == "parquet":
        parquet.write_table(contents, path)
    else:
        with {"stream": ipc.new_stream, "file": ipc.new_file}[kind](path, contents.schema) as writer:
            writer.write_table(contents)
    return path


@pytest.mark.parametrize(
    ("kind", "name"), [("parquet", "a.parquet"), ("stream", "a.arrow"), ("file", "a.arrow")], ids=lambda word: word
)
def test_columns_of_parquet_and_arrow(tmp_path, kind, name):
    path = arrow(tmp_path / name, kind)
    expected = {"text": ["one", "two", None], "label": [1, 0, -1], "tokens": [["a", "b"], [], ["c"]]}
    assert columns_of(path) == expected
    named_classes = columns_of(arrow(path, kind, FEATURES))
    assert named_classes == expected | {"label": ["dog", "cat", None]}
    path.write_bytes(path.read_bytes()[:-200])
    assert wrong(path)[0][1].startswith(f"is damaged or cut short, or is no {path.suffix[1:]} file: ")


def test_a_parquet_file_that_declares_too_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("metalearn_cli.data.common.rows.MOST_ROWS", 2)
    assert "its first 3 rows take" in wrong(arrow(tmp_path / "a.parquet", "parquet"))[0][1]


def test_parquet_without_its_package(tmp_path, monkeypatch):
    path = arrow(tmp_path / "a.parquet", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet needs pyarrow; type: pip install 'metalearn-cli\[parquet\]'"):
        columns_of(path)


def test_lines_that_old_macintosh_programs_end_are_read(tmp_path):
    expected = {"text": ["one", "two"], "label": ["a", "b"]}
    assert columns_of(table(tmp_path, "text,label\rone,a\rtwo,b")) == expected
    lines = '{"text": "one", "label": "a"}\r{"text": "two", "label": "b"}\r'
    assert columns_of(table(tmp_path, lines, "a.jsonl")) == expected


def test_marks_within_quotes_separate_nothing(tmp_path):
    (tmp_path / "a.csv").write_text('"id, old, x";text;label\n1;one;a\n')
    assert columns_of(tmp_path / "a.csv") == {"id, old, x": ["1"], "text": ["one"], "label": ["a"]}
    assert recognised(str(tmp_path / "a.csv")) == "text"


def test_the_first_wrong_lines_are_listed_and_the_others_counted(tmp_path):
    found = wrong(table(tmp_path, "text,label\n" + "a\n" * 1000))
    assert len(found) == 21
    assert found[-1] == ("", "has 980 more lines that cannot be read")


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_a_value_that_is_repeated_without_end_is_not_unpacked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(rows, "MOST_BYTES", 10**6)
    repeated = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3000, "int32"), ["x" * 1000])
    content = pyarrow.table({"text": repeated})
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        parquet.write_table(content, path)
    else:
        with (ipc.new_stream if kind == "stream" else ipc.new_file)(path, content.schema) as file:
            file.write_table(content)
    assert path.stat().st_size < 20_000
    (found,) = wrong(path)
    assert found[1].startswith("is too large: its first ")


def test_a_parquet_file_that_declares_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_BYTES", 10**6)
    monkeypatch.setattr(rows, "_unpacked", None)
    parquet.write_table(pyarrow.table({"label": [1] * 50_000}), tmp_path / "a.parquet")
    assert wrong(tmp_path / "a.parquet")[0][1].startswith("is too large: its first 50000 rows take 16")


def test_a_text_of_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_VALUES", 100)
    assert "has 120 values" in wrong(table(tmp_path, "a,b\n" * 60))[0][1]


def test_many_columns_take_little_time(tmp_path):
    names = [f"f{number}" for number in range(30_000)]
    path = table(tmp_path, ",".join(names) + "\n" + ",".join(names) + "\n")
    begin = time.perf_counter()
    assert len(columns_of(path)) == 30_000
    assert time.perf_counter() - begin < 2

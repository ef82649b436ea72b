from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from encoders import WORDS, tokenizer_into

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.tokenizer import tokenized, written

UNK, CLS, SEP = 1, 2, 3  # the ids in the data: the tokenizer's plus one


def test_ids_are_the_tokenizers_plus_one_and_zero_pads(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    found = tokenized(["the cat sat", "wombat", ""], tokenizer_into(tmp_path), length=6)
    the, cat, sat = (1 + WORDS.index(word) for word in ("the", "cat", "sat"))
    assert found.ids.tolist() == [[CLS, the, cat, sat, SEP, 0], [CLS, UNK, SEP, 0, 0, 0], [CLS, SEP, 0, 0, 0, 0]]
    assert found.vocabulary == 1 + len(WORDS)
    assert found.cut == 0


def test_ids_are_written_as_the_tokenizers_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    (ids, *_) = tokenized(["the cat sat"], tokenizer_into(tmp_path), length=5)
    assert written(ids[0].tolist(), tmp_path) == [WORDS[CLS - 1], "the", "cat", "sat", WORDS[SEP - 1]]


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    file = tokenizer_into(tmp_path) / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["model"]["vocab"]["house"] = 500
    file.write_text(json.dumps(settings))
    found = tokenized(["the house"], tmp_path, length=6)
    assert found.ids.max() == 501 and found.vocabulary == 502


def test_a_long_text_is_cut_and_keeps_its_marks(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    found = tokenized(["the cat sat on the mat", "a"], tokenizer_into(tmp_path), length=4)
    assert found.ids[0].tolist() == [CLS, 1 + WORDS.index("the"), 1 + WORDS.index("cat"), SEP]
    assert found.cut == 1


def test_what_is_recorded_is_the_tokenizer_and_not_where_it_is(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    one, two = (tokenized(["a"], tokenizer_into(tmp_path / name), length=4).preprocessing for name in "ab")
    assert one == two
    assert str(tmp_path) not in str(one)


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (None, 4, r"tokenizer\.json cannot be read \(No such file or directory\); transformers writes one: "),
        ("{}", 4, r"tokenizer\.json cannot be used for texts of 4 ids: "),
        ("\x00", 4, r"tokenizer\.json cannot be used for texts of 4 ids: "),
        ("real", 2, r"tokenizer\.json cannot be used for texts of 2 ids: its 2 marks leave no room for words"),
    ],
)
def test_refuses(tmp_path: Path, content: str | None, length: int, message: str) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    if content == "real":
        tokenizer_into(tmp_path)
    elif content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        tokenized(["a"], tmp_path, length)


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"type: pip install 'metalearn-cli\[hf\]'"):
        tokenized(["a"], tmp_path, 4)

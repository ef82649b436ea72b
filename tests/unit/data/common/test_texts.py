"""Texts as ids: vocabularies, what is cut, left out and repeated."""

import json
import random
from collections import Counter

import pytest

from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.data.common import spelling, texts
from metalearn_cli.data.common.manifest import Entry, Placed
from metalearn_cli.data.common.spelling import tokens_of, words_of
from metalearn_cli.data.common.texts import Coding, Passage, encoded, filled, pieces_of, text_data
from metalearn_cli.data.text import text

WORDS = Coding("words", 64, 6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def entries(*texts, label="a"):
    return [Entry(Passage(text, f"row {row}"), label) for row, text in enumerate(texts, 1)]


def placed(train, val=("v", "w"), test=("x", "y")):
    classes = {"train": {"a": entries(*train)}, "val": {"b": entries(*val)}, "test": {"c": entries(*test)}}
    return Placed(classes, "by hand", ())


def test_words():
    assert words_of("Don't STOP:\n\u00c9t\u00e9 \uff12!") == ["don", "'", "t", "stop", ":", "\u00e9t\u00e9", "2", "!"]


def test_pieces_are_joined_from_the_commonest_pairs():
    pieces = pieces_of({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 40)
    letters, joined = pieces[:11], pieces[11:]
    assert letters == ["##e", "##w", "##s", "##t", "##o", "l", "n", "##d", "##i", "w", "##r"]  # by their number
    assert joined[:5] == ["##es", "##est", "##ow", "low", "##ew"]
    assert {"lower", "newest", "widest"} < set(joined)


def test_tokens_are_written_as_they_were_read():
    words = {"tokenizer": "words", "length": 6, "pieces": "low ##er ##est"}
    assert tokens_of(encoded(["low lower z"], words).ids[0, :4].tolist(), words) == ["low", "low", "##er", "[unknown]"]
    as_bytes = {"tokenizer": "bytes", "length": 4}
    assert tokens_of(encoded(["a\n\u00e9"], as_bytes).ids[0].tolist(), as_bytes) == ["a", "\\n", "\\xc3", "\\xa9"]


@pytest.mark.medium
def test_long_words_are_learnt_by_some_of_their_parts(monkeypatch):
    monkeypatch.setattr(texts, "MOST_PARTS", 100)
    letters = random.Random(0)
    words = {"".join(letters.choices("acgt", k=3000)): count for count in (1, 2, 3)}
    parts = [(word[start : start + 64], count) for word, count in words.items() for start in range(0, 3000, 64)]
    ordinary = {"low": 5, "l" * 64: 2}
    assert pieces_of(words | ordinary, 60) == pieces_of(dict(parts[:100]) | ordinary, 60)


def test_a_vocabulary_keeps_its_size_and_half_of_it_may_be_letters():
    words = Counter({"ab": 1, "cd": 1, "ef": 1, "gg": 9, "hi": 8})
    pieces = pieces_of(words, 4)
    assert len(pieces) == 4
    assert [len(piece.removeprefix("##")) for piece in pieces] == [1, 1, 2, 2]
    assert pieces_of({"ab": 1}, 9) == ["##b", "a"]  # no pair occurs twice


def test_unseen_words_are_spelt_by_pieces_that_are_known():
    how = {"tokenizer": "words", "length": 6, "pieces": "un lo ##w ##wer ##est s"}
    ids, cut = encoded(["Lowest s", "LOWER zunlos", ""], how)
    assert ids.tolist() == [[3, 4, 6, 7, 0, 0], [3, 5, 1, 1, 1, 1], [0] * 6]
    assert cut == 1


def test_bytes():
    ids, cut = encoded(["A\u00e9", "abcdefg"], {"tokenizer": "bytes", "length": 4})
    assert ids.tolist() == [[66, 196, 170, 0], [98, 99, 100, 101]]
    assert cut == 1


@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_a_later_text_is_encoded_as_those_of_the_data(tokenizer):
    data = text_data("text", placed(["good day", "good night"], ["day", "dog"]), WORDS._replace(tokenizer=tokenizer))
    kept = json.loads(json.dumps(data.preprocessing))
    for split, own in {"train": ["good day", "good night"], "val": ["day", "dog"]}.items():
        assert encoded(own, kept).ids.tolist() == data.splits[split].items.tolist()
    assert data.facts.vocabulary == data.about["vocabulary"]
    assert 0 < int(data.splits["train"].items.max()) < data.facts.vocabulary
    assert (data.facts.kind, data.facts.values, data.facts.shape) == ("text", "ids", (6,))


def test_a_vocabulary_is_learnt_from_training_classes_alone():
    one = text_data("text", placed(["good day", "good night"]), WORDS)
    other = text_data("text", placed(["good day", "good night"], ["other words", "entirely"]), WORDS)
    assert one.preprocessing == other.preprocessing
    assert one.fingerprint != other.fingerprint


def test_a_long_word_is_spelt_no_further_than_it_is_used():
    spelt = spelling._speller("a ##a", 3)("a" * 10**6)
    assert spelt == (2, 3, 3)
    preprocessing = {"tokenizer": "words", "length": 2, "pieces": "a ##a"}
    found = encoded(["aaa", "aa"], preprocessing)
    assert (found.ids.tolist(), found.cut) == ([[2, 3], [2, 3]], 1)


def test_what_is_cut_is_counted():
    data = text_data("text", placed(["a b c d e f", "a b c d e f g"]), WORDS)
    assert (data.about["texts"], data.about["cut to length"]) == (6, 1)


def test_texts_in_several_splits_are_named():
    data = text_data("text", placed(["Good day!", "one"], ["good, day", "two"], ["one", "GOOD DAY"]), WORDS)
    found = {finding.where: finding.told for finding in data.findings if "punctuation" in finding.what}
    told = "but for case and punctuation:"
    assert found == {
        "train and val": f"share 1 text, {told} row 1 and row 1",
        "train and test": f"share 2 texts, {told} row 1 and row 2; row 2 and row 1",
        "val and test": f"share 1 text, {told} row 1 and row 2",
    }


def test_marks_alone_are_a_text_of_their_own():
    data = text_data("text", placed(["!", "a"], ["?", "b"], ["\U0001f600", "c"]), WORDS)
    assert not [finding for finding in data.findings if "punctuation" in finding.what]


def test_empty_texts_are_left_out_and_named():
    kept, findings = filled(entries("a", "", " \n", "b", *[""] * 5))
    assert [entry.source.text for entry in kept] == ["a", "b"]
    assert [(finding.blocks, f"{finding.where} {finding.told}") for finding in findings] == [
        (False, "7 rows without a text: left out: row 2; row 3; row 5; row 6; row 7 and 2 more")
    ]


def test_texts_without_a_label_are_refused():
    kept, findings = filled([*entries("a", label=""), *entries("b", "")])
    assert [entry.source.text for entry in kept] == ["b"]
    told = (True, "1 row", "without a label; name the class of each text, or remove it", ("row 1",))
    assert findings == (told, (False, "1 row", "without a text: left out", ("row 2",)))


def test_an_encoders_own_tokenizer(tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from encoders import WORDS as known
    from encoders import tokenizer_into

    folder = tokenizer_into(tmp_path / "encoder")
    data = text_data("text", placed(["the cat", "a dog sat"]), Coding(str(folder), 64, 6))
    assert data.facts.vocabulary == 1 + len(known)
    kept = json.loads(json.dumps(data.preprocessing))
    assert encoded(["the cat", "a dog sat"], kept, folder).ids.tolist() == data.splits["train"].items.tolist()
    with pytest.raises(UserError, match="has another tokenizer than the one of these data"):
        encoded(["the cat"], {**kept, "tokenizer": "0"}, folder)


def test_a_tokenizer_that_there_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.tokenizer: is words, bytes or a folder with a tokenizer\.json"):
        text_data("text", placed(["a", "b"]), WORDS._replace(tokenizer=str(tmp_path)))


def test_letters_that_no_training_text_has(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))
    letters = [chr(0x4E00 + 40 * k) for k in range(12)]
    rows = [f"{''.join(chr(ord(letter) + i + j) for j in range(6))},{letter}" for letter in letters for i in (0, 9)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    told = {f.where: f.what for f in text(str(tmp_path / "t.csv")).findings}
    assert "letters that no training text has (100 %); data.tokenizer=bytes" in told["the texts of test"]
    assert not any("letters" in f.what for f in text(str(tmp_path / "t.csv"), tokenizer="bytes").findings)

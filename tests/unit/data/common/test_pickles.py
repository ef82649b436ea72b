from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import old_pickle

from metalearn_cli.data.common import pickles
from metalearn_cli.data.common.pickle_values import Refused
from metalearn_cli.data.common.pickles import read_npy, read_pickle

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
PLAIN: dict[str, Any] = {
    "cifar": {"data": IMAGES.reshape(4, -1), "fine_labels": [1, 2, 3, 70000], "filenames": ["a.png", "n" * 300]},
    "mini-imagenet": {"image_data": IMAGES, "class_dict": {"n01532829": [0, 1], "n2": np.array([2, 3])}},
    "png": [np.arange(5, dtype=np.uint8)[:, None], np.arange(7, dtype=np.uint8)[:, None]],
    "values": [None, True, False, 0, -1, 255, 65536, 2**40, -(2**70), 1.5, float("inf"), (), (1,), (1, 2, 3, 4)],
    "texts": ["", "short", "x" * 300, "it's\n\t\\"],
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(8)[::2],
    "big-endian": np.arange(3, dtype=">i4"),
    "strings": np.array(["ab", "c"]),
    "no axis": np.array(5.0),
    "no items": np.zeros((0, 8, 8, 3), np.uint8),
    "scalars": [np.float32(2), np.int64(3), np.bool_(True)],
    "objects": np.array([["a", b"x"], [None, [1, (2,)]]], object),
}


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        parts = zip(one.ravel().tolist(), two.ravel().tolist(), strict=True)
        return (one.shape, one.dtype) == (two.shape, two.dtype) and all(same(*part) for part in parts)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and all(same(*part) for part in zip(one, two, strict=True))
    return bool(one == two)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_read_as_it_was_written(name: str, protocol: int) -> None:
    assert same(PLAIN[name], read_pickle(pickle.dumps(PLAIN[name], protocol)))


@pytest.mark.parametrize("protocol", range(3))
@pytest.mark.parametrize("name", ["cifar", "mini-imagenet", "png", "values", "texts", "fortran", "no items"])
def test_plain_data_of_python_2_is_read(name: str, protocol: int) -> None:
    content = old_pickle(PLAIN[name], protocol)
    assert b"numpy._core" not in content and (protocol != 2 or b"X" not in content.replace(b"x" * 300, b"")[:40])
    assert same(PLAIN[name], read_pickle(content))


def test_text_of_python_2_is_latin1() -> None:
    assert read_pickle(b"U\x03\xe9a\xff.") == "\xe9a\xff"
    assert read_pickle(b"(dU\x01\xe9K\x01s.") == {"\xe9": 1}


def test_bytes_stay_bytes() -> None:
    assert read_pickle(pickle.dumps({b"data": b"\xff\x00", "b": bytearray(b"x")}, 5)) == {
        b"data": b"\xff\x00",
        "b": b"x",
    }


class Hostile:
    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        mark = f"touch {self.how}"
        return {
            "call": (os.system, (mark,)),
            "builtin": (eval, ("1 + 1",)),
            "state": (OrderedDict, (), {"x": 1}),
            "object": (date, (b"\x07\xe8\x01\x01",)),
            "numpy": (np.load, ("/etc/passwd",)),
        }[self.how]


def refusal(content: bytes) -> str:
    with pytest.raises(ValueError) as error:
        read_pickle(content)
    return str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("how", "asked"),
    [
        ("call", "posix.system"),
        ("builtin", "eval"),
        ("state", "collections.OrderedDict"),
        ("object", "datetime.date"),
        ("numpy", "numpy.load"),
    ],
)
def test_what_is_no_plain_data_is_refused_by_name(
    how: str, asked: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(pickle.dumps({"data": [Hostile(how)]}, protocol))
    assert asked in message
    assert "which is no plain data: only numbers, strings, lists, dicts and numpy arrays of them are read" in message
    assert list(tmp_path.iterdir()) == []


NDARRAY = b"cnumpy\nndarray\n"
TYPE = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cos\nsystem\n(S'touch x'\ntR.", r"asks for os\.system"),
        (b"(S'touch x'\nios\nsystem\n.", r"asks for os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"asks for os\.system"),
        (b"cnumpy\nndarray\n)\x81.", "asks for an object of a class"),
        (b"(cnumpy\nndarray\no.", "asks for an object of a class"),
        (b"cnumpy\nndarray\n)}\x92.", "asks for an object of a class"),
        (NDARRAY + b"(I1\ntR.", r"asks for a call of numpy\.ndarray"),
        (b"S'text'\n)R.", "asks for a call of bytes"),
        (NDARRAY + b"}b.", r"asks for a change of numpy\.ndarray"),
        (b"]}b.", "asks for a change of list"),
        (NDARRAY + b".", r"asks for numpy\.ndarray"),
        (TYPE % b"u1" + b".", "asks for a type without an array"),
        (b"Pname\n.", "asks for an object outside of the file"),
        (b"S'name'\nQ.", "asks for an object outside of the file"),
        (b"\x97.", "asks for a buffer outside of the file"),
        (b"\x82\x01.", "asks for a registered class"),
        (b"\x8f.", "asks for a set"),
        (b"}(I1\nt]s.", "asks for a dict with keys of type tuple"),
        (b"}]]s.", "asks for a dict with keys of type list"),
        (b"cos\n" + b"x" * 10**6 + b"\n.", r"^asks for os\.x{90,97}, which"),
        (b"cos\n\x1b[31m\n.", r"^asks for os\.\\x1b\[31m, which"),
    ],
)
def test_each_instruction_that_could_run_something_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_pickle(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
            "^is cut short: it declares 4611686018427387904 bytes and has 2",
        ),
        (b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.", "^is cut short: it declares 4611686018427387904 bytes"),
        (b"\x96" + struct.pack("<Q", 1 << 31) + b"x.", "^is cut short: it declares 2147483648 bytes"),
        (b"T" + struct.pack("<i", -5) + b"x.", "^is cut short"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.", "^is cut short: it declares 2147483647 bytes"),
        (b"\x8b" + struct.pack("<i", 1000) + bytes(1000) + b".", "^has a number of 1000 bytes"),
        (b"I" + b"9" * 10**6 + b"\n.", "^has a number of 100000[01] characters"),
        (b"L" + b"9" * 10**6 + b"L\n.", "^has a number of 100000[01] characters"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.", None),  # a frame alone reserves nothing
        (b"Nr" + struct.pack("<I", 2**32 - 1) + b".", None),  # nor does a place in the memo
        (b"(" * 10**5 + b".", "^is damaged"),
    ],
)
def test_declared_sizes_are_bounded(content: bytes, said: str | None) -> None:
    if said is None:
        assert read_pickle(content) is None
    else:
        with pytest.raises(ValueError, match=said):
            read_pickle(content)


def test_too_many_instructions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 100)
    assert read_pickle(b"N" * 99 + b".") is None
    assert refusal(b"N" * 100 + b".") == "has more than 100 instructions"


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_cut_and_every_flipped_byte_ends_in_data_or_a_sentence(protocol: int) -> None:
    content = pickle.dumps({"data": IMAGES[:1, :2], "labels": [1, 2], "o": np.array(["a", None], object)}, protocol)
    for at in range(len(content)):
        assert refusal(content[:at])
        for bit in (1, 64, 128):
            damaged = bytearray(content)
            damaged[at] ^= bit
            try:
                read_pickle(bytes(damaged))
            except ValueError as error:
                assert type(error) is Refused, error


def npy(array: Any, **rest: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **rest)
    return file.getvalue()


@pytest.mark.parametrize("name", ["fortran", "strided", "big-endian", "strings", "no axis", "no items", "objects"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_are_read(name: str, version: tuple[int, int]) -> None:
    assert same(PLAIN[name], read_npy(npy(PLAIN[name], version=version)))


def test_an_npy_file_of_python_2_is_read() -> None:
    content = npy(np.arange(3)).replace(b"(3,), } ", b"(3L,), }")
    assert read_npy(content).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "^is damaged: it does not begin as"),
        (b"no array", "^is damaged: it does not begin as"),
        (npy(np.arange(3))[:-1], "^declares an array of 24 bytes and has 23 for it"),
        (
            npy(np.arange(3)).replace(b"(3,), }" + b" " * 9, b"(3000000000,), }"),
            "^declares an array of 24000000000 bytes",
        ),
        (npy(np.zeros(0)).replace(b"(0,), }" + b" " * 33, b"(0, " + b"9" * 30 + b"), }  "), "^is damaged: its parts"),
        (npy(np.zeros(1, "i4,f4")), "^has an array of type"),
        (npy(np.zeros(1, "M8[s]")), "^has an array of type"),
        (npy(np.array([Hostile("call")], object)), r"^asks for posix\.system"),
        (npy(np.array([1], object)).replace(b"(1,)", b"(2,)"), "^is damaged"),
    ],
)
def test_npy_files_that_cannot_be_read_are_said(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_npy(content)

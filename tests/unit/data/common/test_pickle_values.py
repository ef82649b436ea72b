from __future__ import annotations

import mmap
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from metalearn_cli.data.common.pickles import read_pickle


def test_arrays_share_the_memory_of_a_mapped_file(tmp_path: Path) -> None:
    images = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    path = tmp_path / "images.pkl"
    path.write_bytes(pickle.dumps(images, 4))
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = read_pickle(content)
    assert (array == images).all()
    assert not array.flags.writeable and not array.flags.owndata


NDARRAY = b"cnumpy\nndarray\n"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"(I0\ntS'b'\ntR"  # an array whose items follow
TYPE = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"


def items(shape: bytes, kind: bytes, data: bytes) -> bytes:
    return EMPTY + b"(I1\n(" + shape + b"t" + TYPE % kind + b"I00\n" + data + b"tb."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (items(b"I2000000000\n", b"u1", b"S'abc'\n"), "declares an array of 2000000000 bytes and has 3 for it"),
        (items(b"I2000000000\n", b"O8", b"]"), "^is damaged"),
        (items(b"I-1\n", b"u1", b"S''\n"), "^is damaged"),
        (items(b"I0\nL9999999999999999999999L\n", b"u1", b"S''\n"), "^is damaged"),
        (items(b"L9999999999L\n", b"S0", b"S''\n"), "^has an array of type"),
        (items(b"I1\n", b"S999999999", b"S''\n"), "declares an array of 999999999 bytes and has 0 for it"),
        (items(b"I1\n", b"V8", b"S'12345678'\n"), "^has an array of type 'V8'"),
        (items(b"I1\n", b"M8", b"S'12345678'\n"), "^has an array of type 'M8'"),
        (items(b"I1\n", b"f3", b"S'123'\n"), "^is damaged"),
        (items(b"I1\n", b"u1", b"S'x'\n")[:-1] + b"(I1\n(I1\nt" + TYPE % b"u1" + b"I00\nS'x'\ntb.", "^is damaged"),
        (EMPTY + b".", "^is damaged"),
        (TYPE % b"u1" + b"(I3\nS'|'\nNS'name'\n(dI-1\nI-1\nI0\ntb.", "^has an array of records"),
        (b"(" * 100 + b"l" * 100 + b".", "^has lists within lists, more than 16 deep"),
        (b"]q\x00h\x00a.", "^repeats parts of itself"),  # a list that contains itself
        (b"]q\x00(h\x00h\x00e" + b"N0" * 50 + b".", "^has lists within lists"),
    ],
)
def test_sizes_and_depths_are_bounded(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_pickle(content)


@pytest.mark.parametrize(
    "shape",
    [
        b"V" + b"A" * 1000 + b"\nI100000\n",  # a product of text is a longer text
        b"(" + b"N" * 1000 + b"tI100000\n",
        b"I1\n" * 33,
        b"L%dL\nI0\n" % 2**63,
    ],
    ids=["text", "tuple", "axes", "long"],
)
@pytest.mark.parametrize("kind", [b"O8", b"u1"])
def test_a_shape_is_checked_before_it_is_multiplied(shape: bytes, kind: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^is damaged"):
            read_pickle(items(shape, kind, b"]" if b"I0" in shape else b"(Nl"))
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_parts_repeated_without_end_are_refused() -> None:
    # each list holds the one before ten times: a billion values in a few hundred bytes
    lists = b"]q\x00" + b"".join(b"](" + b"h%c" % k * 10 + b"eq%c" % (k + 1) for k in range(9))
    # the same bytes made again and again, of which the pickle names one
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x000]" + b"c_codecs\nencode\nh\x00\x85Ra" * 100
    for content in (lists, text):
        with pytest.raises(ValueError, match=r"^repeats parts of itself too often$"):
            read_pickle(content + b".")


def test_a_string_that_is_repeated_is_kept_once() -> None:
    texts = read_pickle(b"U\x04textq\x000](" + b"h\x00" * 100 + b"e.")
    assert texts == ["text"] * 100 and len(set(map(id, texts))) == 1

from __future__ import annotations

import struct

import numpy as np
import pytest
from foreign import _masked, example, record
from tensorboardX.crc32c import crc32c as reference

from metalearn_cli.data.common.tfrecords import crc32c, examples


def read(content: bytes) -> list[tuple[bytes, int]]:
    return list(examples(content))


def test_images_and_labels_are_read_whatever_else_is_there() -> None:
    first = example(image=b"\xff\xd8" * 3000, label=7)
    second = example(name=b"x", label=2**40, image=b"", count=5)
    assert read(record(first) + record(second)) == [(b"\xff\xd8" * 3000, 7), (b"", 2**40)]
    assert read(record(example(label=-1, image=b"x"))) == [(b"x", -1)]
    assert read(b"") == []


def test_fields_that_are_not_known_are_skipped() -> None:
    numbers = b"\x08\x07" + b"\x11" + bytes(8) + b"\x1d" + bytes(4)  # a varint, 8 bytes, 4 bytes
    assert read(record(numbers[2:] + example(image=b"x", label=1))) == [(b"x", 1)]


def test_an_integer_that_is_not_packed_is_read() -> None:
    packed = example(image=b"x", label=9)
    alone = packed.replace(b"\x1a\x03\x0a\x01\x09", b"\x1a\x02\x08\x09").replace(b"label\x12\x05", b"label\x12\x04")
    shorter = bytes([alone[0], alone[1] - 1, *alone[2:]])
    at = shorter.index(b"\x0a\x05label") - 1  # the length of the entry
    assert read(record(shorter[:at] + bytes([shorter[at] - 1]) + shorter[at + 1 :])) == [(b"x", 9)]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 127, 128, 129, 1000, 4096, 5003])
def test_the_checksum_is_that_of_others(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == crc32c(memoryview(data)) == reference(data)


def test_the_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


GOOD = record(example(image=b"picture", label=3))


@pytest.mark.parametrize("length", [1, 8, 11, 12, 20, len(GOOD) - 1])
def test_a_file_cut_short_is_said(length: int) -> None:
    with pytest.raises(ValueError, match=f"^is cut short.*the record at byte {len(GOOD)}"):
        read(GOOD + GOOD[:length])


def test_a_huge_length_is_said_before_anything_is_read() -> None:
    length = struct.pack("<Q", 1 << 40)
    with pytest.raises(ValueError, match="declares 1099511627776 bytes, 21 are left"):
        read(length + _masked(length) + b"too short")


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_a_byte_that_flipped_is_said(at: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 4
    with pytest.raises(ValueError, match=r"^is damaged: the checksum of"):
        read(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (example(label=1), "^has no image in record 0"),
        (example(image=b"x"), "^has no label in record 0"),
        (example(image=1, label=b"x"), "^has no image in record 0"),
        (example(image=b"x", label=1)[:-1], "^is damaged: record 0 is no Example"),
        (b"\x0b", "^is damaged: record 0 is no Example"),
        (b"\xff" * 20, "^is damaged: record 0 is no Example"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "^is damaged: record 0 is no Example"),
    ],
)
def test_what_is_no_labelled_image_is_said(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(record(data))

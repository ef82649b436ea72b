"""TFRecord files of Meta-Dataset: labelled images, one protobuf message `Example` each.

A record is the length of its data (uint64), a checksum of the length, the data, a checksum of the data. A checksum is a
masked CRC32C. An Example maps names of features to lists of values; here `image`, bytes, and `label`, an integer.

Each function raises a ValueError whose text, after the name of the file, makes a sentence.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # of CRC32C, its lowest bit first
MASK = 0xA282EAD8
CHUNK = 64  # bytes of long data, whose checksum is computed chunk beside chunk

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""How the value of a protobuf field is written."""

_OF_BYTES, _OF_INTEGERS = 1, 3
"""The kinds of lists that a feature may be."""


def examples(content: bytes | mmap.mmap) -> Iterator[tuple[memoryview, int]]:
    """Yield image, still encoded, and label of each record of a file; the image shares the memory of `content`.

    Raises:
        ValueError: if a record is cut short, damaged, or has no image or no label.
    """
    for number, record in enumerate(_records(content)):
        try:
            found = dict(_example(record))
            yield found["image", _OF_BYTES], _integer(found["label", _OF_INTEGERS])
        except KeyError as error:
            raise ValueError(f"has no {error.args[0][0]} in record {number}") from error
        except (IndexError, struct.error) as error:
            raise ValueError(f"is damaged: record {number} is no Example of an image and a label") from error


def _records(content: bytes | mmap.mmap) -> Iterator[memoryview]:
    """Yield the data of each record, whose checksums are right."""
    view, at = memoryview(content), 0
    while at < len(view):
        here = f"the record at byte {at}"
        if len(view) - at < 12:
            raise ValueError(f"is cut short in {here}")
        length, checksum = struct.unpack_from("<QI", view, at)
        if masked_crc(view[at : at + 8]) != checksum:
            raise ValueError(f"is damaged: the checksum of the length of {here} is wrong")
        if length + 16 > len(view) - at:
            raise ValueError(f"is cut short: {here} declares {length} bytes, {len(view) - at} are left")
        data = view[at + 12 : at + 12 + length]
        if masked_crc(data) != struct.unpack_from("<I", view, at + 12 + length)[0]:
            raise ValueError(f"is damaged: the checksum of {here} is wrong")
        yield data
        at += length + 16


def _example(record: memoryview) -> Iterator[tuple[tuple[str, int], memoryview]]:
    """Yield name, kind of list, and values of each feature of an Example."""
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            name = str(next(_fields(entry, 1), b""), "utf-8", "replace")
            for feature in _fields(entry, 2):
                for kind in (_OF_BYTES, _OF_INTEGERS):
                    for values in _fields(feature, kind):
                        for value in _fields(values, 1):
                            yield (name, kind), value


def _fields(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the fields of a protobuf message that have a number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        start, kind = at, tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, start = _varint(message, at)
            at = start + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise IndexError("an unknown kind of field")
        if at > len(message):
            raise IndexError("a field is longer than its message")
        if tag >> 3 == wanted:
            yield message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a position, seven bits per byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError("a number is too long")


def _integer(value: memoryview) -> int:
    """Return an int64."""
    number, _ = _varint(value, 0)
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def masked_crc(data: bytes | memoryview) -> int:
    """Return the CRC32C of data, changed as TFRecords do, because a checksum of checksums would be a weak one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC32C (Castagnoli) of data."""
    # What a byte does to the register is linear in both: long data is cut into chunks of equal length, each from a
    # register of zero and all at once; then a register is carried over the next chunk, as if over so many zeros.
    count, table = len(data) // CHUNK, _table()
    crc, steps = 0xFFFFFFFF, table.tolist()
    if count > 1:
        columns = np.frombuffer(data, np.uint8, count * CHUNK).reshape(count, CHUNK).T.copy()
        registers = np.zeros(count, np.uint32)
        for column in columns:
            registers = table[(registers ^ column) & 0xFF] ^ registers >> np.uint32(8)
        first, second, third, fourth = _across_a_chunk()
        for register in registers.tolist():
            crc = first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24] ^ register
        data = data[count * CHUNK :]
    for byte in data:
        crc = steps[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    """Return what each byte does to a register [256]."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


@cache
def _across_a_chunk() -> list[list[int]]:
    """Return what a chunk of zeros does to a register, by the value of each of its bytes [4][256]."""
    table = _table()
    registers = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(CHUNK):
        registers = table[registers & 0xFF] ^ registers >> np.uint32(8)
    carried: list[list[int]] = registers.tolist()
    return carried

"""Files as other programs write them: small images, pickles of Python 2, TFRecords."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboardX.crc32c import crc32c  # of another author than the one that is tested


def pixels(seed: int, side: int = 8) -> NDArray[np.uint8]:
    """Return an image [side, side, 3] that no other seed has."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def encoded(seed: int, side: int = 8, kind: str = "PNG") -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, side)).save(buffer, kind)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class _Python2(pickle._Pickler):  # type: ignore[misc]  # a private class, but the only pickler that can be changed
    """Writes strings and bytes as Python 2 wrote its strings, and the names of numpy before version 2."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        if self.proto < 1:
            self.write(b"S" + repr(data)[1:].encode() + b"\n")
        elif len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(b"c" + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global
    dispatch[type(len)] = dispatch[type(pickle.loads)] = save_global


def old_pickle(value: object, protocol: int = 2) -> bytes:
    """Return a pickle as Python 2 wrote it."""
    file = io.BytesIO()
    _Python2(file, protocol).dump(value)
    return file.getvalue()


def record(data: bytes) -> bytes:
    """Return a record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def example(**features: bytes | int) -> bytes:
    """Return an Example of features that are bytes or whole numbers."""
    entries = b"".join(_field(1, _field(1, name.encode()) + _field(2, _list(v))) for name, v in features.items())
    return _field(1, entries)


def _list(value: bytes | int) -> bytes:
    return _field(1, _field(1, value)) if isinstance(value, bytes) else _field(3, _field(1, _varint(value)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    value, digits = value & (1 << 64) - 1, []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])

"""What a pickle may build: plain data and numpy arrays of it; `GLOBALS` has all that it may call.

Declared sizes are compared with the bytes that are there before anything is created, and parts that are repeated are
counted, so that a small file cannot ask for much memory or time.

Each error is a ValueError whose text, after the name of the file, makes a sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_AXES = 32  # of an array
DEEPEST = 16  # lists within lists
LONGEST_NAME = 100  # in a message
PLAIN = "only numbers, strings, lists, dicts and numpy arrays of them are read"
DAMAGED = "is damaged: its parts do not fit together"
REPEATS = "repeats parts of itself too often"


class Refused(ValueError):
    """Its text, after the name of the file, makes a sentence."""


def shared_array(data: bytes | memoryview, dtype: np.dtype[Any], shape: Any, order: Any) -> Array:
    """Return an array that shares the memory of `data`, which must have exactly its size.

    Args:
        data: the items.
        dtype: of numbers or text.
        shape: of the array.
        order: "F" or True if the first axis is the fastest.

    Raises:
        ValueError: if they do not fit together.
    """
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise Refused(f"has an array of type {dtype}: {PLAIN}")
    if (size := _count(shape) * dtype.itemsize) != len(data):
        raise Refused(f"declares an array of {size} bytes and has {len(data)} for it")
    try:
        array: Array = np.ndarray(shape, dtype, data, order="F" if order in ("F", True) else "C")
    except (ValueError, OverflowError) as error:  # too many axes, or one that is too long beside one of length 0
        raise Refused(DAMAGED) from error
    array.flags.writeable = False
    return array


def _count(shape: Any) -> int:
    """Return how many items an array of a shape has: the shape is checked before anything is multiplied."""
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
        raise Refused(DAMAGED)
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in shape):
        raise Refused(DAMAGED)
    return math.prod(shape)


class Bytes:
    """Bytes of the file: those of an array, or a value of their own, which is copied once however often it is used.

    Args:
        data: the bytes.
        text: whether they are a string of Python 2.
    """

    def __init__(self, data: memoryview, text: bool = False) -> None:
        self.data, self.text = data, text
        self._value: str | bytes | None = None

    @property
    def value(self) -> str | bytes:
        """The bytes as a value of their own."""
        if self._value is None:
            self._value = str(self.data, "latin1") if self.text else bytes(self.data)
        return self._value


class Dtype:
    """The type of an array; its byte order may follow in a second step."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[biufcSUO]\d{0,9}", code):
            raise Refused(f"has an array of type {code!r}: {PLAIN}")
        self.code, self.order = code, "="

    def set(self, state: Any) -> None:
        """Take the byte order.

        Raises:
            ValueError: if there is none, or if it is a type of records.
        """
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise Refused(f"has an array of records: {PLAIN}")
        self.order = text_of(order)
        if self.order not in ("<", ">", "=", "|"):
            raise Refused(DAMAGED)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type, as numpy has it."""
        return np.dtype(self.order + self.code)


class PickledArray:
    """An array whose items follow in a second step; those that are no numbers are values of their own."""

    array: Array | None = None
    items: list[object] | None = None
    shape: Any = ()

    def set(self, state: Any) -> None:
        """Take the shape, type and items.

        Raises:
            ValueError: if they do not fit together, or have been set before.
        """
        *_, shape, dtype, fortran, data = state  # the oldest have no version in front
        if self.array is not None or self.items is not None or not isinstance(dtype, Dtype):
            raise Refused(DAMAGED)
        if dtype.code[0] != "O":
            self.array = shared_array(_data(data), dtype.numpy, shape, fortran)
        elif isinstance(data, list) and _count(shape) == len(data):
            self.items, self.shape = data, shape
        else:
            raise Refused(DAMAGED)


@dataclass(frozen=True)
class Global:
    """Something that a pickle names; it is called with the arguments that the pickle gives, if it can be called."""

    name: str
    call: Callable[..., object] | None


def text_of(value: object) -> str:
    """Return a string of Python 2 or 3.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, Bytes):
        value = value.value
    if not isinstance(value, str):
        raise Refused(DAMAGED)
    return value


def _data(value: object) -> bytes | memoryview:
    """Return the bytes of an array."""
    if isinstance(value, Bytes):
        return value.data
    if not isinstance(value, bytes):
        raise Refused(DAMAGED)
    return value


def _encoded(text: str, encoding: object = "latin1") -> bytes:
    """Return bytes that Python 3 wrote for Python 2."""
    if text_of(encoding) not in ("latin1", "latin-1"):
        raise Refused(DAMAGED)
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _new_dtype(code: object, *_: object) -> Dtype:
    return Dtype(text_of(code))


def _new_array(kind: object, *_: object) -> PickledArray:
    if kind is not _NDARRAY:
        raise Refused(DAMAGED)
    return PickledArray()


def _from_buffer(data: object, dtype: Dtype, shape: object, order: object, *axes: object) -> PickledArray:
    array = PickledArray()
    if axes and axes != (None,):
        raise Refused(f"has an array with its axes in another order: {PLAIN}")
    array.set((shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Dtype, data: object) -> object:
    return shared_array(_data(data), dtype.numpy, (), "C").item()


_NDARRAY = Global("numpy.ndarray", None)
GLOBALS = {  # all that a pickle may name
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": Global("numpy.dtype", _new_dtype),
    "_codecs.encode": Global("_codecs.encode", _encoded),
    "builtins.bytes": Global("bytes", _no_bytes),
    "__builtin__.bytes": Global("bytes", _no_bytes),
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    GLOBALS[f"{_core}.multiarray._reconstruct"] = Global("_reconstruct", _new_array)
    GLOBALS[f"{_core}.multiarray.scalar"] = Global("scalar", _scalar)
    GLOBALS[f"{_core}.numeric._frombuffer"] = Global("_frombuffer", _from_buffer)


def refusal(what: str) -> Refused:
    """Return the error of a pickle that asks for something."""
    what = ascii(what)[1:-1][:LONGEST_NAME]  # a name may hold what a terminal would obey
    return Refused(f"asks for {what}, which is no plain data: {PLAIN}")


def kind_of(value: object) -> str:
    """Return what a value is, for messages."""
    return value.name if isinstance(value, Global) else type(value).__name__.strip("_").lower()


def key_of(value: object) -> object:
    """Return a key of a dict: a hash of nested tuples could take for ever.

    Raises:
        ValueError: if it is no plain value.
    """
    value = value.value if isinstance(value, Bytes) else value
    if not isinstance(value, str | bytes | int | float | bool | None):
        raise refusal(f"a dict with keys of type {kind_of(value)}")
    return value


def plain(value: object, most: int) -> Any:
    """Return what a pickle built as plain values.

    Args:
        value: what the pickle built.
        most: how many values there may be: no honest pickle has more values than bytes.

    Raises:
        ValueError: if there are more, if they are nested too deeply, or if one is no plain data.
    """
    return _Plain(most).of(value)


class _Plain:
    """Turns what a pickle built into plain values; parts that it repeats are counted each time."""

    def __init__(self, most: int) -> None:
        self.left = most

    def of(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Refused(REPEATS)
        if depth > DEEPEST:
            raise Refused(f"has lists within lists, more than {DEEPEST} deep")
        if isinstance(value, Bytes):
            return value.value
        if isinstance(value, list | tuple):
            return type(value)([self.of(item, depth + 1) for item in value])
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, PickledArray):
            return self.array(value, depth)
        if isinstance(value, Global):
            raise refusal(value.name)
        if isinstance(value, Dtype):
            raise refusal("a type without an array")
        return value

    def array(self, value: PickledArray, depth: int) -> Array:
        if value.array is not None:
            return value.array
        if value.items is None:
            raise Refused(DAMAGED)
        filled = np.empty(len(value.items), object)
        for index, item in enumerate(value.items):
            filled[index] = self.of(item, depth + 1)
        return filled.reshape(value.shape)

"""Pickles and numpy files of other people, read without running anything that they contain.

A pickle is a program. This reader follows the few of its instructions that build plain data (None, booleans, numbers,
strings, bytes, lists, tuples, dicts, numpy arrays of them) and refuses the rest. It imports and calls nothing that a
file names. Declared sizes are compared with the bytes that are there before anything is created, and parts that are
repeated are counted, so that a small file cannot ask for much memory or time.

Each function raises a ValueError whose text, after the name of the file, makes a sentence.
"""

from __future__ import annotations

import codecs
import io
import lzma
import math
import mmap
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Refused(ValueError):
    """Its text, after the name of the file, makes a sentence."""


MOST_INSTRUCTIONS = 1 << 24  # the largest benchmark, tieredImageNet, has 11 million
MOST_DIGITS = 64  # of a number
MOST_AXES = 32  # of an array
DEEPEST = 16  # lists within lists
LONGEST_NAME = 100  # in a message
_PLAIN = "only numbers, strings, lists, dicts and numpy arrays of them are read"
_DAMAGED = "is damaged: its parts do not fit together"
_CUT_SHORT = "is cut short"
_REPEATS = "repeats parts of itself too often"


def read_pickle(content: bytes | mmap.mmap) -> Any:
    """Return what a pickle of any protocol, of Python 2 or 3, contains, if it is plain data.

    The strings of Python 2 are read as latin1. Arrays are read-only and share the memory of `content`.

    Raises:
        ValueError: if it is damaged, asks for anything else than plain data, or is larger than its file.
    """
    try:
        return _Plain(len(content)).of(_Machine(content).run())
    except _Refused:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, struct.error) as error:
        raise _Refused(_DAMAGED) from error


def read_npy(content: bytes) -> Array:
    """Return the array of a .npy file; one of objects is a pickle, and read as such.

    Raises:
        ValueError: if it is damaged, or declares another size than it has, or is no plain data.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that Python 2 wrote it
            shape, fortran, dtype = header(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise _Refused("is damaged: it does not begin as a .npy file does") from error
    rest = content[file.tell() :]
    if dtype.hasobject:
        found = read_pickle(rest)
        if not isinstance(found, np.ndarray) or found.shape != shape:
            raise _Refused(_DAMAGED)
        return found
    return _array(rest, dtype, shape, "F" if fortran else "C")


def read_npz(content: bytes, most: int) -> dict[str, Array]:
    """Return the arrays of an .npz file by name.

    Args:
        content: the file.
        most: bytes that all its arrays may have together.

    Raises:
        ValueError: as `read_npy` for one of its arrays, or if the file is damaged or too large.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > most:
                raise _Refused(f"is too large: it declares {size} bytes, at most {most} are allowed")
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                try:
                    arrays[name] = read_npy(archive.read(member))
                except ValueError as error:
                    raise _Refused(f"has an array {name!r} that {error}") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, OSError) as error:
        raise _Refused(f"is damaged or no .npz file ({error})") from error
    return arrays


def _array(data: bytes | memoryview, dtype: np.dtype[Any], shape: Any, order: Any) -> Array:
    """Return an array that shares the memory of `data`, which must have exactly its size."""
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise _Refused(f"has an array of type {dtype}: {_PLAIN}")
    if (size := _count(shape) * dtype.itemsize) != len(data):
        raise _Refused(f"declares an array of {size} bytes and has {len(data)} for it")
    try:
        array: Array = np.ndarray(shape, dtype, data, order="F" if order in ("F", True) else "C")
    except (ValueError, OverflowError) as error:  # too many axes, or one that is too long beside one of length 0
        raise _Refused(_DAMAGED) from error
    array.flags.writeable = False
    return array


def _count(shape: Any) -> int:
    """Return how many items an array of a shape has: the shape is checked before anything is multiplied."""
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
        raise _Refused(_DAMAGED)
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in shape):
        raise _Refused(_DAMAGED)
    return math.prod(shape)


class _Bytes:
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
        if self._value is None:
            self._value = str(self.data, "latin1") if self.text else bytes(self.data)
        return self._value


class _Dtype:
    """The type of an array; its byte order may follow in a second step."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[biufcSUO]\d{0,9}", code):
            raise _Refused(f"has an array of type {code!r}: {_PLAIN}")
        self.code, self.order = code, "="

    def set(self, state: Any) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise _Refused(f"has an array of records: {_PLAIN}")
        self.order = _text(order)
        if self.order not in ("<", ">", "=", "|"):
            raise _Refused(_DAMAGED)

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Array:
    """An array whose items follow in a second step; those that are no numbers are values of their own."""

    array: Array | None = None
    items: list[object] | None = None
    shape: Any = ()

    def set(self, state: Any) -> None:
        *_, shape, dtype, fortran, data = state  # the oldest have no version in front
        if self.array is not None or self.items is not None or not isinstance(dtype, _Dtype):
            raise _Refused(_DAMAGED)
        if dtype.code[0] != "O":
            self.array = _array(_data(data), dtype.numpy, shape, fortran)
        elif isinstance(data, list) and _count(shape) == len(data):
            self.items, self.shape = data, shape
        else:
            raise _Refused(_DAMAGED)


@dataclass(frozen=True)
class _Global:
    """Something that a pickle names; it is called with the arguments that the pickle gives, if it can be called."""

    name: str
    call: Callable[..., object] | None


def _text(value: object) -> str:
    """Return a string of Python 2 or 3."""
    if isinstance(value, _Bytes):
        value = value.value
    if not isinstance(value, str):
        raise _Refused(_DAMAGED)
    return value


def _data(value: object) -> bytes | memoryview:
    """Return the bytes of an array."""
    if isinstance(value, _Bytes):
        return value.data
    if not isinstance(value, bytes):
        raise _Refused(_DAMAGED)
    return value


def _encoded(text: str, encoding: object = "latin1") -> bytes:
    """Return bytes that Python 3 wrote for Python 2."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise _Refused(_DAMAGED)
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _new_dtype(code: object, *_: object) -> _Dtype:
    return _Dtype(_text(code))


def _new_array(kind: object, *_: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused(_DAMAGED)
    return _Array()


def _from_buffer(data: object, dtype: _Dtype, shape: object, order: object, *axes: object) -> _Array:
    array = _Array()
    if axes and axes != (None,):
        raise _Refused(f"has an array with its axes in another order: {_PLAIN}")
    array.set((shape, dtype, order == "F", data))
    return array


def _scalar(dtype: _Dtype, data: object) -> object:
    return _array(_data(data), dtype.numpy, (), "C").item()


_NDARRAY = _Global("numpy.ndarray", None)
_GLOBALS = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _Global("numpy.dtype", _new_dtype),
    "_codecs.encode": _Global("_codecs.encode", _encoded),
    "builtins.bytes": _Global("bytes", _no_bytes),
    "__builtin__.bytes": _Global("bytes", _no_bytes),
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _GLOBALS[f"{_core}.multiarray._reconstruct"] = _Global("_reconstruct", _new_array)
    _GLOBALS[f"{_core}.multiarray.scalar"] = _Global("scalar", _scalar)
    _GLOBALS[f"{_core}.numeric._frombuffer"] = _Global("_frombuffer", _from_buffer)


def _refuse(what: str) -> _Refused:
    what = ascii(what)[1:-1][:LONGEST_NAME]  # a name may hold what a terminal would obey
    return _Refused(f"asks for {what}, which is no plain data: {_PLAIN}")


def _kind(value: object) -> str:
    return value.name if isinstance(value, _Global) else type(value).__name__.strip("_").lower()


class _Machine:
    """Follows the instructions of a pickle; bytes stay where they are in `content`."""

    def __init__(self, content: bytes | mmap.mmap) -> None:
        self.content, self.view, self.at = content, memoryview(content), 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks before each mark
        self.memo: dict[int, Any] = {}
        self.copied = 0  # bytes that were made of others

    def run(self) -> object:
        """Return what the pickle builds."""
        for _ in range(MOST_INSTRUCTIONS):
            code = self.take(1)[0]
            if code == pickle.STOP[0]:
                return self.stack.pop()
            follow = _INSTRUCTIONS.get(code)
            if follow is None:
                raise _Refused("is not a pickle or is damaged")
            follow(self)
        raise _Refused(f"has more than {MOST_INSTRUCTIONS} instructions")

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        start, self.at = self.at, self.at + count
        if count < 0 or self.at > len(self.view):
            raise _Refused(f"{_CUT_SHORT}: it declares {count} bytes and has {len(self.view) - start}")
        return self.view[start : self.at]

    def number(self, form: str) -> Any:
        """Return the next bytes as a number of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """Return the bytes up to the end of the line."""
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise _Refused(_CUT_SHORT)
        line = bytes(self.view[self.at : end])
        self.at = end + 1
        return line

    def digits(self) -> bytes:
        """Return the number of a line: a long one takes quadratic time."""
        if len(line := self.line()) > MOST_DIGITS:
            raise _Refused(f"has a number of {len(line)} characters; at most {MOST_DIGITS} are read")
        return line

    def marked(self) -> list[Any]:
        """Return everything since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def name(self, name: str) -> None:
        """Push something that the pickle names."""
        if name not in _GLOBALS:
            raise _refuse(name)
        self.stack.append(_GLOBALS[name])

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Global) or called.call is None:
            raise _refuse(f"a call of {_kind(called)}")
        made = called.call(*arguments)
        if isinstance(made, str | bytes):
            self.copied += len(made)
            if self.copied > len(self.content):
                raise _Refused(_REPEATS)
        self.stack.append(made)

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if not isinstance(built, _Array | _Dtype):
            raise _refuse(f"a change of {_kind(built)}")
        built.set(state)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _Refused(_DAMAGED)
        target.extend(items)

    def update(self, target: object, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise _Refused(_DAMAGED)
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _key(value: object) -> object:
    """Return a key of a dict: a hash of nested tuples could take for ever."""
    value = value.value if isinstance(value, _Bytes) else value
    if not isinstance(value, str | bytes | int | float | bool | None):
        raise _refuse(f"a dict with keys of type {_kind(value)}")
    return value


Follow = Callable[[_Machine], None]


def _push(value: Callable[[_Machine], object]) -> Follow:
    """Return the instruction that pushes a value."""

    def follow(machine: _Machine) -> None:
        pushed = value(machine)  # it may replace the stack
        machine.stack.append(pushed)

    return follow


def _refused(what: Callable[[_Machine], str]) -> Follow:
    def follow(machine: _Machine) -> None:
        raise _refuse(what(machine))

    return follow


def _sized(form: str, value: Callable[[memoryview], object]) -> Follow:
    """Return the instruction that pushes bytes whose number goes before them."""
    return _push(lambda m: value(m.take(m.number(form))))


def _old_text(data: memoryview) -> _Bytes:
    return _Bytes(data, text=True)


def _unicode(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _whole(data: memoryview) -> int:
    if len(data) > MOST_DIGITS:
        raise _Refused(f"has a number of {len(data)} bytes; at most {MOST_DIGITS} are read")
    return int.from_bytes(data, "little", signed=True)


def _integer(machine: _Machine) -> int | bool:
    line = machine.digits()
    return line == b"01" if line in (b"00", b"01") else int(line)


def _quoted(machine: _Machine) -> _Bytes:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise _Refused(_DAMAGED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of escapes that Python does not write
        return _Bytes(memoryview(codecs.escape_decode(line[1:-1])[0]), text=True)


def _named(machine: _Machine) -> str:
    return f"{str(machine.line(), 'utf-8')}.{str(machine.line(), 'utf-8')}"


def _stacked_name(machine: _Machine) -> str:
    name, module = machine.stack.pop(), machine.stack.pop()
    return f"{_text(module)}.{_text(name)}"


def _last(count: int) -> Callable[[_Machine], tuple[Any, ...]]:
    def take(machine: _Machine) -> tuple[Any, ...]:
        if len(machine.stack) < count:
            raise _Refused(_DAMAGED)
        items = tuple(machine.stack[-count:])
        del machine.stack[-count:]
        return items

    return take


def _new_dict(machine: _Machine) -> dict[Any, Any]:
    items, found = machine.marked(), dict[Any, Any]()
    machine.update(found, items)
    return found


def _set_items(machine: _Machine) -> None:
    items = machine.marked()
    machine.update(machine.stack[-1], items)


def _set_item(machine: _Machine) -> None:
    items = [*_last(2)(machine)]
    machine.update(machine.stack[-1], items)


def _append_items(machine: _Machine) -> None:
    items = machine.marked()
    machine.append(items)


def _pop(machine: _Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:  # the mark itself
        machine.marked()


_INSTRUCTIONS: dict[int, Follow] = {
    code[0]: follow
    for code, follow in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),  # a frame only says how to read ahead
        pickle.MARK: _Machine.mark,
        pickle.POP: _pop,
        pickle.POP_MARK: _Machine.marked,
        pickle.NONE: _push(lambda m: None),
        pickle.NEWTRUE: _push(lambda m: True),
        pickle.NEWFALSE: _push(lambda m: False),
        pickle.INT: _push(_integer),
        pickle.LONG: _push(lambda m: int(m.digits().rstrip(b"L"))),
        pickle.BININT: _push(lambda m: m.number("<i")),
        pickle.BININT1: _push(lambda m: m.number("<B")),
        pickle.BININT2: _push(lambda m: m.number("<H")),
        pickle.LONG1: _sized("<B", _whole),
        pickle.LONG4: _sized("<i", _whole),
        pickle.FLOAT: _push(lambda m: float(m.digits())),
        pickle.BINFLOAT: _push(lambda m: m.number(">d")),
        pickle.STRING: _push(_quoted),
        pickle.SHORT_BINSTRING: _sized("<B", _old_text),
        pickle.BINSTRING: _sized("<i", _old_text),
        pickle.UNICODE: _push(lambda m: str(m.line(), "raw-unicode-escape")),
        pickle.SHORT_BINUNICODE: _sized("<B", _unicode),
        pickle.BINUNICODE: _sized("<I", _unicode),
        pickle.BINUNICODE8: _sized("<Q", _unicode),
        pickle.SHORT_BINBYTES: _sized("<B", _Bytes),
        pickle.BINBYTES: _sized("<I", _Bytes),
        pickle.BINBYTES8: _sized("<Q", _Bytes),
        pickle.BYTEARRAY8: _sized("<Q", _Bytes),
        pickle.EMPTY_LIST: _push(lambda m: []),
        pickle.LIST: _push(lambda m: m.marked()),
        pickle.APPEND: lambda m: m.append([m.stack.pop()]),
        pickle.APPENDS: _append_items,
        pickle.EMPTY_TUPLE: _push(lambda m: ()),
        pickle.TUPLE: _push(lambda m: tuple(m.marked())),
        pickle.TUPLE1: _push(_last(1)),
        pickle.TUPLE2: _push(_last(2)),
        pickle.TUPLE3: _push(_last(3)),
        pickle.EMPTY_DICT: _push(lambda m: {}),
        pickle.DICT: _push(_new_dict),
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.PUT: lambda m: m.remember(int(m.digits())),
        pickle.BINPUT: lambda m: m.remember(m.number("<B")),
        pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
        pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
        pickle.GET: _push(lambda m: m.memo[int(m.digits())]),
        pickle.BINGET: _push(lambda m: m.memo[m.number("<B")]),
        pickle.LONG_BINGET: _push(lambda m: m.memo[m.number("<I")]),
        pickle.GLOBAL: lambda m: m.name(_named(m)),
        pickle.STACK_GLOBAL: lambda m: m.name(_stacked_name(m)),
        pickle.REDUCE: _Machine.call,
        pickle.BUILD: _Machine.build,
        pickle.INST: _refused(_named),
        pickle.OBJ: _refused(lambda m: "an object of a class"),
        pickle.NEWOBJ: _refused(lambda m: "an object of a class"),
        pickle.NEWOBJ_EX: _refused(lambda m: "an object of a class"),
        pickle.PERSID: _refused(lambda m: "an object outside of the file"),
        pickle.BINPERSID: _refused(lambda m: "an object outside of the file"),
        pickle.NEXT_BUFFER: _refused(lambda m: "a buffer outside of the file"),
        pickle.READONLY_BUFFER: _refused(lambda m: "a buffer outside of the file"),
        pickle.EXT1: _refused(lambda m: "a registered class"),
        pickle.EXT2: _refused(lambda m: "a registered class"),
        pickle.EXT4: _refused(lambda m: "a registered class"),
        pickle.EMPTY_SET: _refused(lambda m: "a set"),
        pickle.FROZENSET: _refused(lambda m: "a set"),
    }.items()
}


class _Plain:
    """Turns what a pickle built into plain values; parts that it repeats are counted each time.

    Args:
        most: how many values there may be: no honest pickle has more values than bytes.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def of(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _Refused(_REPEATS)
        if depth > DEEPEST:
            raise _Refused(f"has lists within lists, more than {DEEPEST} deep")
        if isinstance(value, _Bytes):
            return value.value
        if isinstance(value, list | tuple):
            return type(value)([self.of(item, depth + 1) for item in value])
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, _Array):
            return self.array(value, depth)
        if isinstance(value, _Global):
            raise _refuse(value.name)
        if isinstance(value, _Dtype):
            raise _refuse("a type without an array")
        return value

    def array(self, value: _Array, depth: int) -> Array:
        if value.array is not None:
            return value.array
        if value.items is None:
            raise _Refused(_DAMAGED)
        filled = np.empty(len(value.items), object)
        for index, item in enumerate(value.items):
            filled[index] = self.of(item, depth + 1)
        return filled.reshape(value.shape)

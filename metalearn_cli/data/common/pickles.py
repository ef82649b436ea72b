"""Pickles and numpy files of other people, read without running anything that they contain.

A pickle is a program. This reader follows the few of its instructions that build plain data (None, booleans, numbers,
strings, bytes, lists, tuples, dicts, numpy arrays of them) and refuses the rest. It imports and calls nothing that a
file names; `pickle_values` has what is built instead, and bounds its size.

Each function raises a ValueError whose text, after the name of the file, makes a sentence.
"""

from __future__ import annotations

import codecs
import io
import mmap
import pickle
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from metalearn_cli.data.common.pickle_values import (
    DAMAGED,
    GLOBALS,
    REPEATS,
    Array,
    Bytes,
    Dtype,
    Global,
    PickledArray,
    Refused,
    key_of,
    kind_of,
    plain,
    refusal,
    shared_array,
    text_of,
)

MOST_INSTRUCTIONS = 1 << 24  # the largest benchmark, tieredImageNet, has 11 million
MOST_DIGITS = 64  # of a number
CUT_SHORT = "is cut short"


def read_pickle(content: bytes | mmap.mmap) -> Any:
    """Return what a pickle of any protocol, of Python 2 or 3, contains, if it is plain data.

    The strings of Python 2 are read as latin1. Arrays are read-only and share the memory of `content`.

    Raises:
        ValueError: if it is damaged, asks for anything else than plain data, or is larger than its file.
    """
    try:
        return plain(_Machine(content).run(), len(content))
    except Refused:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, struct.error) as error:
        raise Refused(DAMAGED) from error


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
        raise Refused("is damaged: it does not begin as a .npy file does") from error
    rest = content[file.tell() :]
    if dtype.hasobject:
        found = read_pickle(rest)
        if not isinstance(found, np.ndarray) or found.shape != shape:
            raise Refused(DAMAGED)
        return found
    return shared_array(rest, dtype, shape, "F" if fortran else "C")


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
                raise Refused("is not a pickle or is damaged")
            follow(self)
        raise Refused(f"has more than {MOST_INSTRUCTIONS} instructions")

    def take(self, count: int) -> memoryview:
        """Return the next bytes."""
        start, self.at = self.at, self.at + count
        if count < 0 or self.at > len(self.view):
            raise Refused(f"{CUT_SHORT}: it declares {count} bytes and has {len(self.view) - start}")
        return self.view[start : self.at]

    def number(self, form: str) -> Any:
        """Return the next bytes as a number of a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """Return the bytes up to the end of the line."""
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise Refused(CUT_SHORT)
        line = bytes(self.view[self.at : end])
        self.at = end + 1
        return line

    def digits(self) -> bytes:
        """Return the number of a line: a long one takes quadratic time."""
        if len(line := self.line()) > MOST_DIGITS:
            raise Refused(f"has a number of {len(line)} characters; at most {MOST_DIGITS} are read")
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
        if name not in GLOBALS:
            raise refusal(name)
        self.stack.append(GLOBALS[name])

    def call(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Global) or called.call is None:
            raise refusal(f"a call of {kind_of(called)}")
        made = called.call(*arguments)
        if isinstance(made, str | bytes):
            self.copied += len(made)
            if self.copied > len(self.content):
                raise Refused(REPEATS)
        self.stack.append(made)

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if not isinstance(built, PickledArray | Dtype):
            raise refusal(f"a change of {kind_of(built)}")
        built.set(state)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused(DAMAGED)
        target.extend(items)

    def update(self, target: object, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(DAMAGED)
        target.update(zip(map(key_of, items[::2]), items[1::2], strict=True))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


Follow = Callable[[_Machine], None]


def _push(value: Callable[[_Machine], object]) -> Follow:
    """Return the instruction that pushes a value."""

    def follow(machine: _Machine) -> None:
        pushed = value(machine)  # it may replace the stack
        machine.stack.append(pushed)

    return follow


def _refused(what: Callable[[_Machine], str]) -> Follow:
    def follow(machine: _Machine) -> None:
        raise refusal(what(machine))

    return follow


def _sized(form: str, value: Callable[[memoryview], object]) -> Follow:
    """Return the instruction that pushes bytes whose number goes before them."""
    return _push(lambda m: value(m.take(m.number(form))))


def _old_text(data: memoryview) -> Bytes:
    return Bytes(data, text=True)


def _unicode(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _whole(data: memoryview) -> int:
    if len(data) > MOST_DIGITS:
        raise Refused(f"has a number of {len(data)} bytes; at most {MOST_DIGITS} are read")
    return int.from_bytes(data, "little", signed=True)


def _integer(machine: _Machine) -> int | bool:
    line = machine.digits()
    return line == b"01" if line in (b"00", b"01") else int(line)


def _quoted(machine: _Machine) -> Bytes:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Refused(DAMAGED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of escapes that Python does not write
        return Bytes(memoryview(codecs.escape_decode(line[1:-1])[0]), text=True)


def _named(machine: _Machine) -> str:
    return f"{str(machine.line(), 'utf-8')}.{str(machine.line(), 'utf-8')}"


def _stacked_name(machine: _Machine) -> str:
    name, module = machine.stack.pop(), machine.stack.pop()
    return f"{text_of(module)}.{text_of(name)}"


def _last(count: int) -> Callable[[_Machine], tuple[Any, ...]]:
    def take(machine: _Machine) -> tuple[Any, ...]:
        if len(machine.stack) < count:
            raise Refused(DAMAGED)
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
        pickle.SHORT_BINBYTES: _sized("<B", Bytes),
        pickle.BINBYTES: _sized("<I", Bytes),
        pickle.BINBYTES8: _sized("<Q", Bytes),
        pickle.BYTEARRAY8: _sized("<Q", Bytes),
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

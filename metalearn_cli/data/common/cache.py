"""What was decoded or rendered once is kept in a folder of the user's; it may be deleted at any time.

Kept arrays are mapped from their file, not read: of data larger than memory there is what is being used.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import inspect
import json
import logging
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Arrays = dict[str, np.ndarray[Any, Any]]

_log = logging.getLogger("metalearn_cli")
_CHECKSUM = "sha256"
_UNREADABLE = (OSError, KeyError, TypeError, ValueError, SafetensorError)


def cache_dir() -> Path:
    """Return MLX_CACHE_DIR, or metalearn-cli under XDG_CACHE_HOME or ~/.cache; it need not exist."""
    if own := os.environ.get("MLX_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metalearn-cli"


def cached(name: str, key: Mapping[str, Any], build: Callable[[], Arrays]) -> Arrays:
    """Return `build()`, from the cache folder if the same was built before.

    Args:
        name: start of the file's name.
        key: everything that the result depends on, as plain values, except for the code of the module of `build`.
        build: makes the arrays, large ones with `large`; their names must not be "sha256".

    A damaged cache file is built again, and a folder that cannot be written is done without; both are logged. Where
    several processes want the same, one builds and the others wait for it.
    """
    code = inspect.getsource(sys.modules[build.__module__])
    digest = hashlib.sha256(json.dumps([key, code], sort_keys=True).encode()).hexdigest()
    path = cache_dir() / f"{name}-{digest[:16]}.safetensors"
    with suppress(*_UNREADABLE):
        return _load(path)
    with _alone(path.parent):
        try:
            return _load(path)  # another process may have made it meanwhile
        except FileNotFoundError:
            pass
        except _UNREADABLE as error:
            _log.warning("the cache file %s is damaged or unreadable (%s) and is made again", path, error)
        arrays = build()
        try:
            _save(path, arrays)
        except OSError as error:
            _log.warning("cannot write to the cache (%s): %s has to be made again in the next run", error, name)
    return arrays


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold off the other processes that build for this folder; where it cannot be locked, do without."""
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # whoever writes then says that it cannot
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            folder.rmdir()  # a build that failed leaves no empty folder


def large(*shape: int) -> np.ndarray[Any, Any]:
    """Return uint8 zeros that need not fit into memory: the cache folder's disk stands behind them, where it can."""
    with suppress(OSError, AttributeError):  # macOS cannot reserve space
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()) as file:  # it has no name and goes with the array
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # on a full disk, writing to a mapping kills
            return np.memmap(file, np.uint8, "r+", shape=shape)
    return np.zeros(shape, np.uint8)


def _load(path: Path) -> Arrays:
    with safe_open(path, "pt") as file:  # numpy's own form would read the whole of it
        numbers: Arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}
        words = dict(file.metadata() or {})
    checksum = words.pop(_CHECKSUM)
    arrays = numbers | {name: np.array(json.loads(word)) for name, word in words.items()}
    if checksum != _checksum(arrays):
        raise ValueError("its checksum does not match")
    for array in numbers.values():
        _drawn_at_random(array)
    return arrays


def _drawn_at_random(array: np.ndarray[Any, Any]) -> None:
    """Have the system read what is asked for, and not megabytes ahead: what is drawn next lies elsewhere."""
    first = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    length = array.ctypes.data + array.nbytes - first
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_RANDOM)


def _save(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind != "U"}
    words = {name: json.dumps(array.tolist()) for name, array in arrays.items() if array.dtype.kind == "U"}
    # written aside and then renamed, so that other processes see the whole file or none
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    try:
        save_file(numbers, temporary, words | {_CHECKSUM: _checksum(arrays)})
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _checksum(arrays: Arrays) -> str:
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).view(np.uint8).data)
    return state.hexdigest()

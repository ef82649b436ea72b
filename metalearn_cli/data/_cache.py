"""What was decoded or rendered once is kept in a folder of the user's; it may be deleted at any time."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]

_log = logging.getLogger("metalearn_cli")
_CHECKSUM = "sha256"
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


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
        build: makes the arrays; their names must not be "sha256".

    A damaged cache file is built again, and a folder that cannot be written is done without; both are logged. Where
    several processes want the same, one builds and the others wait for it.
    """
    code = inspect.getsource(sys.modules[build.__module__])
    digest = hashlib.sha256(json.dumps([key, code], sort_keys=True).encode()).hexdigest()
    path = cache_dir() / f"{name}-{digest[:16]}.npz"
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


def _load(path: Path) -> Arrays:
    # opened here, because numpy leaves a damaged file open
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = dict(file)
    if str(arrays.pop(_CHECKSUM)) != _checksum(arrays):
        raise ValueError("its checksum does not match")
    return arrays


def _save(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # written aside and then renamed, so that other processes see the whole file or none
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{_CHECKSUM: np.array(_checksum(arrays))}, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _checksum(arrays: Arrays) -> str:
    state = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()

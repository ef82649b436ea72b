"""The cache folder for decoded or rendered data sets; it may be deleted at any time.

A file contains a whole data set: items, targets, names, facts, preprocessing, fingerprint and findings. Items are
memory-mapped, not read, so that data may be larger than memory.

Each load reads every byte once, for the fingerprint. Checkpoints record it, so it must be that of the items used for
training. A damaged file has a different fingerprint and is rebuilt.
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
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from metalearn_cli.core.errors import Finding, UserError
from metalearn_cli.core.places import expanded, is_temporary
from metalearn_cli.data.common.dataset import Dataset, facts_of, tokenizer_of
from metalearn_cli.data.common.splits import Split, fingerprint_of, parts_of

_log = logging.getLogger("metalearn_cli")
_ABOUT, _CHECKSUM = "about", "sha256"
"""A file's metadata: a JSON object with everything except tensors, and its checksum."""

_UNREADABLE = (OSError, KeyError, TypeError, ValueError, SafetensorError)


def cache_dir() -> Path:
    """Return MLX_CACHE_DIR, or metalearn-cli under XDG_CACHE_HOME or ~/.cache; it need not exist.

    Raises:
        UserError: if there is no home folder.
    """
    if own := os.environ.get("MLX_CACHE_DIR"):
        return _at_home(own)
    return _at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metalearn-cli"


def _at_home(path: str) -> Path:
    found = Path(expanded(path))
    if str(found).startswith("~"):
        raise UserError(f"you have no home folder, so there is no {path}; set MLX_CACHE_DIR to a folder of yours")
    if is_temporary(found):
        _say_temporary(found)
    return found


@cache
def _say_temporary(folder: Path) -> None:
    """Warn once that the cache is in a temporary folder."""
    _log.warning("you have no home folder: the cache is in %s; set MLX_CACHE_DIR to a folder that stays", folder)


def under_umask(path: str | Path) -> None:
    """Give a file the permissions of a new file: those created as temporary are private to the user."""
    mask = os.umask(0o077)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def cached(name: str, key: Mapping[str, Any], build: Callable[[], Dataset]) -> Dataset:
    """Return `build()`, from the cache folder if the same was built before.

    Args:
        name: start of the file's name.
        key: everything that the result depends on, except code, as plain values.
        build: builds the data set; large arrays with `large`.

    The code of the module of `build` and of this package belongs to the key. A damaged cache file is rebuilt, and a
    folder that is not writable is not used; both are logged. If several processes need the same data set, one builds it
    and the others wait.
    """
    code = [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    code.append(inspect.getsource(sys.modules[build.__module__]))
    digest = _sha256(json.dumps([key, code], sort_keys=True))
    path = cache_dir() / f"{name}-{digest[:16]}.safetensors"
    with suppress(*_UNREADABLE):
        return _load(path)
    with _alone(path):
        try:
            return _load(path)  # another process may have built it meanwhile
        except FileNotFoundError:
            pass
        except _UNREADABLE as error:
            _log.warning("the cache file %s is damaged or unreadable (%s); it is rebuilt", path, error)
        data = build()
        try:
            _save(path, data)
        except (OSError, SafetensorError) as error:
            advice = "is rebuilt in each run; set MLX_CACHE_DIR to a folder that is writable"
            _log.warning("cannot write to the cache (%s): %s %s", error, name, advice)
    return data


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within a block, make other processes that build the same file wait, if the folder can be written."""
    lock = path.with_suffix(".lock")
    held, ours = None, not lock.parent.exists()
    with suppress(OSError):  # if the folder is not writable, writing reports it
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(lock)
        for left in lock.parent.glob(f"{path.stem}*.tmp"):  # of a process that was killed while it saved
            left.unlink()
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(held)
        if ours:
            with suppress(OSError):
                lock.parent.rmdir()  # a failed build leaves no empty folder


def _locked(lock: Path) -> int:
    """Return the open file of a lock, once it is ours."""
    while True:
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(held), os.stat(lock)):
                return held
        except FileNotFoundError:
            pass  # whoever had it before has removed it: another one is made
        except OSError:
            os.close(held)
            raise
        os.close(held)


def large(*shape: int, dtype: DTypeLike = np.uint8) -> NDArray[Any]:
    """Return zeros that may be larger than memory: mapped from a file in the cache folder, if possible."""
    with suppress(OSError, AttributeError):  # macOS cannot reserve space
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()) as file:  # it has no name and is deleted with the array
            os.posix_fallocate(
                file.fileno(), 0, max(1, math.prod(shape) * np.dtype(dtype).itemsize)
            )  # else a full disk kills the process at a write
            return np.memmap(file, dtype, "r+", shape=shape)
    return np.zeros(shape, dtype)


def _load(path: Path) -> Dataset:
    with safe_open(path, "pt") as file:  # "np" would read the whole file
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
        words = file.metadata()
    if words[_CHECKSUM] != _sha256(words[_ABOUT]):
        raise ValueError("its checksum does not match")
    about = json.loads(words[_ABOUT])
    splits = {split: _split(tensors, split, names) for split, names in about["names"].items()}
    if about["fingerprint"] != fingerprint_of(splits):
        raise ValueError("its items have changed since they were written")
    for tensor in tensors.values():
        _drawn_at_random(tensor)
    return Dataset(
        name=about["name"],
        protocol=about["protocol"],
        splits=splits,
        facts=facts_of(about["kind"], splits, about["vocabulary"], tokenizer_of(about["preprocessing"])),
        preprocessing=about["preprocessing"],
        fingerprint=about["fingerprint"],
        findings=tuple(Finding(blocks, where, what, tuple(items)) for blocks, where, what, items in about["findings"]),
        about=about["about"],
    )


def _split(tensors: Mapping[str, Tensor], split: str, names: list[str]) -> Split:
    start = f"{split}/items/"
    items = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    more = (tensors.get(f"{split}/{part}") for part in ("targets", "sources"))
    return Split(items.get("", items), tensors[f"{split}/counts"], tuple(names), *more)


def _drawn_at_random(tensor: Tensor) -> None:
    """Tell the system not to read ahead, because items are drawn at random."""
    first = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    length = tensor.data_ptr() + tensor.nbytes - first
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_RANDOM)


def _save(path: Path, data: Dataset) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps(
        {
            "name": data.name,
            "protocol": data.protocol,
            "kind": data.facts.kind,
            "vocabulary": data.facts.vocabulary,
            "preprocessing": data.preprocessing,
            "fingerprint": data.fingerprint,
            "findings": data.findings,
            "about": data.about,
            "names": {name: split.names for name, split in data.splits.items()},
        }
    )
    arrays = {}
    for name, split in data.splits.items():
        arrays[f"{name}/counts"] = split.counts.numpy()
        for part, items in parts_of(split.items).items():
            arrays[f"{name}/items/{part}"] = items.contiguous().numpy()
        for part, tensor in (("targets", split.targets), ("sources", split.sources)):
            if tensor is not None:
                arrays[f"{name}/{part}"] = tensor.contiguous().numpy()
    # written under another name, then renamed, so that other processes see the whole file or none
    temporary = path.with_name(f"{path.stem}{secrets.token_hex(4)}.tmp")
    try:
        save_file(arrays, temporary, {_ABOUT: about, _CHECKSUM: _sha256(about)})
        under_umask(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

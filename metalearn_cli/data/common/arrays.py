"""Arrays in .npy and .npz files: never a pickle, and never larger than the file that holds them.

Legend: N rows.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.files import UNREADABLE
from metalearn_cli.data.common.rows import Columns

LARGE = 1 << 28  # bytes that a member of an .npz file may always have
MOST_PACKED = 100  # beyond that, so many times its packed size
KINDS = {"b": "truth values", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "U": "text", "S": "bytes"}


def mapped(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, read from the file as it is used.

    Raises:
        DataError: if the file holds objects, or is damaged.
    """
    try:
        with path.open("rb") as file:
            _check(file, path.stat().st_size)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise DataError([Finding(True, str(path), _told(error))]) from error


def npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises:
        DataError: with each array that holds objects, or is damaged or too large.
    """
    arrays, findings = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                try:
                    if member.file_size > max(LARGE, MOST_PACKED * member.compress_size):
                        packed = f"{member.file_size} bytes packed in {member.compress_size}"
                        raise ValueError(f"is too large: {packed}; save it as .npy")
                    with archive.open(member) as file:
                        _check(file, member.file_size)
                    with archive.open(member) as file:
                        arrays[name] = npy.read_array(file, allow_pickle=False)
                except UNREADABLE as error:
                    findings.append(Finding(True, f"{path}, {name}", _told(error)))
    except UNREADABLE as error:
        findings.append(Finding(True, str(path), f"is damaged or no .npz file ({error})"))
    if findings:
        raise DataError(findings)
    return arrays


def npz_columns(path: Path) -> Columns:
    """Return the arrays of an .npz file as the columns of a table.

    Raises:
        DataError: if they are no columns of the same length.
    """
    arrays = npz(path)
    wrong = [
        Finding(
            True, f"{path}, {name}", f"has the shape {list(array.shape)}; a column has one dimension; see data=arrays"
        )
        for name, array in arrays.items()
        if array.ndim != 1
    ]
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim == 1}
    if len(set(lengths.values())) > 1:
        wrong.append(Finding(True, str(path), f"has columns of different lengths: {lengths}"))
    if not wrong and not any(lengths.values()):
        wrong.append(Finding(True, str(path), "has no rows"))
    if wrong:
        raise DataError(wrong)
    return {name: list(_plain(array)) for name, array in arrays.items()}


def _plain(array: NDArray[Any]) -> Iterator[Any]:
    for value in array.tolist():
        yield value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _check(file: IO[bytes], size: int) -> None:
    """Check what a .npy file says of itself, before anything is created.

    Args:
        file: at its start.
        size: its number of bytes.

    Raises:
        ValueError: if it cannot be used; its text goes after its name.
    """
    version = npy.read_magic(file)
    if version > (2, 0):
        raise ValueError(f"has fields, or the version {version}; save it again with numpy.save as plain numbers")
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects (a pickle), which are not read; save it as numbers or text")
    if dtype.kind not in KINDS:
        raise ValueError(f"holds {dtype}; arrays of {', '.join(dict.fromkeys(KINDS.values()))} are read")
    declared, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if declared > held:
        raise ValueError(f"is cut short: it declares {declared} bytes of {dtype} {list(shape)} and holds {held}")


def _told(error: Exception) -> str:
    text = str(error)
    return text if text.startswith(("is ", "has ", "holds ")) else f"cannot be read as an array ({text})"

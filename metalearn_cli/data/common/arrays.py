"""Arrays in .npy and .npz files: never a pickle, and never larger than the file that holds them.

Legend: N rows or items, D features, C channels, L length, H height, W width.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.core.items import Kind
from metalearn_cli.data.common.cache import large
from metalearn_cli.data.common.files import UNREADABLE, Files, check_overlap
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.data.common.rows import Columns

LARGE = 1 << 28  # bytes that a member of an .npz file may always have
MOST_PACKED = 100  # beyond that, so many times its packed size
MOST_BYTES = 1 << 32  # of all members of an .npz file that are packed
KINDS = {"b": "truth values", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "U": "text", "S": "bytes"}
MOST_CHANNELS = 4  # of an image whose channels come last
CONSTANT = 1e-12  # a feature that varies by less than this share of its mean is constant
NO_NPZ = "is damaged or no .npz file"
MOST_STANDARDISED = 1e100  # the square of a larger number may be infinite
AT_ONCE = 1 << 25  # bytes of a file that are treated at a time

Layout = Literal["auto", "vector", "image", "audio"]
Treatment = dict[str, Any]
"""How an array becomes an item, as plain values: `kind`; `channels_last`, whether an image is [H, W, C]; and
`divide_by`, which scales its values to [0, 1], or the `mean` and `scale` of each feature or channel."""


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


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays of an .npz file, of which none is read.

    Raises:
        DataError: if it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return list(map(_name, archive.infolist()))
    except UNREADABLE as error:
        raise DataError([Finding(True, str(path), _told(error, NO_NPZ))]) from error


def npz(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of an .npz file by name; others are not read.

    Raises:
        DataError: with each of them that holds objects, or is damaged or too large.
    """
    arrays, findings = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            check_overlap(archive)
            members = {name: member for member in archive.infolist() if (name := _name(member)) in names}
            packed = [member for member in members.values() if member.compress_type != zipfile.ZIP_STORED]
            if (size := sum(member.file_size for member in packed)) > MOST_BYTES:
                told = f"is too large: its arrays declare {size} bytes together, at most {MOST_BYTES} are read"
                raise ValueError(f"{told}; save each as .npy")
            for name, member in members.items():
                try:
                    if member.file_size > max(LARGE, MOST_PACKED * member.compress_size):
                        told = f"{member.file_size} bytes packed in {member.compress_size}"
                        raise ValueError(f"is too large: {told}; save it as .npy")
                    with archive.open(member) as file:
                        _check(file, member.file_size)
                    with archive.open(member) as file:
                        arrays[name] = npy.read_array(file, allow_pickle=False)
                except UNREADABLE as error:
                    findings.append(Finding(True, f"{path}, {name}", _told(error)))
    except UNREADABLE as error:
        findings.append(Finding(True, str(path), _told(error, NO_NPZ)))
    if findings:
        raise DataError(findings)
    return arrays


def npz_columns(path: Path) -> Columns:
    """Return the arrays of an .npz file as the columns of a table.

    Raises:
        DataError: if they are no columns of the same length.
    """
    arrays = npz(path, npz_names(path))
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
    return {name: plain(array, f"{path}, {name}") for name, array in arrays.items()}


def plain(array: NDArray[Any], where: str) -> list[Any]:
    """Return the values of an array [N]; bytes become text.

    Args:
        array: the array.
        where: its file and name, for messages.

    Raises:
        DataError: if bytes are not UTF-8: two labels could become one.
    """
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
    except UnicodeDecodeError as error:
        told = f"has bytes that are not UTF-8 text, such as {error.object!r}"
        cure = "save the array as text: numpy.char.decode(array, 'latin-1')"
        raise DataError([Finding(True, where, told)], cure) from error


def stacked(names: Sequence[str], files: Files) -> NDArray[Any]:
    """Return the arrays of .npy files, which must have the same shape, as one array [N, ...].

    Raises:
        DataError: with each file that cannot be read, or has another shape or type than the first.
    """
    found: NDArray[Any] | None = None
    findings = []
    for i, name in enumerate(names):
        try:
            array = _read(files.read(name, LARGE))
            if found is None:
                found = large(len(names), *array.shape, dtype=array.dtype)
            if (array.shape, array.dtype) != (found.shape[1:], found.dtype):
                first = f"{names[0]} has {found.dtype} of shape {list(found.shape[1:])}"
                raise ValueError(f"has {array.dtype} of shape {list(array.shape)}; {first}")
            found[i] = array
        except UNREADABLE as error:
            findings.append(Finding(True, name, _told(error)))
    if findings or found is None:
        raise DataError(findings)
    return found


def treatment(x: NDArray[Any], kind: Layout) -> Treatment:
    """Return how arrays become items, before anything is learnt; see `learn`.

    Args:
        x: the arrays [N, ...].
        kind: what an item is.

    Raises:
        ConfigError: if arrays of these dimensions cannot be items of this kind.
    """
    shape = x.shape[1:]
    usual: dict[int, Kind] = {1: "vector", 2: "image" if x.dtype == np.uint8 else "audio", 3: "image"}
    chosen = usual.get(len(shape), "vector") if kind == "auto" else kind
    if len(shape) not in {"vector": range(1, 9), "audio": (1, 2), "image": (2, 3)}[chosen]:
        kinds = "vector [D], audio [L] or [C, L], image [H, W], [H, W, C] or [C, H, W]"
        raise ConfigError(
            [Problem("data.kind", f"{chosen} does not fit items of shape {list(shape)}; there are {kinds}")]
        )
    last = chosen == "image" and len(shape) == 3 and shape[-1] <= MOST_CHANNELS < shape[0]
    unit = chosen == "image" and x.dtype == np.uint8
    how: Treatment = {"kind": chosen, "channels_last": last}
    return {**how, "divide_by": ONE} if unit else how


def learn(x: NDArray[Any], rows: Sequence[int], how: Treatment) -> Treatment:
    """Return how arrays become items: with the `mean` and `scale` of each feature or channel, if they are needed.

    Args:
        x: the arrays [N, ...].
        rows: the numbers of the training items.
        how: see `treatment`.

    Raises:
        DataError: if the training items have values that are not finite or too large.
    """
    if "divide_by" in how:
        return how
    total = squares = most = np.zeros(1)
    finite: list[bool] = []
    for part in _parts(x, rows, how):
        own = _by_statistic(part, how)
        finite += np.isfinite(own).all((1, 2)).tolist()
        most = np.maximum(most, np.abs(own).max((0, 2)))
        total = total + own.mean(2).sum(0)
    if not all(finite):
        wrong = [row for row, good in zip(rows, finite, strict=True) if not good]
        raise DataError([Finding(True, f"item {row + 1}", "has values that are NaN or infinite") for row in wrong])
    if large_ones := [f"{own + 1}" for own in np.flatnonzero(most > MOST_STANDARDISED)]:
        noun = "column" if how["kind"] == "vector" else "channel"
        told = f"has numbers beyond {MOST_STANDARDISED:g}, which cannot be standardised; divide them"
        raise DataError([Finding(True, f"{noun} {number}", told) for number in large_ones])
    mean = total / len(rows)
    for part in _parts(x, rows, how):
        squares = squares + np.square(_by_statistic(part, how) - mean[:, None]).mean(2).sum(0)
    scale = np.sqrt(squares / len(rows))
    varies = scale > CONSTANT * np.abs(mean)
    return {**how, "mean": mean.tolist(), "scale": np.where(varies, scale, 1).tolist()}


def treated(x: NDArray[Any], rows: Sequence[int], how: Treatment) -> NDArray[Any]:
    """Return arrays as items: uint8 images, or standardised float32.

    Args:
        x: the arrays [N, ...].
        rows: the numbers of those that are wanted.
        how: see `learn`.
    """
    items: NDArray[Any] | None = None
    done = 0
    for part in _parts(x, rows, how):
        if "mean" in how:
            ones = [1] * (part.ndim - 2)
            mean, scale = (np.reshape(how[name], (-1, *ones)) for name in ("mean", "scale"))
            part = ((part - mean) / scale).astype(np.float32)
        if items is None:
            items = large(len(rows), *part.shape[1:], dtype=part.dtype)
        items[done : done + len(part)] = part
        done += len(part)
    assert items is not None  # a split has items
    return items


def _parts(x: NDArray[Any], rows: Sequence[int], how: Treatment) -> Iterator[NDArray[Any]]:
    """Yield items [n, ...] with the channels before height and width, a part of the file at a time."""
    step = max(1, AT_ONCE // max(1, x[:1].nbytes))
    for begin in range(0, len(rows), step):
        part = x[list(rows[begin : begin + step])]
        if how["kind"] == "image":
            part = np.moveaxis(part, -1, 1) if how["channels_last"] else part
            part = part[:, None] if part.ndim == 3 else part
        elif how["kind"] == "vector":
            part = part.reshape(len(part), -1)
        yield part if "divide_by" in how else part.astype(np.float64)


def _by_statistic(part: NDArray[Any], how: Treatment) -> NDArray[Any]:
    """Return items as [n, features or channels that have a mean of their own, values of each]."""
    own = 1 if how["kind"] == "audio" and part.ndim == 2 else part.shape[1]
    return part.reshape(len(part), own, -1)


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _read(content: bytes) -> NDArray[Any]:
    file = io.BytesIO(content)
    _check(file, len(content))
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


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
    if dtype.itemsize == 0:  # any number of them would fit into an empty file
        raise ValueError(f"holds text without letters ({dtype.str}) of shape {list(shape)}; save it with its letters")
    if dtype.kind not in KINDS:
        raise ValueError(f"holds {dtype}; arrays of {', '.join(dict.fromkeys(KINDS.values()))} are read")
    if 0 in shape:
        raise ValueError(f"has the shape {list(shape)}: it holds no values")
    declared, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if declared > held:
        raise ValueError(f"is cut short: it declares {declared} bytes of {dtype} {list(shape)} and holds {held}")


def _told(error: Exception, otherwise: str = "cannot be read as an array") -> str:
    text = str(error)
    return text if text.startswith(("is ", "has ", "holds ")) else f"{otherwise} ({text})"

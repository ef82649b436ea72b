"""Copies of published benchmarks: which layout lies on disk, what its files hold, and how far it is complete.

What a file of a copy names must be there, otherwise the data is refused. What the publication had and the copy lacks is
a warning, so that a part of a benchmark can be used.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metalearn_cli.core.errors import DataError, Finding, UserError
from metalearn_cli.data.common.files import SPLIT_WORDS, Files, benchmark_root, files_in, suffix
from metalearn_cli.data.common.manifest import Entry, Placed
from metalearn_cli.data.common.pickles import read_pickle
from metalearn_cli.data.common.pixels import FORMATS, LARGEST, Resampling, opened
from metalearn_cli.data.common.splits import SPLITS

T = TypeVar("T")

LARGEST_LIST = 1 << 26  # bytes of a CSV or JSON file
LARGEST_PACKED = 1 << 34  # bytes of a pickle within an archive; others are not read but mapped
RESAMPLING: Resampling = "bilinear"  # with which the benchmarks are usually scaled
SHIPPED = Path(__file__).parents[1] / "splits"


class Copy(NamedTuple):
    """The files of a benchmark.

    Attributes:
        root: the folder or archive.
        files: the files in it.
        by_name: the paths of the files of each name, those nearest to the root first.
    """

    root: Path
    files: Files
    by_name: Mapping[str, Sequence[str]]

    def find(self, name: str) -> str | None:
        """Return the path of a file, given by its last parts ("meta", "images/001.png"), wherever it lies."""
        found = self.by_name.get(PurePosixPath(name).name, ())
        return next((path for path in found if f"/{path}".endswith(f"/{name}")), None)

    def by_split(self, pattern: str) -> dict[str, str]:
        """Return the file of each split, such as "{}.csv"; none if there is no file of the training split.

        Raises:
            DataError: if other splits have none.
        """
        words = {split: [word for word, own in SPLIT_WORDS.items() if own == split] for split in SPLITS}
        names = {split: [pattern.format(word) for word in (split, *own)] for split, own in words.items()}
        found = {split: next(filter(None, map(self.find, own)), None) for split, own in names.items()}
        if found["train"] is None:
            return {}
        beside = f"is not there, but {found['train']} is"
        if lacking := [Finding(True, names[split][0], beside) for split, name in found.items() if name is None]:
            raise DataError(lacking)
        return {split: name for split, name in found.items() if name is not None}

    def content(self, name: str) -> bytes | mmap.mmap:
        """Return the content of a file of any size: one that lies in a folder is mapped.

        Raises:
            ValueError: if it cannot be read; the text goes after the name.
        """
        path = self.root / name
        try:
            if self.root.is_dir() and path.is_file() and path.stat().st_size:
                with path.open("rb") as file:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
        return self.files.read(name, LARGEST_PACKED)

    def pickle(self, name: str) -> Any:
        """Return the plain data of a pickle.

        Raises:
            ValueError: as `read_pickle`.
        """
        return read_pickle(self.content(name))

    def image(self, name: str) -> Image.Image:
        """Return an image file.

        Raises:
            ValueError: as `opened`.
        """
        return opened(self.files.read(name, LARGEST))

    def images(self) -> list[str]:
        """Return the paths of all image files."""
        return [name for name in self.files.names if suffix(name) in FORMATS]

    def text(self, name: str) -> str:
        """Return the text of a list.

        Raises:
            ValueError: if it cannot be read.
        """
        try:
            return self.files.read(name, LARGEST_LIST).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError("is no UTF-8 text") from error

    def rows(self, name: str, *columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Return columns of a CSV file row by row; each is given by the names that it may have.

        Raises:
            ValueError: if there is no such column, or a row lacks a value.
        """
        try:
            header, *rows = [row for row in csv.reader(io.StringIO(self.text(name), newline="")) if row] or [[]]
        except csv.Error as error:
            raise ValueError(f"cannot be read as a CSV file: {error}") from error
        known = [field.strip() for field in header]
        places = []
        for own in columns:
            found = next((known.index(field) for field in own if field in known), None)
            if found is None:
                there = ", ".join(known) or "nothing"
                raise ValueError(f"has no column {' or '.join(own)}; its first line has {there}")
            places.append(found)
        for number, row in enumerate(rows, 2):
            if any(place >= len(row) or not row[place].strip() for place in places):
                raise ValueError(f"lacks a value in line {number}")
        if not rows:
            raise ValueError("has no rows")
        return [tuple(row[place].strip() for place in places) for row in rows]


class Picture(NamedTuple):
    """An image within a file of many."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}: image {self.number}"


class Layout(NamedTuple):
    """What a layout holds: its name, the images, and how one is read."""

    name: str
    entries: list[Entry]
    read: Callable[[Any], Image.Image]


class Published(NamedTuple):
    """What a benchmark has: classes of each split, and images in all (0: not known)."""

    classes: Mapping[str, int]
    images: int


def copy_of(name: str, root: str | None, what: str) -> Copy:
    """Return the copy of a benchmark that the user has.

    Args:
        name: of the data set; its folder within $MLX_DATA_DIR.
        root: the setting.
        what: what it should be, for messages.

    Raises:
        UserError: if there is none or an archive cannot be read.
    """
    path = benchmark_root(root, name, what)
    files = files_in(path)
    if files.findings:
        raise DataError(files.findings)
    by_name: dict[str, list[str]] = {}
    for file in sorted(files.names, key=lambda file: (file.count("/"), file)):
        by_name.setdefault(PurePosixPath(file).name, []).append(file)
    return Copy(path, files, by_name)


def nothing(copy: Copy, looked_for: Iterable[str]) -> DataError:
    """Return the error of a copy whose layout is not known."""
    listed = "".join(f"\n- {layout}" for layout in looked_for)
    there = ", ".join(list(copy.by_name)[:5]) or "no files"
    cure = f"these layouts are read:{listed}\nand a folder for each class in train/, val/ and test/ by data=images"
    return DataError([Finding(True, str(copy.root), f"has no layout that is known; it has {there}")], cure)


def each(names: Mapping[str, str], load: Callable[[str], T]) -> dict[str, T]:
    """Load the file of each split.

    Raises:
        DataError: with every file that cannot be read.
    """
    found, findings = {}, []
    for split, name in names.items():
        try:
            found[split] = load(name)
        except ValueError as error:
            findings.append(Finding(True, name, str(error)))
    if findings:
        raise DataError(findings)
    return found


def one(name: str, load: Callable[[str], T]) -> T:
    """Load a file.

    Raises:
        DataError: if it cannot be read.
    """
    return each({"": name}, load)[""]


def remembered(load: Callable[[str], T], files: int) -> Callable[[str], T]:
    """Return `load` with the results for the last files kept; threads wait for each other."""
    kept, lock = lru_cache(files)(load), threading.Lock()

    def wait(name: str) -> T:
        with lock:
            return kept(name)

    return wait


def listed(copy: Copy, tables: Mapping[str, str], rows: Mapping[str, Sequence[tuple[str, str]]]) -> list[Entry]:
    """Return the images that tables name, wherever in the copy they lie.

    Args:
        copy: the files.
        tables: the name of the table of each split.
        rows: the image's file and its label, for each row of the table of each split.

    Raises:
        DataError: with each image that is not there.
    """
    known = {PurePosixPath(name).name: name for name in reversed(copy.images())}
    entries, findings = [], []
    for split, own in rows.items():
        missing = [file for file, _ in own if PurePosixPath(file).name not in known]
        if len(missing) == len(own):
            findings.append(Finding(True, tables[split], f"names {len(own)} images, and none of them is there"))
            continue
        findings += [Finding(True, tables[split], f"names {file}, which is not there") for file in missing]
        entries += [Entry(known.get(PurePosixPath(file).name), label, split) for file, label in own]
    if findings:
        raise DataError(findings, f"the images must lie in {copy.root}, in any folder")
    return entries


def arranged(entries: Iterable[Entry], protocol: str, published: Published) -> Placed:
    """Return the items by split and class, with what the copy lacks as findings.

    Args:
        entries: all with a split.
        protocol: name of the split.
        published: what the whole benchmark has.

    Raises:
        DataError: if a split has no items, or a class is in two splits.
    """
    classes: dict[str, dict[str, list[Entry]]] = {split: {} for split in SPLITS}
    for entry in entries:
        classes[entry.split].setdefault(entry.class_name, []).append(entry)
    wrong = [Finding(True, split, "has no images") for split, own in classes.items() if not own]
    owners = Counter(name for own in classes.values() for name in own)
    wrong += [Finding(True, name, "is a class of more than one split") for name, count in owners.items() if count > 1]
    if wrong:
        raise DataError(wrong)
    counts = {split: len(own) for split, own in classes.items()}
    findings = [
        Finding(False, split, f"has {counts[split]} of the benchmark's {count} classes: results do not compare")
        for split, count in published.classes.items()
        if counts[split] != count
    ]
    images = sum(len(own) for split in classes.values() for own in split.values())
    if published.images and images != published.images and not findings:
        told = f"have {images} of the benchmark's {published.images} images: results do not compare"
        findings.append(Finding(False, "train, val and test", told))
    return Placed({split: dict(sorted(own.items())) for split, own in classes.items()}, protocol, tuple(findings))


def shipped(name: str, checksum: str) -> Any:
    """Return the lists of a JSON file of this package.

    Raises:
        UserError: if it was changed: results would not compare.
    """
    path = SHIPPED / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); install metalearn-cli again") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise UserError(f"{path} is not the list that belongs to this version; install metalearn-cli again")
    return json.loads(content)


def plain(label: object) -> str:
    """Return the name of a class without "/", which would separate its group."""
    return str(label, "utf-8", "replace") if isinstance(label, bytes) else str(label).strip().replace("/", "-")


def pictures(value: object, channels_first: bool = False) -> NDArray[np.uint8]:
    """Return an array of images [N, H, W, 3].

    Args:
        value: what a file has; with `channels_first` [N, 3 * P * P], channel by channel.
        channels_first: whether it is flat.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        raise ValueError("has no array of images of type uint8")
    if channels_first and value.ndim == 2 and value.shape[1] % 3 == 0:
        side = round((value.shape[1] // 3) ** 0.5)
        if 3 * side * side == value.shape[1]:
            return value.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
    if not channels_first and value.ndim == 4 and value.shape[3] == 3:
        return value
    raise ValueError(f"has an array of shape {list(value.shape)} instead of images")


def numbers(value: object) -> list[int]:
    """Return a list or array of indices or labels.

    Raises:
        ValueError: if it is something else.
    """
    found = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(found, list | tuple) or not all(isinstance(number, int) and number >= 0 for number in found):
        raise ValueError("has no list of whole numbers where classes or indices should be")
    return [*found]


def labels(value: object, count: int, below: int | None = None) -> list[int]:
    """Return the class of each image.

    Args:
        value: what a file has.
        count: how many there must be.
        below: they must be smaller than this.

    Raises:
        ValueError: if they are something else.
    """
    found = numbers(value)
    if len(found) != count:
        raise ValueError(f"has {len(found)} labels for {count} images")
    if below is not None and max(found, default=0) >= below:
        raise ValueError(f"has the label {max(found)}, but names only {below} classes")
    return found


def field(value: object, *names: str) -> Any:
    """Return an entry of a dict that a pickle holds, by text or bytes.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__} instead of a dict with {' and '.join(names)}")
    for key in (*names, *(name.encode() for name in names)):
        if key in value:
            return value[key]
    known = ", ".join(plain(key) for key in list(value)[:8])
    raise ValueError(f"has no {' or '.join(names)}; it has {known or 'nothing'}")

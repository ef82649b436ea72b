"""The files of a folder, a zip, a tar, or a folder of such archives, read in place: nothing is unpacked.

Archives are indexed once; after that, each file of a zip or of a plain tar is read directly.
"""

from __future__ import annotations

import hashlib
import lzma
import mmap
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import ConfigError, Finding, Problem
from metalearn_cli.core.places import expanded

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    SyntaxError,  # Pillow, for a broken PNG
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a damaged file or archive raises."""

_JUNK = {
    "._*": re.compile(r"\._.*"),  # of macOS, on other file systems and in archives
    "__MACOSX": re.compile(r"__MACOSX"),
    "@eaDir": re.compile(r"@eaDir"),  # of a network disk
    "Thumbs.db": re.compile(r"Thumbs\.db|desktop\.ini", re.IGNORECASE),
    "hidden": re.compile(r"\..*"),
}
"""Files and folders that systems leave behind, by the word that reports name them with."""

HEADER = 30  # bytes before the name of a file in a zip

_SHARD = re.compile(r"(.*?)[-_.]*\d+")


def state_of(about: os.stat_result) -> tuple[int, ...]:
    """Return what tells that a file is the same and unchanged; another file may have its size and its time."""
    return (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_dev, about.st_ino)


class Files(NamedTuple):
    """Files, wherever they lie.

    Attributes:
        names: their paths, with "/", in the order in which reading is fast.
        read: `read(name, most)` returns the contents; it raises a ValueError, whose text goes after the name ("is
            damaged"), if they cannot be read or have more than `most` bytes. Several threads may call it.
        stamp: a hash of names and of which files they are, see `state_of`: the key of what is made of the files.
        skipped: how many files of each kind of junk were left out.
        findings: what cannot be used.
    """

    names: tuple[str, ...]
    read: Callable[[str, int], bytes]
    stamp: str
    skipped: Counter[str]
    findings: tuple[Finding, ...]

    @property
    def order(self) -> dict[str, int]:
        """The place of each name."""
        return {name: place for place, name in enumerate(self.names)}


class _File(NamedTuple):
    """A file: what tells a change of it, and how its bytes are read."""

    name: str
    about: tuple[int, ...]
    read: Callable[[int], bytes]


def there(path: Path) -> bool:
    """Whether a file or folder exists; a name that is too long does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def source_of(root: str | None, what: str) -> Path:
    """Return the path of `data.root`, a file or folder.

    Args:
        root: the setting.
        what: what it should be, as in "a folder of images".

    Raises:
        ConfigError: if it is not given or does not exist.
    """
    if root is None:
        raise ConfigError([Problem("data.root", f"is missing: data.root=PATH, {what}")])
    path = Path(expanded(root))
    if not there(path):
        above = path.parent
        near = sorted(p.name for p in above.iterdir())[:5] if there(above) and above.is_dir() else []
        told = f"; {above}/ has {', '.join(near)}" if near else ""
        raise ConfigError([Problem("data.root", f"there is no {shown(str(path))[1:-1]}{told}")])
    return path


def benchmark_root(root: str | None, name: str, what: str) -> Path:
    """Return the folder of a benchmark: `data.root`, or the folder of its name in MLX_DATA_DIR.

    Args:
        root: the setting.
        name: of the data set.
        what: the files that it should have, and where they come from.

    Raises:
        ConfigError: if there is none.
    """
    mirror = os.environ.get("MLX_DATA_DIR")
    if root is None and mirror:
        folder = Path(expanded(mirror)) / name
        if not folder.exists():
            raise ConfigError([Problem("data.root", f"is missing, and MLX_DATA_DIR has no {name}: {what}")])
        return folder
    return source_of(root, what)


def files_in(root: Path) -> Files:
    """Return the files of a folder or archive.

    In a folder, an archive stands for a folder of its name; numbered ones (shard-0001.tar) are one folder, which has no
    name of its own unless it is that of a split (train-0001.tar).

    Raises:
        ConfigError: if it is neither a folder nor an archive.
    """
    findings: list[Finding] = []
    if root.is_dir():
        found = list(_of_folder(root, findings))
    elif is_archive(root.name):
        found = list(_of_archive(root, findings))
    else:
        raise ConfigError([Problem("data.root", f"{root} is neither a folder nor one of {', '.join(ARCHIVES)}")])
    return _gathered(found, findings)


def files_named(folder: Path, names: Sequence[str]) -> Files:
    """Return files of a folder by their names, relative to it."""
    findings: list[Finding] = []
    found = []
    for name in dict.fromkeys(names):
        path = folder / name
        try:
            about = path.stat()
        except (OSError, ValueError):
            about = None
        if about and stat.S_ISREG(about.st_mode):
            found.append(_File(name, state_of(about), partial(_read_file, path)))
        else:
            findings.append(Finding(True, name, f"is not in {folder}"))
    return _gathered(found, findings, junk=False)


def _gathered(found: Iterable[_File], findings: list[Finding], junk: bool = True) -> Files:
    """Return files as one; junk is left out."""
    skipped: Counter[str] = Counter()
    kept: dict[str, _File] = {}
    for file in found:
        if junk and (word := _junk(file.name)):
            skipped[word] += 1
        elif file.name in kept:
            findings.append(Finding(True, file.name, "is there twice: in two archives, or twice in one"))
        else:
            kept[file.name] = file
    state = hashlib.sha256()
    for name in sorted(kept):
        state.update(repr((name, kept[name].about)).encode())

    def read(name: str, most: int) -> bytes:
        try:
            return kept[name].read(most)
        except UNREADABLE as error:
            text = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise ValueError(text if text.startswith("is ") else f"cannot be read: {text}") from error

    return Files(tuple(kept), read, state.hexdigest(), skipped, tuple(findings))


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVES)


def suffix(name: str) -> str:
    """Return the end of a file's name from its last dot, in lower case."""
    return PurePosixPath(name).suffix.lower()


def _junk(name: str) -> str:
    parts = name.split("/")
    return next((word for word, pattern in _JUNK.items() if any(pattern.fullmatch(part) for part in parts)), "")


def _of_folder(root: Path, findings: list[Finding]) -> Iterator[_File]:
    for folder, names in _folders(root, findings):
        inside = PurePosixPath(folder.relative_to(root).as_posix())
        for name in sorted(names):
            path = folder / name
            if is_archive(name) and not _junk(name):
                own = inside / _folder_of(name)
                yield from (file._replace(name=str(own / file.name)) for file in _of_archive(path, findings))
                continue
            try:
                about = path.stat()
            except OSError as error:
                told = f"cannot be read and is left out: {error.strerror}"  # such as a link to nothing
                findings.append(Finding(False, str(inside / name), told))
                continue
            if stat.S_ISREG(about.st_mode):  # reading a pipe or a device would never end
                yield _File(str(inside / name), state_of(about), partial(_read_file, path))


def _folders(root: Path, findings: list[Finding]) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder, with the names of its files; links to folders last, and only those to other folders.

    So each file is read once, and under its own name if it has one here. Paths through links that lead to each other
    would otherwise be without number.
    """
    read: dict[str, str] = {}
    tops = [root]
    for top in tops:
        for place, inner, names in os.walk(top):
            folder = Path(place)
            name, real = folder.relative_to(root).as_posix(), os.path.realpath(place)
            if real in read:
                inner.clear()
                if not _junk(name):
                    told = f"is the folder {read[real]} again, by a link: what is in it is read once"
                    findings.append(Finding(False, name, told))
                continue
            read[real] = name if folder != root else "data.root"
            inner.sort()
            tops += [folder / own for own in inner if (folder / own).is_symlink()]
            yield folder, names


def _folder_of(archive: str) -> str:
    """Return the name of the folder that an archive in a folder stands for, or "" for a shard."""
    stem = archive[: -len(next(end for end in ARCHIVES if archive.lower().endswith(end)))]
    numbered = _SHARD.fullmatch(stem)
    if numbered is None:
        return stem
    return numbered[1] if numbered[1].lower() in SPLIT_WORDS else ""


SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""The split of each word that folders and columns name a split with."""


def _read_file(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is too large: it has more than {most} bytes")
    return content


def _of_archive(path: Path, findings: list[Finding]) -> Iterator[_File]:
    reader = _of_zip if path.name.lower().endswith(".zip") else _of_tar
    try:
        for file in reader(path):
            parts = file.name.replace("\\", "/").split("/")
            if ".." in parts or not parts[0] or ":" in parts[0]:
                findings.append(Finding(True, f"{path.name}: {file.name}", "has a name that leads out of the archive"))
            else:
                yield file._replace(name="/".join(part for part in parts if part not in ("", ".")))
    except UNREADABLE as error:
        findings.append(Finding(True, str(path), f"is damaged or cannot be read ({error})"))


def check_overlap(archive: zipfile.ZipFile) -> None:
    """Check that each byte of an archive belongs to one file: else a small one can hold any number of large ones.

    Raises:
        ValueError: if not.
    """
    begins = sorted((member.header_offset, member.compress_size) for member in archive.infolist())
    ends = [*(begin for begin, _ in begins[1:]), archive.start_dir]
    if any(begin + HEADER + size > end for (begin, size), end in zip(begins, ends, strict=True)):
        raise ValueError("its files overlap; pack them again")


def _of_zip(path: Path) -> Iterator[_File]:
    archive = zipfile.ZipFile(path)
    check_overlap(archive)
    for member in archive.infolist():
        if not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16):
            about = (member.file_size, member.CRC)
            yield _File(member.filename, about, partial(_read_member, archive, member))


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    if member.file_size > most:
        raise ValueError(f"is too large: it has more than {most} bytes")
    return archive.read(member)  # not more than the declared size


def _of_tar(path: Path) -> Iterator[_File]:
    changed = state_of(path.stat())  # a tar has no checksums of its contents
    if path.name.lower().endswith(".tar"):
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg() and not member.issparse()]
            end = archive.offset
        if path.stat().st_size < end + tarfile.BLOCKSIZE:  # an archive ends in empty blocks
            raise ValueError("it is cut short")
        for member in members:
            yield _File(member.name, (member.size, *changed), partial(_read_at, path, member))
        return
    with path.open("rb") as file:  # mapped, so that it needs no closing
        packed = tarfile.open(fileobj=mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), mode="r:*")
    lock = threading.Lock()
    for member in packed:
        if member.isreg() and not member.issparse():
            yield _File(member.name, (member.size, *changed), partial(_read_packed, packed, member, lock))


def _read_at(path: Path, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise ValueError(f"is too large: it has more than {most} bytes")
    with path.open("rb", buffering=0) as file:
        file.seek(member.offset_data)
        content = file.read(member.size)
    if len(content) < member.size:
        raise ValueError("is cut short")
    return content


def _read_packed(archive: tarfile.TarFile, member: tarfile.TarInfo, lock: threading.Lock, most: int) -> bytes:
    if member.size > most:
        raise ValueError(f"is too large: it has more than {most} bytes")
    with lock:
        file = archive.extractfile(member)
        assert file is not None  # only regular files are listed
        return file.read()

"""Your own images: a folder, an archive or a table of them.

Legend: P pixels per side.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import PIL
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import SPLIT_WORDS, Files, files_in, source_of, suffix
from metalearn_cli.data.common.images import (
    FORMATS,
    LARGEST,
    Fit,
    Resampling,
    Shape,
    Unreadable,
    image_data,
    opened,
)
from metalearn_cli.data.common.manifest import Entry, Manifest, placed, split_named
from metalearn_cli.data.common.rows import check_roles, columns_of, is_table, named

COLUMN = {"path": None, "label": None, "split": None, "group": None}
WHAT = "a folder with a folder of images for each class, an archive of it, or a table with a column of paths"


def images(
    root: str | None = None,
    split: str = "auto",
    size: Annotated[int, Range(8, 1024)] = 32,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    resampling: Resampling = "bicubic",
    column: Mapping[str, str | None] = COLUMN,
    min_items: Annotated[int, Range(1)] = 2,
    unreadable: Unreadable = "stop",
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Images from files, decoded once and then cached.

    A class is a folder of images; folders above it are its group ("birds/crow"). Folders named train, val and test at
    the top are splits. In a table, each row names a file, relative to the table. Images are turned as their camera says
    (EXIF); 16 bits become 8; what is transparent becomes white.

    Args:
        root: a folder, a zip or tar file, or a CSV or JSON lines file.
        split: how classes are split, see `manifest.placed`.
        size: height and width P of an item in pixels, 8 to 1024.
        channels: 1 (gray) or 3 (colours); None means 1 if all files are gray, else 3.
        fit: how an image becomes square: "crop" cuts its middle out, "pad" adds black bars, "squash" distorts it.
        resampling: the filter that scales it.
        column: the columns of a table: "path", "label", and perhaps "split" and "group"; None for the usual names.
        min_items: classes with fewer images are left out, >= 1.
        unreadable: "stop" refuses data with files that cannot be read, "skip" leaves them out.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    check_roles(column, tuple(COLUMN))
    source = source_of(root, WHAT)
    table = is_table(source.name)
    files = files_in(source.parent if table else source)
    manifest = _of_table(source, column, files) if table else _of_folders(files)
    found = placed(manifest, split, seed, min_items)
    shape = Shape(size, channels, fit, resampling)
    key = {
        "files": files.stamp,
        "classes": {s: {n: [e.source for e in own] for n, own in cs.items()} for s, cs in found.classes.items()},
        "protocol": found.protocol,
        "shape": shape,
        "unreadable": unreadable,
        "pillow": PIL.__version__,
    }

    def read(name: str) -> Image.Image:
        return opened(files.read(name, LARGEST))

    return cached("images", key, lambda: image_data("images", found, read, shape, unreadable, manifest.about))


def _of_folders(files: Files) -> Manifest:
    """Return the images of a folder of classes."""
    names = [name for name in files.names if suffix(name) in FORMATS]
    about = {
        "files": len(files.names),
        "skipped": {**files.skipped, "not images": len(files.names) - len(names)},
    }
    parts = {name: PurePosixPath(name).parts[:-1] for name in names}
    wrapping = _common(set(parts.values()))
    parts = {name: folders[wrapping:] for name, folders in parts.items()}
    tops = {folders[0].lower() for folders in parts.values() if folders}
    split_folders = tops <= SPLIT_WORDS.keys() and "train" in {SPLIT_WORDS[top] for top in tops}
    entries, findings = [], list(files.findings)
    for name, folders in parts.items():
        split = split_named(folders[0], name) if split_folders and folders else ""
        own = folders[bool(split) :]
        if not own:
            findings.append(Finding(True, name, "is in no class folder; each class needs a folder of its own"))
        group = own[0] if len(own) > 1 else ""
        entries.append(Entry(name, "/".join(own[bool(group) :]), split, group))
    if not names:
        found = sorted({suffix(name) or "no ending" for name in files.names})[:8]
        told = f"has no images ({', '.join(FORMATS)})" + (f"; it has files of {', '.join(found)}" if found else "")
        findings.append(Finding(True, "data.root", told))
    return Manifest(entries, about, tuple(findings))


def _common(folders: set[tuple[str, ...]]) -> int:
    """Return how many folders hold all others: they are no classes."""
    if len(folders) < 2:
        return max(0, len(next(iter(folders), ())) - 1)
    return next(i for i, level in enumerate(zip_longest(*folders)) if len(set(level)) > 1)


def _of_table(path: Path, column: Mapping[str, str | None], files: Files) -> Manifest:
    """Return the images of a table; its paths are relative to its folder."""
    columns = columns_of(path)
    roles = {role: named(columns, role, column, path, role in ("path", "label")) for role in column}
    used = {role: found[0] for role, found in roles.items() if found}
    values = {role: found[1] for role, found in roles.items() if found}
    known, entries, findings = set(files.names), [], list(files.findings)
    for row, name in enumerate(values["path"]):
        where = str(PurePosixPath(str(name).replace("\\", "/")))
        if where not in known:
            findings.append(Finding(True, f"{path}, row {row + 1}", f"names {name}, which is not in {path.parent}"))
        label = str(values["label"][row]).strip()
        if not label:
            findings.append(Finding(True, f"{path}, row {row + 1}", "has no label"))
        split = split_named(values["split"][row], f"{path}, row {row + 1}") if "split" in values else ""
        group = str(values["group"][row]).strip() if "group" in values else ""
        entries.append(Entry(where, label, split, group))
    if findings:
        raise DataError(findings)
    return Manifest(entries, {"rows": len(entries), "columns": used, "skipped": dict(files.skipped)})

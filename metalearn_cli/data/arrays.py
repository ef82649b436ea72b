"""Your own arrays: vectors, series or images in numpy's files.

Legend: N items, D features, C channels, L length, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from numpy.typing import NDArray

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.arrays import (
    Layout,
    Treatment,
    learn,
    mapped,
    npz,
    npz_names,
    plain,
    stacked,
    treated,
    treatment,
)
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import Files, files_in, files_named, source_of, suffix
from metalearn_cli.data.common.layouts import of_folders
from metalearn_cli.data.common.manifest import Manifest, key_of_split, placed
from metalearn_cli.data.common.rows import USUAL, Columns, check_roles, roles_of
from metalearn_cli.data.common.tables import entries_of, usable

COLUMN = {"x": None, "label": None, "split": None, "group": None}
WHAT = (
    "an .npz file with items and labels, a folder with x.npy and y.npy, or with a folder of .npy files for each class"
)

Read = Callable[[], tuple[NDArray[Any], Manifest]]
"""Returns the items [N, ...], and what each is, by its number."""

Load = Callable[[Collection[str]], Mapping[str, NDArray[Any]]]
"""Returns the arrays of names."""


def arrays(
    root: str | None = None,
    kind: Layout = "auto",
    split: str = "auto",
    column: Mapping[str, str | None] = COLUMN,
    min_items: Annotated[int, Range(1)] = 2,
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Items and labels from .npz and .npy files.

    Images of uint8 stay as they are; all other numbers are standardised by what the training classes have, kept in
    `preprocessing`: each feature of a vector, each channel of a series or image. Pickled objects are never read.

    Args:
        root: an .npz file with an array for each role; a folder with a .npy file for each, or one of these files; or a
            folder or archive with a folder of .npy files, one per item, for each class.
        kind: what an item is: "vector" [D], "audio" (a series, [L] or [C, L]) or "image" ([H, W], [H, W, C] or
            [C, H, W]); "auto" decides by its dimensions: two are an image if they are uint8, else a series.
        split: how classes are split, see `manifest.placed`.
        column: the arrays of "x" [N, ...] and "label" [N], and perhaps of "split" and "group" [N]; None for the usual
            names, such as x and y.
        min_items: classes with fewer items are left out, >= 1.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError lists what is wrong with it.
    """
    check_roles(column, tuple(COLUMN))
    path = source_of(root, WHAT)
    if path.is_file() and suffix(path.name) == ".npy":  # the choice of the items is a part of the key, too
        column, path = {**column, "x": path.stem}, path.parent
    files, read = _source(path, column)
    key = {
        "files": files.stamp,
        "kind": kind,
        "split": key_of_split(split),
        "column": dict(column),
        "min_items": min_items,
        "seed": seed,
    }
    data = cached("arrays", key, lambda: _data(read, kind, split, seed, min_items))
    return data.within_groups("groups") if within else data


def _source(path: Path, column: Mapping[str, str | None]) -> tuple[Files, Read]:
    """Return the files of a source, and what reads them."""
    if path.is_file() and suffix(path.name) == ".npz":
        return files_named(path.parent, [path.name]), lambda: _of_arrays(
            npz_names(path), partial(npz, path), column, path
        )
    single = {file.stem: file for file in sorted(path.glob("*.npy"))} if path.is_dir() else {}
    if single.keys() & {column.get("x"), *USUAL["x"]}:
        used = files_named(path, [file.name for file in single.values()])
        return used, lambda: _of_arrays(single, lambda names: {n: mapped(single[n]) for n in names}, column, path)
    files = files_in(path)
    return files, lambda: _of_classes(files)


def _of_arrays(names: Iterable[str], load: Load, column: Mapping[str, str | None], path: Path) -> Any:
    """Return the array of items, and what each is; of all arrays, only those that have a role are loaded."""
    columns: Columns = {name: [] for name in names}
    used = {role: own[0] for role, own in roles_of(columns, {**COLUMN, **column}, path, ("x", "label")).items()}
    found = load(used.values())
    x, wrong = found[used["x"]], []
    for role, name in used.items():
        shape = list(found[name].shape)
        if role == "x" and not (len(shape) > 1 and shape[0] and found[name].dtype.kind in "biuf"):
            told = f"has {found[name].dtype} of shape {shape}; items are numbers [items, ...]"
            wrong.append(Finding(True, f"{path}, {name}", told))
        elif role != "x" and x.ndim and shape not in ([len(x)], [len(x), 1]):
            told = f"has the shape {shape}; a {role} for each item has the shape [{len(x)}]"
            wrong.append(Finding(True, f"{path}, {name}", told))
    if wrong:
        raise DataError(wrong)
    values = {role: plain(found[name].reshape(len(x)), f"{path}, {name}") for role, name in used.items() if role != "x"}
    entries, findings = entries_of(values, path, split_column=used.get("split", ""))
    return x, Manifest(usable(entries, findings, path), {"items": len(x), "arrays": used}, tuple(findings))


def _of_classes(files: Files) -> Any:
    """Return the arrays of a folder of classes as one, and what each is."""
    manifest = of_folders(files, (".npy",))
    if any(finding.blocks for finding in manifest.findings):
        raise DataError(manifest.findings)
    x = stacked([entry.source for entry in manifest.entries], files)
    return x, manifest._replace(entries=[e._replace(source=i) for i, e in enumerate(manifest.entries)])


def _data(read: Read, kind: Layout, split: str, seed: int, min_items: int) -> Dataset:
    x, manifest = read()
    found = placed(manifest, split, seed, min_items)
    rows = {name: [entry.source for entry in found.entries(name)] for name in found.classes}
    how: Treatment = learn(x, rows["train"], treatment(x, kind))
    return Dataset.of(
        "arrays",
        found.protocol,
        found.splits(lambda name, _: torch.from_numpy(treated(x, rows[name], how)), lambda row: f"item {row + 1}"),
        how["kind"],
        how,
        about={**manifest.about, "dtype": str(x.dtype), "shape": list(x.shape[1:])},
        findings=found.findings,
    )

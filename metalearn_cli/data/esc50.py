"""ESC-50: 50 kinds of environmental sounds, 40 recordings of five seconds each.

Source: Piczak 2015, doi:10.1145/2733373.2806390, github.com/karolpiczak/ESC-50 (CC BY-NC 3.0).
The few-shot split is that of MetaAudio: Heggan et al. 2022, arXiv:2204.02121.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import Files, benchmark_root, files_in
from metalearn_cli.data.common.layouts import of_names
from metalearn_cli.data.common.manifest import Manifest
from metalearn_cli.data.common.pickles import read_npy
from metalearn_cli.data.common.rows import columns_of, named
from metalearn_cli.data.common.sounds import recordings
from metalearn_cli.data.common.splits import SPLITS
from metalearn_cli.data.common.waves import FORMATS, Features, Hop, Mels, Rate, Seconds, Shape

LISTS = "ESC_paper_splits.npy"  # of MetaAudio: an array of three lists of classes
LARGEST_LISTS = 1 << 20  # bytes
WHAT = "a folder with audio/ and meta/esc50.csv"


def esc50(
    root: str | None = None,
    split: str = "auto",
    rate: Rate = 16000,
    seconds: Seconds = 5.0,
    features: Features = "logmel",
    mels: Mels = 40,
    hop: Hop = 0.02,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Environmental sounds; a class is a kind of sound. The published folds split recordings, not classes.

    Args:
        root: a folder with audio/ and meta/esc50.csv; None means $MLX_DATA_DIR/esc50.
        split: "auto" (the published few-shot split where ESC_paper_splits.npy lies, else kinds of sounds by seed); the
            others as in `manifest.placed`.
        rate: samples per second, to which all are resampled, 1000 to 192000.
        seconds: length of an item, > 0 and <= 600.
        features: "logmel", an image of `mels` bands by time with values in [0, 1], or "raw", the samples.
        mels: frequency bands, 8 to 512.
        hop: seconds between two columns of the image, 0.001 to 1.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    folder = benchmark_root(root, "esc50", WHAT)
    files = files_in(folder)
    manifest = _with_names(of_names(files, FORMATS, "{fold}-{clip}-{take}-{label}.wav"), folder / "meta" / "esc50.csv")
    lists = next((name for name in files.names if PurePosixPath(name).name == LISTS), None)
    if split == "auto" and lists:
        manifest = _with_splits(manifest, lists, files)
    return recordings("esc50", files, manifest, Shape(rate, seconds, features, mels, hop), split, seed)


def _with_names(manifest: Manifest, table: Path) -> Manifest:
    """Return the manifest with the names of the classes in place of their numbers."""
    columns = columns_of(table)
    given = {"number": "target", "name": "category"}
    numbers, names = (found[1] for role in given if (found := named(columns, role, given, table)))
    known = dict(zip(numbers, names, strict=True))
    entries = [entry._replace(label=known.get(entry.label, entry.label)) for entry in manifest.entries]
    return manifest._replace(entries=entries)


def _with_splits(manifest: Manifest, lists: str, files: Files) -> Manifest:
    """Return the manifest with the split of each class, as a file of lists says.

    Raises:
        DataError: if it cannot be read, or does not fit the classes.
    """
    try:
        found = _lists(read_npy(files.read(lists, LARGEST_LISTS)))
    except ValueError as error:
        raise DataError([Finding(True, lists, str(error))]) from error
    owner = {label: split for split, own in found.items() for label in own}
    labels = {entry.label for entry in manifest.entries}
    wrong = [
        Finding(True, lists, f"lists {label}, which is no class of meta/esc50.csv") for label in owner.keys() - labels
    ]
    wrong += [Finding(True, lists, f"does not list the class {label}") for label in labels - owner.keys()]
    if wrong:
        raise DataError(sorted(wrong), "data.split=classes splits the classes without this file")
    return manifest._replace(entries=[entry._replace(split=owner[entry.label]) for entry in manifest.entries])


def _lists(value: NDArray[Any]) -> dict[str, list[str]]:
    """Return the classes of each split, given as three lists or arrays.

    Raises:
        ValueError: if they are something else, or a class is in two of them.
    """
    lists = [own.tolist() if isinstance(own, np.ndarray) else own for own in value.tolist() if value.ndim]
    if len(lists) != len(SPLITS) or not all(isinstance(own, list) for own in lists):
        raise ValueError("does not hold three lists: the classes of train, val and test")
    names = [name for own in lists for name in own]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("has a class whose name is no text")
    if len(set(names)) < len(names):
        raise ValueError(f"lists the class {next(name for name in names if names.count(name) > 1)} twice")
    return dict(zip(SPLITS, lists, strict=True))

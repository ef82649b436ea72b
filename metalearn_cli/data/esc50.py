"""ESC-50: 50 kinds of environmental sounds, 40 recordings of five seconds each.

Source: Piczak 2015, doi:10.1145/2733373.2806390, github.com/karolpiczak/ESC-50 (CC BY-NC 3.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from metalearn_cli.core.check import Above, Range
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root, files_in
from metalearn_cli.data.common.layouts import of_names
from metalearn_cli.data.common.manifest import Manifest
from metalearn_cli.data.common.rows import columns_of, named
from metalearn_cli.data.common.sounds import FORMATS, Features, Shape, recordings

WHAT = "a folder with audio/ and meta/esc50.csv"


def esc50(
    root: str | None = None,
    split: str = "auto",
    rate: Annotated[int, Range(1000, 192_000)] = 16000,
    seconds: Annotated[float, Above(0), Range(high=600)] = 5.0,
    features: Features = "logmel",
    mels: Annotated[int, Range(8, 512)] = 40,
    hop: Annotated[float, Range(0.001, 1)] = 0.02,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Environmental sounds; a class is a kind of sound. The published folds split recordings, not classes.

    Args:
        root: a folder with audio/ and meta/esc50.csv; None means $MLX_DATA_DIR/esc50.
        split: "auto" (kinds of sounds by seed), or see `manifest.placed`.
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
    return recordings("esc50", files, manifest, Shape(rate, seconds, features, mels, hop), split, seed)


def _with_names(manifest: Manifest, table: Path) -> Manifest:
    """Return the manifest with the names of the classes in place of their numbers."""
    columns = columns_of(table)
    given = {"number": "target", "name": "category"}
    numbers, names = (found[1] for role in given if (found := named(columns, role, given, table)))
    known = dict(zip(numbers, names, strict=True))
    entries = [entry._replace(label=known.get(entry.label, entry.label)) for entry in manifest.entries]
    return manifest._replace(entries=entries)

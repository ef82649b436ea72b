"""Your own recordings: a folder, an archive or a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.decoding import Unreadable
from metalearn_cli.data.common.files import Files, source_of
from metalearn_cli.data.common.layouts import COLUMN, of_folders, of_names, of_source
from metalearn_cli.data.common.manifest import Manifest
from metalearn_cli.data.common.rows import check_roles, is_table
from metalearn_cli.data.common.sounds import recordings
from metalearn_cli.data.common.waves import FORMATS, Features, Hop, Mels, Rate, Seconds, Shape

WHAT = "a folder with a folder of recordings for each class, an archive of it, or a table with a column of paths"


def audio(
    root: str | None = None,
    split: str = "auto",
    pattern: str | None = None,
    rate: Rate = 16_000,
    seconds: Seconds = 1.0,
    features: Features = "logmel",
    mels: Mels = 40,
    hop: Hop = 0.02,
    column: Mapping[str, str | None] = COLUMN,
    min_items: Annotated[int, Range(1)] = 2,
    unreadable: Unreadable = "stop",
    within: bool = False,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Recordings from wav, flac, ogg and mp3 files, decoded once and then cached.

    A class is a folder of recordings, as for images. With a pattern, names of files say the class:
    `{label}_{group}_{n}.wav`. Several channels are mixed to one; loudness is taken out.

    Args:
        root: a folder, a zip or tar file, or a CSV or JSON lines file.
        split: how classes are split, see `manifest.placed`.
        pattern: of the files' names, with the fields "label", and perhaps "split" and "group"; others may have any
            name. None: a folder for each class.
        rate: samples per second, to which all are resampled, 1000 to 192000.
        seconds: length of an item, > 0 and <= 600; longer recordings are cut, shorter ones padded with silence.
        features: "logmel", an image of `mels` bands by time with values in [0, 1], or "raw", the samples.
        mels: frequency bands, 8 to 512.
        hop: seconds between two columns of the image, 0.001 to 1.
        column: the columns of a table: "path", "label", and perhaps "split" and "group"; None for the usual names.
        min_items: classes with fewer recordings are left out, >= 1.
        unreadable: "stop" refuses data with files that cannot be read, "skip" leaves them out.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    check_roles(column, tuple(COLUMN))
    source = source_of(root, WHAT)
    if pattern is not None and is_table(source.name):
        raise ConfigError([Problem("data.pattern", "is for files without a table; remove it")])

    def of_files(files: Files) -> Manifest:
        return of_names(files, FORMATS, pattern) if pattern else of_folders(files, FORMATS, named=True)

    manifest, files = of_source(source, column, of_files)
    shape = Shape(rate, seconds, features, mels, hop)
    data = recordings("audio", files, manifest, shape, split, seed, min_items, unreadable)
    return data.within_groups("groups") if within else data

"""Your own images: a folder, an archive or a table of them.

Legend: P pixels per side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import PIL
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.decoding import Unreadable
from metalearn_cli.data.common.files import source_of
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.layouts import COLUMN, of_folders, of_source
from metalearn_cli.data.common.manifest import placed
from metalearn_cli.data.common.pixels import FORMATS, LARGEST, Fit, Resampling, Shape, opened
from metalearn_cli.data.common.rows import check_roles

WHAT = "a folder with a folder of images for each class, an archive of it, or a table with a column of paths"


def images(
    root: str | None = None,
    split: str = "auto",
    size: Annotated[int, Range(8, 1024)] = 32,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    resampling: Resampling = "bicubic",
    bits: Annotated[int, Range(8, 16)] = 16,
    column: Mapping[str, str | None] = COLUMN,
    min_items: Annotated[int, Range(1)] = 2,
    unreadable: Unreadable = "stop",
    within: bool = False,
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
        bits: that files of 16 bits make use of, 8 to 16: some cameras have 10 or 12.
        column: the columns of a table: "path", "label", and perhaps "split" and "group"; None for the usual names.
        min_items: classes with fewer images are left out, >= 1.
        unreadable: "stop" refuses data with files that cannot be read, "skip" leaves them out.
        within: whether the classes of an episode are all of one group.
        seed: of the split, >= 0.

    Raises:
        UserError: if the data cannot be used; a DataError names each file.
    """
    check_roles(column, tuple(COLUMN))
    manifest, files = of_source(source_of(root, WHAT), column, lambda files: of_folders(files, tuple(FORMATS)))
    found = placed(manifest, split, seed, min_items)
    shape = Shape(size, channels, fit, resampling, bits)
    key = {
        "files": files.stamp,
        "placed": found.plain,
        "shape": shape,
        "unreadable": unreadable,
        "pillow": PIL.__version__,
    }

    def read(name: str) -> Image.Image:
        return opened(files.read(name, LARGEST))

    data = cached(
        "images", key, lambda: image_data("images", found, read, shape, unreadable, manifest.about, files.order)
    )
    return data.within_groups("groups") if within else data

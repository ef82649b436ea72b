"""CIFAR-FS: the classes of CIFAR-100, split at random.

Source: Bertinetto et al. 2019, arxiv.org/abs/1805.08136.

Legend: P pixels per side.
"""

from __future__ import annotations

from typing import Annotated

import PIL

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.benchmarks import RESAMPLING, Copy, Published, arranged, copy_of
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.cifar import IMAGES, layout_of, lists
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Entry
from metalearn_cli.data.common.pixels import Shape

PUBLISHED = Published({"train": 64, "val": 16, "test": 20}, IMAGES)
WHAT = "a folder or archive with CIFAR-100 or CIFAR-FS"


def cifar_fs(root: str | None = None, size: Annotated[int, Range(8, 256)] = 32) -> Dataset:
    """Colour images of the 100 classes of CIFAR-100: 64 train, 16 validate, 20 test (Bertinetto et al. 2019).

    Args:
        root: folder or archive with cifar-100-python/, with a folder of images for each class, or with
            CIFAR_FS_{split}.pickle, whose classes have no names; None means $MLX_DATA_DIR/cifar_fs.
        size: height and width P of an item in pixels, 8 to 256.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("cifar_fs", root, WHAT)
    key = {"files": copy.files.stamp, "size": size, "pillow": PIL.__version__}
    return cached("cifar_fs", key, lambda: _read(copy, size))


def _read(copy: Copy, size: int) -> Dataset:
    splits = {name: split for split, names in lists()["cifar_fs"].items() for name in names}
    layout = layout_of(copy, "CIFAR_FS_{}.pickle", lambda name: Entry("", name, splits[name]))
    found = arranged(layout.entries, "bertinetto", PUBLISHED)
    shape = Shape(size, 3, "squash", RESAMPLING)
    return image_data("cifar_fs", found, layout.read, shape, about={"layout": layout.name})

"""FC100: the classes of CIFAR-100, split by superclass, so that test classes differ more from training classes.

Source: Oreshkin et al. 2018, arxiv.org/abs/1805.10123.

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

PUBLISHED = Published({"train": 60, "val": 20, "test": 20}, IMAGES)
WHAT = "a folder or archive with CIFAR-100 or FC100"


def fc100(root: str | None = None, size: Annotated[int, Range(8, 256)] = 32, within: bool = False) -> Dataset:
    """Colour images of the 100 classes of CIFAR-100: 60 train, 20 validate, 20 test (Oreshkin et al. 2018).

    The superclass of a class, five classes each, is its group; each superclass is in one split.

    Args:
        root: folder or archive with cifar-100-python/, with a folder of images for each class, or with
            FC100_{split}.pickle, whose classes have neither names nor groups; None means $MLX_DATA_DIR/fc100.
        size: height and width P of an item in pixels, 8 to 256.
        within: whether the classes of an episode are all of one superclass.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("fc100", root, WHAT)
    key = {"files": copy.files.stamp, "size": size, "pillow": PIL.__version__}
    data = cached("fc100", key, lambda: _read(copy, size))
    return data.within_groups("superclasses") if within else data


def _read(copy: Copy, size: int) -> Dataset:
    superclass = {name: group for group, names in lists()["superclasses"].items() for name in names}
    splits = {group: split for split, groups in lists()["fc100"].items() for group in groups}

    def place(name: str) -> Entry:
        return Entry("", name, splits[superclass[name]], superclass[name])

    layout = layout_of(copy, "FC100_{}.pickle", place)
    found = arranged(layout.entries, "oreshkin", PUBLISHED)
    shape = Shape(size, 3, "squash", RESAMPLING)
    return image_data("fc100", found, layout.read, shape, about={"layout": layout.name})

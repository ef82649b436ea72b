"""tieredImageNet: 608 classes of ImageNet, split so that related classes are in the same split.

Source: Ren et al. 2018, arxiv.org/abs/1803.00676, github.com/renmengye/few-shot-ssl-public.

Legend: N images, K classes, P pixels per side.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.benchmarks import (
    RESAMPLING,
    Copy,
    Picture,
    Published,
    arranged,
    copy_of,
    each,
    field,
    labels,
    nothing,
    plain,
    remembered,
)
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Entry
from metalearn_cli.data.common.pixels import Shape, opened

PUBLISHED = Published({"train": 351, "val": 97, "test": 160}, 779_165)
WHAT = "a folder or archive with tieredImageNet"
IMAGES, LABELS = "{}_images_png.pkl", "{}_labels.pkl"
LAYOUTS = (f"{IMAGES.format('train')} and {LABELS.format('train')}, and the same for val and test",)


def tiered_imagenet(root: str | None = None, size: Annotated[int, Range(8, 256)] = 84) -> Dataset:
    """Colour images of 608 classes of ImageNet: 351 train, 97 validate, 160 test (Ren et al. 2018).

    The classes have no groups: the published files do not say reliably to which of the 34 categories a class belongs.

    Args:
        root: folder or archive with {split}_images_png.pkl and {split}_labels.pkl; None means
            $MLX_DATA_DIR/tiered_imagenet.
        size: height and width P of an item in pixels, 8 to 256.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("tiered_imagenet", root, WHAT)
    key = {"files": copy.files.stamp, "size": size, "pillow": PIL.__version__}
    return cached("tiered_imagenet", key, lambda: _read(copy, size))


def _read(copy: Copy, size: int) -> Dataset:
    names = copy.by_split(IMAGES)
    if not names:
        raise nothing(copy, LAYOUTS)
    images = remembered(lambda name: _images(copy, name), files=1)

    def classes(name: str) -> list[str]:
        split = next(split for split, own in names.items() if own == name)
        return _classes(copy, LABELS.format(split), split, len(images(name)))

    entries = [
        Entry(Picture(names[split], index), label, split)
        for split, own in each(names, classes).items()
        for index, label in enumerate(own)
    ]

    def read(picture: Picture) -> Image.Image:
        return opened(images(picture.file)[picture.number].tobytes())

    found = arranged(entries, "ren", PUBLISHED)
    return image_data("tiered_imagenet", found, read, Shape(size, 3, "squash", RESAMPLING), about={"layout": "pickles"})


def _images(copy: Copy, name: str) -> list[NDArray[np.uint8]]:
    """Return the image files [N] that a pickle holds.

    Raises:
        ValueError: if it holds something else.
    """
    found = copy.pickle(name)
    if not isinstance(found, list) or not all(isinstance(one, np.ndarray) and one.dtype == np.uint8 for one in found):
        raise ValueError("is no list of encoded images, arrays of type uint8")
    return found


def _classes(copy: Copy, name: str, split: str, count: int) -> list[str]:
    """Return the class of each image [N].

    Raises:
        ValueError: if the labels are missing, something else, or not as many as the images.
    """
    path = copy.find(name)
    if path is None:
        raise ValueError(f"has no {name} beside it")
    try:
        content = copy.pickle(path)
        words = content.get("label_specific_str") if isinstance(content, dict) else None
        known = [plain(word) for word in words] if isinstance(words, list) else None
        own = labels(field(content, "label_specific"), count, len(known) if known else None)
    except ValueError as error:
        raise ValueError(f"cannot be used: {path} {error}") from error
    return [known[label] if known else f"{split} {label:03d}" for label in own]

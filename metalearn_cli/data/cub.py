"""CUB-200-2011: 200 species of birds.

Source: Wah et al. 2011, The Caltech-UCSD Birds-200-2011 Dataset, vision.caltech.edu/datasets/cub_200_2011.

Legend: P pixels per side.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

import PIL

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.benchmarks import (
    RESAMPLING,
    Copy,
    Published,
    arranged,
    copy_of,
    nothing,
    one,
    shipped,
)
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Entry
from metalearn_cli.data.common.pixels import Shape

PUBLISHED = {
    "closer_look": Published({"train": 100, "val": 50, "test": 50}, 11_788),
    "meta_dataset": Published({"train": 140, "val": 30, "test": 30}, 11_788),
}
SPECIES = 200
CHECKSUM = "147df3538da52dba24e00b51ff948b1d1e7d20504320591936a8fce3ba2a225f"
WHAT = "a folder or archive with CUB_200_2011"
LAYOUTS = ("CUB_200_2011/images/ with a folder for each class, such as 001.Black_footed_Albatross",)
_CLASS = re.compile(r"(\d{3})\.\w+")


def cub(
    split: Literal["closer_look", "meta_dataset"] = "closer_look",
    root: str | None = None,
    size: Annotated[int, Range(8, 256)] = 84,
) -> Dataset:
    """Colour images of 200 species of birds.

    Args:
        split: "closer_look": 100/50/50 classes; every second one trains, of the others every second one validates (Chen
            et al. 2019); "meta_dataset": 140/30/30 classes (Triantafillou et al. 2020).
        root: folder or archive with CUB_200_2011/images; None means $MLX_DATA_DIR/cub.
        size: height and width P of an item in pixels, 8 to 256; the middle of an image is cut out.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("cub", root, WHAT)
    key = {"files": copy.files.stamp, "split": split, "size": size, "pillow": PIL.__version__}
    return cached("cub", key, lambda: _read(copy, split, size))


def _read(copy: Copy, split: str, size: int) -> Dataset:
    names = [name for name in copy.images() if _CLASS.fullmatch(PurePosixPath(name).parent.name)]
    if not names:
        raise nothing(copy, LAYOUTS)
    _check_complete(copy, names)
    lists = shipped("cub.json", CHECKSUM)
    owner = {name: part for part in ("val", "test") for name in lists[part]}
    entries, wrong = [], set()
    for name in names:
        label = PurePosixPath(name).parent.name
        number = int(label.partition(".")[0])
        if not 1 <= number <= SPECIES:
            wrong.add(label)
        elif split == "closer_look":
            entries.append(Entry(name, label, ("test", "train", "val", "train")[number % 4]))
        else:
            entries.append(Entry(name, label, owner.get(label, "train")))
    if wrong:
        raise DataError([Finding(True, label, "is no class of CUB-200-2011") for label in sorted(wrong)])
    found = arranged(entries, split, PUBLISHED[split])
    return image_data("cub", found, copy.image, Shape(size, 3, "crop", RESAMPLING), about={"layout": "class folders"})


def _check_complete(copy: Copy, names: list[str]) -> None:
    """Check that the images that images.txt lists are there.

    Raises:
        DataError: with each one that is missing.
    """
    path = copy.find("images.txt")
    if path is None:
        return
    text = one(path, copy.text)
    known = {"/".join(PurePosixPath(name).parts[-2:]) for name in names}
    listed = [line.split(maxsplit=1)[-1].strip() for line in text.splitlines() if line.strip()]
    missing = [Finding(True, path, f"names {name}, which is not there") for name in listed if name not in known]
    if missing:
        raise DataError(missing)

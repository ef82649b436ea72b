"""miniImageNet: 100 classes of ImageNet, 600 images each, in one of the layouts that it is passed around in.

Source: Vinyals et al. 2016, arxiv.org/abs/1606.04080; split of Ravi & Larochelle 2017, Optimization as a model for
few-shot learning, ICLR.

Legend: N images, P pixels per side.
"""

from __future__ import annotations

import io
from typing import Annotated, Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import DataError, Finding, UserError
from metalearn_cli.data.common.benchmarks import (
    RESAMPLING,
    Copy,
    Layout,
    Picture,
    Published,
    arranged,
    copy_of,
    each,
    field,
    listed,
    nothing,
    numbers,
    pictures,
    plain,
)
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.images import image_data
from metalearn_cli.data.common.manifest import Entry
from metalearn_cli.data.common.pixels import Shape

PUBLISHED = Published({"train": 64, "val": 16, "test": 20}, 60_000)
WHAT = "a folder or archive with miniImageNet"
CACHE, HDF5, TABLE, TORCH = "mini-imagenet-cache-{}.pkl", "{}_data.hdf5", "{}.csv", "{}.pth"
FILE, LABEL = ("filename", "image_name"), ("label", "class_name")
LAYOUTS = (
    "train.csv, val.csv and test.csv (columns filename,label or class_name,image_name) and the images in any folder",
    "mini-imagenet-cache-train.pkl, -val.pkl (or -validation.pkl) and -test.pkl",
    "train_data.hdf5, val_data.hdf5 and test_data.hdf5 of torchmeta",
)
MOST_UNPACKED = 1000  # times its size in the file that an HDF5 data set may have


def mini_imagenet(root: str | None = None, size: Annotated[int, Range(8, 256)] = 84) -> Dataset:
    """Colour images of 100 classes of ImageNet: 64 train, 16 validate, 20 test (Ravi & Larochelle 2017).

    Args:
        root: folder or archive with CSV files and images, with the pickles, or with the HDF5 files; None means
            $MLX_DATA_DIR/mini_imagenet. The layout is found by itself.
        size: height and width P of an item in pixels, 8 to 256.

    Raises:
        UserError: if files are missing or damaged; a DataError names each of them.
    """
    copy = copy_of("mini_imagenet", root, WHAT)
    key = {"files": copy.files.stamp, "size": size, "pillow": PIL.__version__}
    return cached("mini_imagenet", key, lambda: _read(copy, size))


def _read(copy: Copy, size: int) -> Dataset:
    layout = next(filter(None, (find(copy) for find in (_tables, _caches, _hdf5))), None)
    if layout is None:
        if copy.by_split(TORCH):
            told = "is a pickle of objects, which can run anything when it is read; use the images and CSV files"
            raise DataError([Finding(True, TORCH.format("train"), told)])
        raise nothing(copy, LAYOUTS)
    found = arranged(layout.entries, "ravi", PUBLISHED)
    shape = Shape(size, 3, "squash", RESAMPLING)
    return image_data("mini_imagenet", found, layout.read, shape, about={"layout": layout.name})


def _tables(copy: Copy) -> Layout | None:
    """Return what the CSV files of Ravi & Larochelle, easyfsl or LibFewShot name."""
    names = copy.by_split(TABLE)
    if not names:
        return None
    rows = each(names, lambda name: [(file, plain(label)) for file, label in copy.rows(name, FILE, LABEL)])
    return Layout("CSV files and images", listed(copy, names, rows), copy.image)


def _caches(copy: Copy) -> Layout | None:
    """Return the images of the pickles, arrays with a dict of the indices of each class."""
    names = copy.by_split(CACHE)
    if not names:
        return None

    def load(name: str) -> tuple[NDArray[np.uint8], dict[str, list[int]]]:
        content = copy.pickle(name)
        images, classes = pictures(field(content, "image_data")), field(content, "class_dict")
        if not isinstance(classes, dict):
            raise ValueError("has a class_dict that is no dict")
        indices = {plain(label): numbers(own) for label, own in classes.items()}
        if any(index >= len(images) for own in indices.values() for index in own):
            raise ValueError(f"has a class_dict with indices of more than its {len(images)} images")
        return images, indices

    loaded = each(names, load)
    arrays = {names[split]: images for split, (images, _) in loaded.items()}
    entries = [
        Entry(Picture(names[split], index), label, split)
        for split, (_, classes) in loaded.items()
        for label, own in classes.items()
        for index in own
    ]
    return Layout("pickles", entries, lambda picture: Image.fromarray(arrays[picture.file][picture.number]))


def _hdf5(copy: Copy) -> Layout | None:
    """Return the images of torchmeta's files, an array for each class."""
    names = copy.by_split(HDF5)
    if not names:
        return None
    try:
        import h5py  # not at the top: it belongs to an extra
    except ImportError as error:
        raise UserError("HDF5 files need h5py: pip install 'metalearn-cli[hdf5]'") from error

    def load(name: str) -> dict[str, Any]:
        path = copy.root / name
        try:
            file = h5py.File(path if path.is_file() else io.BytesIO(copy.content(name)), "r")
            group = file.get("datasets")
            if not isinstance(group, h5py.Group):
                raise ValueError("has no group datasets")
            return {label: _images_of(group, label, h5py) for label in group}
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(f"is damaged or no HDF5 file ({error})") from error

    loaded = each(names, load)
    found = {f"{names[split]}/{label}": images for split, own in loaded.items() for label, images in own.items()}
    entries = [
        Entry(Picture(f"{names[split]}/{label}", index), plain(label), split)
        for split, own in loaded.items()
        for label, images in own.items()
        for index in range(len(images))
    ]

    def read(picture: Picture) -> Image.Image:
        try:
            return Image.fromarray(found[picture.file][picture.number])
        except (OSError, RuntimeError) as error:
            raise ValueError(f"cannot be read: {error}") from error

    return Layout("HDF5 files", entries, read)


def _images_of(group: Any, label: str, h5py: Any) -> Any:
    """Return the images [N, H, W, 3] of a class, which are read one by one.

    Raises:
        ValueError: if they are something else, lie in another file, or declare far more than the file has.
    """
    if not isinstance(group.get(label, getlink=True), h5py.HardLink):
        raise ValueError(f"has a class {label} that lies in another file")
    images = group[label]
    if not isinstance(images, h5py.Dataset) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"has a class {label} that is no array of images [N, H, W, 3] of type uint8")
    if images.external or images.is_virtual:
        raise ValueError(f"has a class {label} that lies in another file")
    stored = images.id.get_storage_size()
    if images.nbytes > MOST_UNPACKED * stored:
        raise ValueError(f"declares {images.nbytes} bytes for class {label} and has {stored} for them")
    return images

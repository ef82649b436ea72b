"""How an image becomes an item, and plain values that say so, to treat other images in the same way.

Legend: N items, C channels, P pixels per side.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from metalearn_cli.core.errors import Finding
from metalearn_cli.core.items import each
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.decoding import SKIP, Unreadable, decoded
from metalearn_cli.data.common.files import UNREADABLE
from metalearn_cli.data.common.manifest import Placed
from metalearn_cli.data.common.splits import ONE

Fit = Literal["crop", "pad", "squash"]
Resampling = Literal["bicubic", "bilinear", "box"]

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
"""The kinds of files that are read, by the ends of their names; the content decides, not the name."""

LARGEST = 1 << 28  # bytes of a file
DEEPEST = 16  # bits of a pixel
MOST_PIXELS = 100_000_000
BLACK, FLAT = 15, 3  # of 255: no brighter image, and no smaller range of values, shows anything
DEEP = 23  # of 255, BLACK for files of 16 bits: 12 of these bits have 15, and scaling may make a pixel brighter
_GRAY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")


class Shape(NamedTuple):
    """How an image becomes an item.

    Attributes:
        size: height and width P in pixels.
        channels: C, 1 or 3; None: 1 if all images are gray.
        fit: how it becomes square: "crop" cuts the middle out, "pad" adds black bars, "squash" distorts it.
        resampling: the filter that scales it.
        bits: that a file of 16 bits makes use of, 8 to 16; a camera may have 10 or 12.
    """

    size: int
    channels: Literal[1, 3] | None = None
    fit: Fit = "crop"
    resampling: Resampling = "bicubic"
    bits: int = 16


def drawing(pixels: int) -> dict[str, Any]:
    """Return the preprocessing of a drawing that becomes an item [1, P, P] with values in [0, 1].

    Args:
        pixels: height and width P of the item.

    Returns:
        `channels`; `size`, height and width; `resampling`, where box means that each pixel is the mean of those it
        covers; `polarity`, which of ink and paper is 1; `divide_by`, which scales the pixels of a file to [0, 1].
    """
    return {
        "channels": 1,
        "size": [pixels, pixels],
        "resampling": "box",
        "polarity": "ink 1 on 0",
        "divide_by": ONE,
    }


def opened(content: bytes) -> Image.Image:
    """Return an image file as an image that is not decoded yet.

    Raises:
        ValueError: if it is no image or too large; its text goes after the name of the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged camera data, and of sizes, which are checked here
            image = Image.open(io.BytesIO(content), formats=[*dict.fromkeys(FORMATS.values())])
            if image.width * image.height > MOST_PIXELS:
                told = f"has {image.width}x{image.height} pixels; at most {MOST_PIXELS // 10**6} million are read"
                raise ValueError(told)
            return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"has far more than {MOST_PIXELS // 10**6} million pixels") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"is no image ({', '.join(dict.fromkeys(FORMATS.values()))})") from error
    except UNREADABLE as error:
        text = str(error)
        raise ValueError(text if text.startswith("has ") else f"cannot be read as an image: {text}") from error


def pixels_of(image: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    """Return an image as an item [C, P, P]; C is 3 if the shape leaves it open.

    It is turned as its camera says; 16 bits become 8; what is transparent becomes white.

    Raises:
        ValueError: if it is damaged; its text goes after the name of the file.
    """
    return _item(image, shape)[0]


def as_before(image: Image.Image, preprocessing: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return an image as an item [C, P, P], in the way of a data set.

    Ink on paper may be dark on bright or bright on dark: the paper is what most of the image's border is.

    Args:
        image: an image that is perhaps not decoded yet.
        preprocessing: of the data set.

    Raises:
        ValueError: if it is damaged; its text goes after the name of the file.
    """
    size, resampling = preprocessing["size"][0], preprocessing["resampling"]
    if "polarity" not in preprocessing:
        shape = Shape(size, preprocessing["channels"], preprocessing["fit"], resampling, preprocessing["bits"])
        return pixels_of(image, shape)
    try:
        gray = np.asarray(_flat(ImageOps.exif_transpose(image), DEEPEST).convert("L"))
    except UNREADABLE as error:
        raise ValueError(f"cannot be read as an image: {error}") from error
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    ink = gray if np.median(border) <= ONE / 2 else ONE - gray
    return np.asarray(_square(Image.fromarray(ink), Shape(size, 1, "pad", resampling)))[None]


def _item(image: Image.Image, shape: Shape) -> tuple[NDArray[np.uint8], int]:
    """Return an image as an item, see `pixels_of`, and how many bits it uses, 0 if all are read in any case."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.draft(None, (2 * shape.size, 2 * shape.size))  # a JPEG is decoded at a fraction of its size
            used = _shift(image, shape.bits) if shape.bits < DEEPEST and _has_deep_colours(image) else _used(image)
            flat = _flat(ImageOps.exif_transpose(image), shape.bits).convert("L" if shape.channels == 1 else "RGB")
            fitted = _square(flat, shape)
    except UNREADABLE as error:
        raise ValueError(f"cannot be read as an image: {error}") from error
    array = np.asarray(fitted)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1), used


def _has_more(image: Image.Image) -> bool:
    """Whether a file has more pages or frames than the first; the previews of a photograph are none."""
    try:
        return getattr(image, "is_animated", False) and image.format != "MPO"
    except UNREADABLE:  # what follows the first is damaged
        return False


def _has_deep_colours(image: Image.Image) -> bool:
    """Whether the file of an image that is not decoded yet has several channels of 16 bits; Pillow keeps 8 of them."""
    return not image.mode.startswith("I") and ";16" in _stored(getattr(image, "tile", ()))


def _stored(tiles: Sequence[Any]) -> str:
    """Return how a file stores its pixels, such as "RGB;16B", "" if that is not known."""
    told = tiles[0].args if tiles else ""
    return told if isinstance(told, str) else str((told or ("",))[0])


def _used(image: Image.Image) -> int:
    """Return how many bits the brightest pixel of a decoded image of one deep channel has; 0 for other images."""
    return int(np.asarray(image).max()).bit_length() if image.mode.startswith("I") else 0


def _shift(image: Any, bits: int) -> int:
    """Make use of so many bits of an image whose colours have 16, and return how many its brightest one has.

    Pillow gives the upper byte of each value; it gives the lower one if it takes the bytes in the other order.

    Raises:
        ValueError: if it has other channels than red, green and blue.
    """
    stored = _stored(image.tile)
    if not stored.startswith("RGB"):
        raise ValueError(f"its pixels are {stored}, of which data.bits reads nothing; save it as gray or RGB")
    upper_last = stored.endswith("L") or (stored.endswith("N") and sys.byteorder == "little")
    other = f"{stored[:-1]}{'B' if upper_last else 'L'}"
    lower: Any = Image.open(io.BytesIO(image.fp.getvalue()))
    lower.tile = [t._replace(args=other if isinstance(t.args, str) else (other, *t.args[1:])) for t in image.tile]
    upper = np.array(image)  # with the transparency, which is not shifted
    values = upper[..., :3].astype(np.int64) << 8 | np.asarray(lower)[..., :3]
    upper[..., :3] = (values >> (bits - 8)).clip(0, ONE)
    image.paste(Image.fromarray(upper))  # a new image would not know how the camera was held
    return int(values.max()).bit_length()


def _flat(image: Image.Image, bits: int) -> Image.Image:
    """Return an image with 8 bits a channel and without transparency."""
    if image.mode.startswith("I"):  # whatever its values: a dark image stays dark
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0:
            raise ValueError(f"its pixels go down to {deep.min()}; save it with values from 0 to 65535")
        return Image.fromarray((deep >> (bits - 8)).clip(0, ONE).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        paper = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(paper, clear).convert("L" if image.mode in ("LA", "L") else "RGB")
    return image


def _square(image: Image.Image, shape: Shape) -> Image.Image:
    filtered, size = Image.Resampling[shape.resampling.upper()], (shape.size, shape.size)
    if shape.fit == "crop":
        return ImageOps.fit(image, size, filtered)
    return ImageOps.pad(image, size, filtered) if shape.fit == "pad" else image.resize(size, filtered)


def image_data(
    name: str,
    found: Placed,
    read: Callable[[Any], Image.Image],
    shape: Shape,
    unreadable: Unreadable = "stop",
    about: Mapping[str, Any] | None = None,
    order: Mapping[Any, int] | None = None,
) -> Dataset:
    """Decode the images of a manifest.

    Args:
        name: of the data set.
        found: what is in each split.
        read: returns the image of an entry's source; it raises a ValueError if that cannot be read.
        shape: how an image becomes an item.
        unreadable: whether images that cannot be read are an error or left out.
        about: what was understood so far.
        order: see `decoding.decoded`.

    Raises:
        DataError: with each image that cannot be read.
    """
    modes: Counter[str] = Counter()
    sizes: list[tuple[int, ...]] = []
    dark: list[Finding] = []
    bright: dict[str, int] = {}
    several: list[str] = []

    def decode(source: Any) -> NDArray[np.uint8]:
        image = read(source)
        mode, extent = image.mode, image.size
        deep = mode.startswith("I") or _has_deep_colours(image)
        pixels, used = _item(image, shape)
        if _has_more(image):
            several.append(str(source))
        if used > shape.bits:
            bright[str(source)] = used
        if told := _empty(pixels, deep and shape.bits == DEEPEST):
            dark.append(Finding(False, str(source), told))
        modes.update([mode])
        sizes.append(extent)
        return pixels

    item = (shape.channels or 3, shape.size, shape.size)
    splits, findings = decoded(found, decode, item, np.uint8, unreadable, order)
    gray = shape.channels is None and modes.keys() <= set(_GRAY)
    if gray:
        splits = {name: replace(split, items=each(_one_channel, split.items)) for name, split in splits.items()}
    told = {
        **(about or {}),
        "images": len(sizes),
        "modes": dict(modes.most_common()),
        "smallest": list(min(sizes, key=prod, default=())),
        "largest": list(max(sizes, key=prod, default=())),
    }
    return Dataset.of(
        name,
        found.protocol,
        splits,
        "image",
        _preprocessing(shape, 1 if gray else shape.channels or 3),
        about=told,
        findings=(*found.findings, *findings, *_clipped(bright, shape.bits), *_first_only(several), *sorted(dark)),
        cure=SKIP if any(finding.blocks for finding in findings) else "",
    )


def _clipped(bright: Mapping[str, int], bits: int) -> list[Finding]:
    """Return that images, by name and the bits that they use, have more bits than are read."""
    if not bright:
        return []
    most = max(bright.values())
    cure = f"data.bits={most}" if most <= DEEPEST else f"save them with {DEEPEST} bits a pixel"
    many = f"{len(bright)} image{'s use' if len(bright) > 1 else ' uses'} more bits and would become white there"
    return [Finding(True, "data.bits", f"is {bits}, but {many}; {cure}", tuple(sorted(bright)))]


def _first_only(several: Sequence[str]) -> list[Finding]:
    """Return that files, by name, hold more than the picture that is read."""
    if not several:
        return []
    many = "files hold" if len(several) > 1 else "file holds"
    told = f"{len(several)} {many} several pages or frames, of which the first is read; save each as a file of its own"
    return [Finding(False, "data.root", told, tuple(sorted(several)))]


def _empty(pixels: NDArray[np.uint8], deep: bool) -> str:
    """Return why an image shows nothing, or ""; `deep` says that its file has 16 bits and all are read."""
    if pixels.max() <= (limit := DEEP if deep else BLACK):
        told = f"is nearly black: no pixel is brighter than {limit} of {ONE}"
        return f"{told}; if its pixels have 10 or 12 bits, say so: data.bits=12" if deep else told
    return "is nearly of one colour" if np.ptp(pixels, (1, 2)).max() <= FLAT else ""


def _one_channel(items: Tensor) -> Tensor:
    return items[:, :1].contiguous()


def _preprocessing(shape: Shape, channels: int) -> dict[str, Any]:
    return {
        "channels": channels,
        "size": [shape.size, shape.size],
        "fit": shape.fit,
        "resampling": shape.resampling,
        "transparent": "white",
        "bits": shape.bits,
        "divide_by": ONE,
    }

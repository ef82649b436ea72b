"""How an image becomes an item, and plain values that say so, to treat other images in the same way; without torch.

Legend: C channels, P pixels per side.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metalearn_cli.data.common.files import UNREADABLE

ONE = 255
"""The uint8 that stands for 1.0."""

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


class TooLarge(ValueError):
    """A file holds more than may be decoded; the text goes after its name."""


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


def opened(content: bytes, most: int = MOST_PIXELS) -> Image.Image:
    """Return an image file as an image that is not decoded yet.

    Args:
        content: of the file.
        most: pixels.

    Raises:
        TooLarge: if it has more.
        ValueError: if it is no image; its text goes after the name of the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged camera data, and of sizes, which are checked here
            image = Image.open(io.BytesIO(content), formats=[*dict.fromkeys(FORMATS.values())])
            if image.width * image.height > most:
                raise TooLarge(f"has {image.width}x{image.height} pixels; at most {most / 10**6:g} million are read")
            return image
    except Image.DecompressionBombError as error:
        raise TooLarge(f"has far more than {most / 10**6:g} million pixels") from error
    except TooLarge:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"is no image ({', '.join(dict.fromkeys(FORMATS.values()))})") from error
    except UNREADABLE as error:
        raise ValueError(f"cannot be read as an image: {error}") from error


def pixels_of(image: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    """Return an image as an item [C, P, P]; C is 3 if the shape leaves it open.

    It is turned as its camera says; 16 bits become 8; what is transparent becomes white.

    Raises:
        ValueError: if it is damaged; its text goes after the name of the file.
    """
    return item_of(image, shape)[0]


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


def item_of(image: Image.Image, shape: Shape) -> tuple[NDArray[np.uint8], int]:
    """Return an image as an item, see `pixels_of`, and how many bits it uses, 0 if all are read in any case."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.draft(None, (2 * shape.size, 2 * shape.size))  # a JPEG is decoded at a fraction of its size
            used = _shift(image, shape.bits) if shape.bits < DEEPEST and has_deep_colours(image) else _used(image)
            flat = _flat(ImageOps.exif_transpose(image), shape.bits).convert("L" if shape.channels == 1 else "RGB")
            fitted = _square(flat, shape)
    except UNREADABLE as error:
        raise ValueError(f"cannot be read as an image: {error}") from error
    array = np.asarray(fitted)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1), used


def has_deep_colours(image: Image.Image) -> bool:
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

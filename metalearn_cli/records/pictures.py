"""Pictures that runs left, made small enough to be embedded in a page."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from metalearn_cli.core.errors import UserError

_LARGEST = 40_000_000
"""Pixels of a picture: an untrusted file may name any size."""


def small(path: Path, width: int, colours: int) -> tuple[bytes, tuple[int, int]]:
    """Return a PNG file again, at most so wide and with so few colours, and its size in pixels.

    It is decoded and written anew, so that nothing but pixels is taken over from an untrusted file.

    Raises:
        UserError: if it is missing or damaged, or far too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                if image.width * image.height > _LARGEST:
                    raise UserError(f"{path} is too large: {image.width} x {image.height} pixels")
                shown = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if shown.width > width:
        shown = shown.resize((width, max(1, round(shown.height * width / shown.width))), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue(), shown.size

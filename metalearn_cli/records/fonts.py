"""A font that has the letters of a name, for pictures; names may be of any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import ImageFont

from metalearn_cli.core.importing import importing

SIZE = 14
"""Height of letters, in pixels."""

_BOXES = "LastResort"
"""The font of macOS that has a box for every letter."""


@cache
def font_of(text: str) -> Path | None:
    """Return the file of a font that has all letters of a text, or None; matplotlib's own one where it suffices."""
    with importing():
        import matplotlib
        from matplotlib.font_manager import findSystemFonts
    own = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    wanted = {ord(letter) for letter in text if unicodedata.category(letter) != "Cf"}  # joiners are not drawn
    if wanted <= _letters(own):
        return own
    others = (path for path in map(Path, sorted(findSystemFonts())) if _BOXES not in path.name)
    return next((path for path in others if wanted <= _letters(path)), None)


def numbered(names: Iterable[str]) -> dict[str, str]:
    """Return a number such as "#2" for each name that no font can draw."""
    lacking = [name for name in names if font_of(name) is None]
    return {name: f"#{number}" for number, name in enumerate(lacking, 1)}


@cache
def _letters(path: Path) -> frozenset[int]:
    """Return the letters of a font; none if it cannot be drawn with, as one of bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, SIZE)
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()

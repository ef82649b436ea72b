"""Characters of many scripts, rendered from the fonts that matplotlib installs: a data set with nothing to download.

Legend: N items, K classes, I instances per class, P pixels per side.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import unicodedata
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL
import torch
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.cache import cached, large
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.pixels import drawing
from metalearn_cli.data.common.splits import SPLITS, Split

# By first word of the characters' Unicode names. Of two characters that look alike, the first in this order is kept:
# test is first because its scripts are small. Left out are scripts with Latin's shapes (Lisu, Old Italic, Coptic) and
# scripts in too few typefaces (Tifinagh, N'Ko, Ogham).
SCRIPTS = {
    "test": ("GREEK", "GEORGIAN", "LAO"),
    "val": ("ARMENIAN", "HEBREW", "ARABIC"),
    "train": ("LATIN", "CYRILLIC", "CANADIAN"),  # CANADIAN: Canadian aboriginal syllabics
}

# Syllabics write w- and long vowels as dots on another syllable: accented forms, although Unicode does not decompose
# them. Their finals are only strokes and rings, like letters of other scripts.
NOT_BASE = re.compile(r"CANADIAN SYLLABICS (.*(W[AEIO]+|AAI?|II|OO)|FINAL .*)")

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)

MIN_FACES = 4  # a character in fewer typefaces has too little variety
ALIKE = 0.88  # two equally large bitmaps with at least this cosine count as one shape; chosen by eye


def glyphs(
    instances: Annotated[int, Range(2, 1000)] = 20,
    size: Annotated[int, Range(8, 128)] = 28,
    seed: Annotated[int, Range(0)] = 0,
    within: bool = False,
) -> Dataset:
    """Characters rendered from fonts, with Omniglot's size and structure; nothing to download.

    A class is a character: a base letter (accented forms are near duplicates), present in at least 4 of 16 typefaces.
    Splits are by script. Of characters with the same shape, in one split or in two, one is kept: one of Latin A, Greek
    Alpha and Cyrillic A, and one of o and O. Shapes are the same if in some typeface their bitmaps, drawn equally
    large, have a cosine of 0.88 or more; shapes below that can still look similar. An instance is the character in one
    of its typefaces, rotated by up to 20 degrees, sheared, scaled and shifted.

    Args:
        instances: items I per class, 2 to 1000.
        size: height and width P of an image in pixels, 8 to 128.
        seed: seed of the choice of typefaces and the distortions, >= 0; the classes do not depend on it.
        within: whether the characters of an episode are all of one script.

    Raises:
        UserError: if matplotlib's fonts are missing.
    """
    fonts = _fonts()
    outlines = hashlib.sha256()
    for path in fonts:
        outlines.update(path.read_bytes())
    key = {
        "instances": instances,
        "size": size,
        "seed": seed,
        "fonts": outlines.hexdigest(),
        "unicode": unicodedata.unidata_version,
        "pillow": [PIL.__version__, features.version("freetype2")],
    }
    data = cached("glyphs", key, lambda: _render(fonts, instances, size, seed))
    return data.within_groups("scripts") if within else data


def _fonts() -> list[Path]:
    # not imported: that takes half a second, and only the folder is needed
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data glyphs needs the fonts that come with matplotlib: pip install matplotlib")
    folder = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    paths = [folder / f"{face}.ttf" for face in FACES]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(
            f"data glyphs needs the fonts that come with matplotlib, but {folder} lacks {', '.join(missing)}: "
            "reinstall matplotlib from PyPI"
        )
    return paths


def _render(paths: list[Path], instances: int, size: int, seed: int) -> Dataset:
    """Draw every class."""
    fonts = [_font(path, 4 * size) for path in paths]
    covered = [_covered(path) for path in paths]
    characters = {
        split: [c for script in scripts for c in _letters(script, covered)] for split, scripts in SCRIPTS.items()
    }
    distinct = _distinct([c for split in characters.values() for c in split], paths, covered)
    splits = {}
    for split in SPLITS:
        kept = [c for c in characters[split] if c in distinct]
        names = [unicodedata.name(c).replace(" ", "/", 1) for c in kept]
        items = large(len(kept), instances, 1, size, size)
        for k, (character, name) in enumerate(zip(kept, names, strict=True)):
            random = np.random.default_rng(derive_seed(seed, "glyphs", name))
            faces = random.permutation([f for f, points in enumerate(covered) if ord(character) in points])
            for i in range(instances):
                ink = _ink(fonts[faces[i % len(faces)]], character)
                items[k, i, 0] = _distorted(ink, size, random)
        counts = torch.full((len(names),), instances)
        splits[split] = Split(torch.from_numpy(items.reshape(-1, 1, size, size)), counts, tuple(names))
    return Dataset.of("glyphs", "scripts", splits, "image", drawing(size))


def _covered(path: Path) -> frozenset[int]:
    """Return the code points of a typeface."""
    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())


def _letters(script: str, covered: list[frozenset[int]]) -> list[str]:
    """Return the base letters of a script that are in enough typefaces, by code point."""
    return [
        character
        for character in map(chr, sorted(frozenset().union(*covered)))
        if unicodedata.category(character) in ("Lu", "Ll", "Lo")
        and not unicodedata.decomposition(character)
        and (name := unicodedata.name(character, "")).split(" ")[0] == script
        and not NOT_BASE.fullmatch(name)
        and sum(ord(character) in points for points in covered) >= MIN_FACES
    ]


def _distinct(characters: list[str], paths: list[Path], covered: list[frozenset[int]]) -> set[str]:
    """Drop each character that, in any typeface, looks like a kept one before it."""
    likeness_KK = np.zeros((len(characters), len(characters)), np.float32)
    for path, points in zip(paths, covered, strict=True):
        font = _font(path, 48)
        here = [k for k, character in enumerate(characters) if ord(character) in points]
        shapes = np.stack([_shape(_ink(font, characters[k])) for k in here])
        pairs = np.ix_(here, here)
        likeness_KK[pairs] = np.maximum(likeness_KK[pairs], shapes @ shapes.T)
    kept: list[int] = []
    for k in range(len(characters)):
        if not kept or likeness_KK[k, kept].max() < ALIKE:
            kept.append(k)
    return {characters[k] for k in kept}


def _font(path: Path, pixels: int) -> ImageFont.FreeTypeFont:
    # the basic layout draws characters one by one, without joined forms
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


def _ink(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Draw a character, ink 255 on 0, cut to its ink."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font)
    return image.crop(image.getbbox())


def _shape(ink: Image.Image) -> NDArray[np.float32]:
    """Scale a character to a common size and width, blur it a little and return it as a vector of length 1."""
    longer = max(ink.size)
    # up to 1.6 times as wide or high: a narrow S stays an S, but an I does not become a block
    width, height = (max(1, round(24 * min(1.6 * side / longer, 1))) for side in ink.size)
    canvas = Image.new("L", (32, 32))
    canvas.paste(ink.resize((width, height), Image.Resampling.BOX), ((32 - width) // 2, (32 - height) // 2))
    vector = np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.5)), np.float32).ravel()
    return vector / np.linalg.norm(vector)


def _distorted(ink: Image.Image, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return a character [P, P] under a random small affine map; all of it stays inside the image."""
    angle, shear, stretch, length, right, down = random.random(6)
    angle = math.radians(-20 + 40 * angle)
    shear = -0.2 + 0.4 * shear
    stretch = 0.85 + 0.3 * stretch  # width over height, relative to the typeface's
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([stretch**0.5, stretch**-0.5])
    extent = np.abs(linear) @ ink.size  # width and height of the distorted bounding box
    scale = min((0.6 + 0.25 * length) * size / max(ink.size), 0.93 * size / extent.max())
    room = np.minimum((size - scale * extent) / 2, 0.08 * size)
    shift = room * (2 * np.array([right, down]) - 1)

    # Pillow needs the map from result to source. The result is drawn 4 times as large and averaged down.
    inverse = np.linalg.inv(4 * scale * linear)
    offset = np.array(ink.size) / 2 - inverse @ (4 * (size / 2 + shift))
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    large = ink.transform((4 * size, 4 * size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(large.reduce(4))

"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Source: Lake, Salakhutdinov & Tenenbaum 2015, Science 350, github.com/brendenlake/omniglot (MIT licence).

Legend: K characters, P pixels per side.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data._cache import Arrays, cache_dir, cached
from metalearn_cli.data._dataset import Dataset, Split

Array = np.ndarray[Any, Any]

IMAGES = "https://github.com/brendenlake/omniglot/raw/master/python/"
LISTS = "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/"
CHECKSUMS = {
    "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    "splits/vinyals/train.txt": "sha256:984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0",
    "splits/vinyals/val.txt": "sha256:11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a",
    "splits/vinyals/test.txt": "sha256:845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204",
}
"""Of the upstream files. Local copies may be packed otherwise: of them the pixels are checked."""

PIXELS = {
    "images_background.zip": "51ca506ce7ea3430a8b51e6e6426a1035e782f1b3fdd7d385232445603f2f4b6",
    "images_evaluation.zip": "57262cc3e42fa55b35985f8f2df924c5716fcf2a372bf410590b5c66b4698ebd",
}
"""sha256 of all drawings of an archive at full size, one bit per pixel, in the order of their names."""

CHARACTERS = {"images_background.zip": 964, "images_evaluation.zip": 659}
DRAWINGS = 20
TURNS = ("000", "090", "180", "270")
SIDE = 105
LARGEST = 1 << 20  # bytes of one drawing, several thousand times what they have; more is no drawing


def omniglot(
    split: Literal["vinyals", "maml", "lake"] = "vinyals",
    root: str | None = None,
    size: Annotated[int, Range(8, SIDE)] = 28,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Handwritten characters, ink 1 on 0.

    Args:
        split: "vinyals": 1028/172/423 characters, each four times by rotation (Vinyals et al. 2016, lists of Snell et
            al. 2017); "maml": 1100/100/423 by a seeded shuffle, each four times by rotation (Finn et al. 2017); "lake":
            the background alphabets, five of them for validation, and the evaluation alphabets for testing, without
            rotation (Lake et al. 2015).
        root: folder with images_background.zip and images_evaluation.zip (and splits/vinyals/*.txt); None means
            $MLX_DATA_DIR/omniglot, or without that a download.
        size: height and width P of an image in pixels, 8 to 105.
        seed: of the shuffle of split "maml", >= 0.

    Raises:
        ValueError: if a value is outside its range.
        UserError: if the files are missing, damaged, or not what upstream published.
    """
    if split not in ("vinyals", "maml", "lake"):
        raise ValueError(f"split must be vinyals, maml or lake, got {split!r}")
    if not 8 <= size <= SIDE:
        raise ValueError(f"size must be from 8 to {SIDE}, got {size}")
    images: dict[str, Array] = {}
    origin: dict[str, str] = {}
    for archive in CHARACTERS:
        path = _file(archive, root)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        key = {"archive": content, "size": size, "pillow": PIL.__version__}
        arrays = cached(f"omniglot-{archive.split('.')[0]}", key, _decoder(path, archive, size))
        for name, drawings in zip(arrays["names"].tolist(), arrays["items"], strict=True):
            images[name], origin[name] = drawings, archive
    if split == "vinyals":
        names = {part: _listed(part, root, images) for part in ("train", "val", "test")}
    elif split == "maml":
        shuffled = np.random.default_rng(derive_seed(seed, "omniglot")).permutation(sorted(images)).tolist()
        parts = {"train": shuffled[:1100], "val": shuffled[1100:1200], "test": shuffled[1200:]}
        names = {part: [f"{name}/rot{turn}" for name in kept for turn in TURNS] for part, kept in parts.items()}
    else:
        background = sorted(name for name in images if origin[name] == "images_background.zip")
        alphabets = sorted({name.split("/")[0] for name in background})
        names = {
            "train": [name for name in background if name.split("/")[0] not in alphabets[-5:]],
            "val": [name for name in background if name.split("/")[0] in alphabets[-5:]],
            "test": sorted(name for name in images if origin[name] == "images_evaluation.zip"),
        }
    return Dataset.of("omniglot", split, {part: _split(kept, images) for part, kept in names.items()})


def _split(names: list[str], images: dict[str, Array]) -> Split:
    """Stack the classes of a split; "Angelic/character01/rot090" is a character turned by 90 degrees."""
    drawings = []
    for name in names:
        character, _, turn = name.partition("/rot")
        drawings.append(np.rot90(images[character], int(turn or 0) // 90, axes=(-2, -1)))
    items = torch.from_numpy(np.concatenate(drawings))[:, None]
    return Split(items, torch.full((len(names),), DRAWINGS), tuple(names))


def _listed(part: str, root: str | None, images: dict[str, Array]) -> list[str]:
    path = _file(f"splits/vinyals/{part}.txt", root)
    names = path.read_text().split()
    for name in names:
        character, _, turn = name.partition("/rot")
        if character not in images or turn not in TURNS:
            raise UserError(f"{path} names {name!r}, which Omniglot does not have")
    return names


def _file(name: str, root: str | None) -> Path:
    """Return where a file lies, downloading it if nothing says that it is here."""
    mirror = os.environ.get("MLX_DATA_DIR")
    folder = Path(root).expanduser() if root else Path(mirror).expanduser() / "omniglot" if mirror else None
    if folder is not None:
        if not (folder / name).is_file():
            setting = "data.root" if root else "MLX_DATA_DIR"
            raise UserError(f"data omniglot: {folder / name} is missing ({setting} says to look there)")
        return folder / name
    import pooch  # imported where needed: it brings a web client

    base = IMAGES if name.endswith(".zip") else LISTS
    try:
        local = pooch.retrieve(base + name, CHECKSUMS[name], path=cache_dir() / "downloads", fname=name.replace("/", "-"))
    except Exception as error:
        raise UserError(
            f"data omniglot could not be downloaded from {base}{name} ({error}); put it into a folder by hand and name "
            "that with data.root=FOLDER, or FOLDER/omniglot with MLX_DATA_DIR=FOLDER"
        ) from error
    return Path(local)


def _decoder(path: Path, archive: str, size: int) -> Callable[[], Arrays]:
    return lambda: _decode(path, archive, size)


def _decode(path: Path, archive: str, size: int) -> Arrays:
    """Read every drawing of an archive: `items` [K, 20, P, P] uint8, ink 255, and `names` [K]."""
    try:
        with zipfile.ZipFile(path) as file:
            members = sorted(name for name in file.namelist() if name.endswith(".png"))
            drawings = {name: _drawing(file, name, path) for name in members}
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is damaged or no zip archive: {error}; get it again") from error
    by_character: dict[str, list[Image.Image]] = {}
    for name, drawing in drawings.items():
        by_character.setdefault("/".join(name.split("/")[-3:-1]), []).append(drawing)
    wrong = [name for name, found in by_character.items() if len(found) != DRAWINGS]
    if len(by_character) != CHARACTERS[archive] or wrong:
        raise UserError(
            f"{path} is incomplete: {CHARACTERS[archive]} characters of {DRAWINGS} drawings are expected, it has "
            f"{len(by_character)}{f', and {wrong[0]} has {len(by_character[wrong[0]])}' if wrong else ''}"
        )
    digest = hashlib.sha256(b"".join(drawing.tobytes() for drawing in drawings.values())).hexdigest()
    if digest != PIXELS[archive]:
        raise UserError(f"{path} does not hold the drawings that upstream published (sha256 of the pixels {digest})")
    items = np.stack([[_small(d, size) for d in found] for found in by_character.values()])
    return {"items": items, "names": np.array(list(by_character))}


def _drawing(file: zipfile.ZipFile, name: str, path: Path) -> Image.Image:
    if file.getinfo(name).file_size > LARGEST:
        raise UserError(f"{path}: {name} is too large for a drawing ({file.getinfo(name).file_size} bytes)")
    try:
        image = Image.open(io.BytesIO(file.read(name)), formats=["PNG"])
        if image.size != (SIDE, SIDE):
            raise UserError(f"{path}: {name} has {image.size[0]}x{image.size[1]} pixels, expected are {SIDE}x{SIDE}")
        return image.convert("1")
    except (OSError, ValueError, SyntaxError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {name} cannot be read as an image: {error}") from error


def _small(drawing: Image.Image, size: int) -> Array:
    """Return a drawing [P, P] uint8 with ink 255; each pixel is the mean of those it covers."""
    ink = drawing.convert("L").point(lambda value: 255 - value)
    return np.asarray(ink.resize((size, size), Image.Resampling.BOX))

"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Source: Lake, Salakhutdinov & Tenenbaum 2015, Science 350, github.com/brendenlake/omniglot (MIT licence).

Legend: K characters, P pixels per side.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from metalearn_cli.core.check import Range
from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem, UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.cache import cache_dir, cached, large, under_umask
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import UNREADABLE, files_in
from metalearn_cli.data.common.pixels import drawing
from metalearn_cli.data.common.splits import SPLITS, Split, group_of

Drawings = NDArray[np.uint8]
"""All drawings of a character: [20, P, P], ink 255."""

IMAGES = "https://github.com/brendenlake/omniglot/raw/master/python/"
LISTS = "https://raw.githubusercontent.com/jakesnell/prototypical-networks/master/data/omniglot/"
CHECKSUMS = {
    "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    "splits/vinyals/train.txt": "sha256:984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0",
    "splits/vinyals/val.txt": "sha256:11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a",
    "splits/vinyals/test.txt": "sha256:845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204",
}
"""Checksums of the upstream files. A local archive may be packed differently: there only the pixels are checked."""

PIXELS = {
    "images_background": "51ca506ce7ea3430a8b51e6e6426a1035e782f1b3fdd7d385232445603f2f4b6",
    "images_evaluation": "57262cc3e42fa55b35985f8f2df924c5716fcf2a372bf410590b5c66b4698ebd",
}
"""sha256 of all drawings of an image set at full size, one bit per pixel, in the order of their names."""

HOW_TO_GET = (
    f"to install it by hand, put images_background.zip and images_evaluation.zip from {IMAGES} and, for split vinyals, "
    f"splits/vinyals/{{train,val,test}}.txt from {LISTS} into a folder given as data.root=FOLDER, or into "
    "FOLDER/omniglot with MLX_DATA_DIR=FOLDER"
)

RUNS_FROM = f"{IMAGES}one-shot-classification/all_runs.zip"
HOW_TO_GET_RUNS = (
    f"put all_runs.zip from {RUNS_FROM} into a folder given as data.root=FOLDER, or into FOLDER/omniglot with "
    "MLX_DATA_DIR=FOLDER"
)

RUNS = [f"run{number:02d}" for number in range(1, 21)]
RUN = EpisodeShape(way=20, shot=1, query=1)

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
TURNS = ("000", "090", "180", "270")
MAML_CUTS = (1100, 1200)  # of the shuffled characters: 1100 train, 100 validate, the rest test
TRAINING_ALPHABETS = 25  # of Lake's background alphabets
VALIDATION_ALPHABETS = 5
SIDE = 105
LARGEST = 1 << 16  # bytes of a drawing's file, a hundred times the real size
LARGEST_ARCHIVE = 1 << 28  # bytes, twenty times the real size
MOST_MEMBERS = 1 << 16  # of an archive, three times the real number


class _Choice(NamedTuple):
    """What is read, as in the arguments of `omniglot`."""

    split: str
    size: int
    seed: int
    alphabets: int | None


def omniglot(
    split: Literal["vinyals", "maml", "lake", "lake_runs"] = "vinyals",
    root: str | None = None,
    size: Annotated[int, Range(8, SIDE)] = 28,
    seed: Annotated[int, Range(0)] = 0,
    alphabets: Annotated[int, Range(1, TRAINING_ALPHABETS)] | None = None,
    within: bool = False,
) -> Dataset:
    """Handwritten characters, ink 1 on 0.

    Args:
        split: "vinyals": 1028/172/423 characters, each four times by rotation (Vinyals et al. 2016, lists of Snell et
            al. 2017); "maml": 1100/100/423 by a seeded shuffle, each four times by rotation (Finn et al. 2017); "lake":
            the background alphabets, five of them for validation, and the evaluation alphabets for testing, without
            rotation (Lake et al. 2015); "lake_runs": as "lake", but the only test episodes are Lake's twenty runs, each
            of 20 characters of one alphabet with one labelled drawing and one to classify.
        root: folder with images_background.zip and images_evaluation.zip, or their contents, and optionally
            splits/vinyals/*.txt, and all_runs.zip for "lake_runs"; None means $MLX_DATA_DIR/omniglot, or without that a
            download.
        size: height and width P of an image in pixels, 8 to 105.
        seed: seed of the shuffle of split "maml" and of the choice of `alphabets`, >= 0.
        alphabets: how many of the training alphabets of "lake" and "lake_runs" are used, 1 to 25; None means all.
        within: whether the characters of an episode are all of one alphabet.

    Raises:
        ConfigError: if `alphabets` are asked for that the split does not have.
        UserError: if files are missing, damaged, or not those that upstream published; a DataError names each of them.
    """
    if alphabets is not None and split not in ("lake", "lake_runs"):
        raise ConfigError([Problem("data.alphabets", f"has no effect with split {split}", "data.split=lake")])
    folder = _folder(root)
    runs = _runs_path(folder) if split == "lake_runs" else None
    paths = {name: _path(name, folder) for name in CHARACTERS if not (runs and name == "images_evaluation")}
    key = {
        "content": [_content(path) for path in paths.values()],
        "runs": runs and files_in(runs).stamp,
        "split": split,
        "seed": seed if split == "maml" or alphabets else None,
        "alphabets": alphabets,
        "size": size,
        "pillow": PIL.__version__,
    }
    data = cached("omniglot", key, lambda: _read(paths, folder, runs, _Choice(split, size, seed, alphabets)))
    if runs:
        data = replace(data, fixed={"test": RUN})
    return data.within_groups("alphabets") if within else data


def _read(paths: dict[str, Path], folder: Path | None, runs: Path | None, choice: _Choice) -> Dataset:
    """Decode the image sets and split their characters."""
    characters: dict[str, dict[str, Drawings]] = {}
    findings: list[Finding] = []
    size = choice.size
    for name, path in paths.items():
        try:
            characters[name] = _decoded(path, name, size)
        except DataError as error:
            findings += error.findings
    test = None
    if runs:
        try:
            test = _runs(runs, size)
        except DataError as error:
            findings += error.findings
    if findings:
        raise DataError(findings, HOW_TO_GET_RUNS if len(characters) == len(paths) else HOW_TO_GET)
    background, evaluation = characters["images_background"], characters.get("images_evaluation", {})
    images = background | evaluation
    random = np.random.default_rng(derive_seed(choice.seed, "omniglot"))
    if choice.split == "vinyals":
        names = {part: _listed(part, folder) for part in SPLITS}
    elif choice.split == "maml":
        shuffled = random.permutation(sorted(images))
        parts = dict(zip(SPLITS, np.split(shuffled, MAML_CUTS), strict=True))
        names = {part: [f"{name}/rot{turn}" for name in kept for turn in TURNS] for part, kept in parts.items()}
    else:
        alphabets = sorted({group_of(name) for name in background})
        training, validation = alphabets[:-VALIDATION_ALPHABETS], alphabets[-VALIDATION_ALPHABETS:]
        if choice.alphabets:
            training = random.permutation(training).tolist()[: choice.alphabets]
        names = {
            "train": [name for name in sorted(background) if group_of(name) in training],
            "val": [name for name in sorted(background) if group_of(name) in validation],
            "test": sorted(evaluation),
        }
    splits = {part: _split(kept, images, size) for part, kept in names.items() if kept}
    if test:
        splits["test"] = test
    protocol = f"{choice.split}, {len(training)} training alphabets" if choice.alphabets else choice.split
    return Dataset.of("omniglot", protocol, splits, "image", drawing(size))


def _split(names: list[str], images: dict[str, Drawings], size: int) -> Split:
    """Stack the classes of a split; "Angelic/character01/rot090" is a character rotated by 90 degrees."""
    items = large(len(names), DRAWINGS, 1, size, size)
    for k, name in enumerate(names):
        character, _, turn = name.partition("/rot")
        items[k, :, 0] = np.rot90(images[character], int(turn or 0) // 90, axes=(-2, -1))
    counts = torch.full((len(names),), DRAWINGS)
    return Split(torch.from_numpy(items.reshape(-1, 1, size, size)), counts, tuple(names))


def _runs_path(folder: Path | None) -> Path:
    """Return the archive of Lake's runs, or the folder with its contents."""
    if folder is None:
        raise UserError(f"data omniglot: the twenty runs are not downloaded; {HOW_TO_GET_RUNS}")
    for path in (folder / "all_runs.zip", folder / "all_runs"):
        if path.exists():
            return path
    raise UserError(f"data omniglot: {folder} has neither all_runs.zip nor a folder all_runs; {HOW_TO_GET_RUNS}")


def _runs(path: Path, size: int) -> Split:
    """Decode the twenty runs: classes of two drawings each, the labelled one first.

    Raises:
        DataError: with every file that is missing or damaged.
    """
    files = files_in(path)
    there = {name.removeprefix("all_runs/"): name for name in files.names}
    findings = list(files.findings)

    def read(name: str) -> bytes:
        if name not in there:
            raise ValueError("is missing")
        return files.read(there[name], LARGEST)

    names, drawings = [], []
    for run in RUNS:
        pairs: list[tuple[str, str]] = []
        try:
            pairs = _pairs(run, read(f"{run}/class_labels.txt"))
        except ValueError as error:
            findings.append(Finding(True, f"{path}: {run}/class_labels.txt", str(error)))
        for pair in pairs:
            names.append(f"{run}/{pair[0].rpartition('/')[2].removesuffix('.png')}")
            for file in pair:
                try:
                    drawings.append(_small(_drawing(read(file)), size))
                except ValueError as error:
                    findings.append(Finding(True, f"{path}: {file}", str(error)))
    if findings:
        raise DataError(findings)
    items = torch.from_numpy(np.stack(drawings)[:, None])
    return Split(items, torch.full((len(names),), RUN.shot + RUN.query), tuple(names))


def _pairs(run: str, content: bytes) -> list[tuple[str, str]]:
    """Return the labelled drawing and the one to classify of each character of a run, by their files.

    Raises:
        ValueError: if the content is not the list of them.
    """
    lines = [line.split() for line in content.decode("ascii", "replace").splitlines() if line.strip()]
    pairs = sorted((line[1], line[0]) for line in lines if len(line) == 2)
    labelled, others = ({pair[k] for pair in pairs if pair[k].startswith(f"{run}/")} for k in (0, 1))
    if not len(lines) == len(labelled) == len(others) == RUN.way:
        example = f"{run}/test/item01.png {run}/training/class01.png"
        raise ValueError(f"must name {RUN.way} different pairs of files, one a line, such as: {example}")
    return pairs


def _folder(root: str | None) -> Path | None:
    """Return the folder that the user gave for the files, or None for a download."""
    mirror = os.environ.get("MLX_DATA_DIR")
    if root:
        folder = Path(expanded(root))
        if not folder.is_dir():
            raise ConfigError([Problem("data.root", f"{folder} is not a folder; {HOW_TO_GET}")])
        return folder
    if not mirror:
        return None
    folder = Path(expanded(mirror)) / "omniglot"
    if not folder.is_dir():
        raise UserError(f"data omniglot: MLX_DATA_DIR names {folder}, which is not a folder; {HOW_TO_GET}")
    return folder


def _downloaded(name: str) -> Path:
    """Return a file of upstream, from the cache if it was downloaded before."""
    import pooch  # not at the top: it imports a web client

    def download(url: str, file: str, cache: Any) -> None:
        pooch.HTTPDownloader()(url, file, cache)
        under_umask(file)

    url, folder = (IMAGES if name.endswith(".zip") else LISTS) + name, cache_dir() / "downloads"
    try:
        found = pooch.retrieve(url, CHECKSUMS[name], fname=name.replace("/", "-"), path=folder, downloader=download)
    except (OSError, ValueError) as error:  # no network; a file that is not the published one
        raise UserError(f"data omniglot could not be downloaded from {url} ({error}); {HOW_TO_GET}") from error
    return Path(found)


def _listed(part: str, folder: Path | None) -> list[str]:
    """Return the classes of a part of the Vinyals split."""
    name = f"splits/vinyals/{part}.txt"
    path = folder / name if folder and (folder / name).is_file() else _downloaded(name)
    try:
        if path.stat().st_size > LARGEST_ARCHIVE:
            raise UserError(f"{path} is too large for a list of classes")
        names = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    text = "".join(f"{entry}\n" for entry in names)  # with any line ends
    if f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" != CHECKSUMS[name]:
        raise UserError(f"{path} is not the list that upstream published; download it from {LISTS}{name}")
    return names


def _path(name: str, folder: Path | None) -> Path:
    """Return the archive of an image set, or the folder with its contents."""
    if folder is None:
        return _downloaded(f"{name}.zip")
    for path, there in ((folder / f"{name}.zip", Path.is_file), (folder / name, Path.is_dir)):
        if there(path):
            return path
    raise UserError(f"data omniglot: {folder} has neither {name}.zip nor a folder {name}; {HOW_TO_GET}")


def _content(path: Path) -> str:
    """Return the sha256 of all files of an image set, with the problems of files that cannot be read."""
    state = hashlib.sha256()
    files, most = (sorted(path.glob("*/*/*.png")), LARGEST) if path.is_dir() else ([path], LARGEST_ARCHIVE)
    for file in files:
        state.update(file.relative_to(path).as_posix().encode())
        try:
            state.update(_bytes(file, most))
        except ValueError as error:  # decoding reports it
            state.update(str(error).encode())
    return state.hexdigest()


def _bytes(file: Path, most: int) -> bytes:
    """Return the contents of a file.

    Raises:
        ValueError: if it is not a file, or has more than `most` bytes, or cannot be read.
    """
    try:
        if not file.is_file():  # reading a pipe or a device would never end
            raise ValueError("is not a file")
        if file.stat().st_size > most:
            raise ValueError(f"is too large: it has more than {most} bytes")
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _contents(path: Path, name: str) -> tuple[dict[str, bytes], list[Finding]]:
    """Read the image files of a folder or archive; nothing is unpacked to disk.

    Returns:
        their contents by names such as "Angelic/character01/0965_01.png", sorted, and the problems of unusable files.
    """
    return _from_folder(path) if path.is_dir() else _from_archive(path, name)


def _from_folder(path: Path) -> tuple[dict[str, bytes], list[Finding]]:
    contents: dict[str, bytes] = {}
    findings = []
    for file in path.glob("*/*/*.png"):
        try:
            contents[file.relative_to(path).as_posix()] = _bytes(file, LARGEST)
        except ValueError as error:
            findings.append(Finding(True, str(file), str(error)))
    return dict(sorted(contents.items())), findings


def _from_archive(path: Path, name: str) -> tuple[dict[str, bytes], list[Finding]]:
    contents: dict[str, bytes] = {}
    findings = []
    try:
        whole = _bytes(path, LARGEST_ARCHIVE)
    except ValueError as error:
        return {}, [Finding(True, str(path), str(error))]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            return {}, [Finding(True, str(path), f"has {len(members)} members; at most {MOST_MEMBERS} are allowed")]
        for member in sorted(members, key=lambda m: m.filename):
            inside = member.filename.removeprefix(f"{name}/")
            parts = member.filename.replace("\\", "/").split("/")
            wrong = ""
            if ".." in parts or not parts[0] or ":" in parts[0]:
                wrong = "has a name that leads out of the archive"
            elif stat.S_ISLNK(member.external_attr >> 16):
                wrong = "is a link, not a file"
            elif member.file_size > LARGEST:
                wrong = f"is too large for a drawing ({member.file_size} bytes)"
            elif inside in contents:
                wrong = "is in the archive twice"
            elif inside != member.filename and inside.endswith(".png"):
                try:
                    contents[inside] = archive.read(member)  # not more than the declared size
                except UNREADABLE as error:
                    wrong = f"cannot be read: {error}"
            if wrong:
                findings.append(Finding(True, f"{path}: {member.filename}", wrong))
    return contents, findings


def _decoded(path: Path, name: str, size: int) -> dict[str, Drawings]:
    """Return the drawings [20, P, P] uint8, ink 255, of each character of an image set.

    Raises:
        DataError: with every file that is damaged, missing or not the published one.
    """
    try:
        contents, findings = _contents(path, name)
    except UNREADABLE as error:
        raise DataError([Finding(True, str(path), f"is damaged or cannot be read ({error})")]) from error
    characters: dict[str, list[Image.Image]] = {}
    counts: dict[str, int] = {}
    for file, content in contents.items():
        character = file.rpartition("/")[0]
        counts[character] = counts.get(character, 0) + 1
        try:
            characters.setdefault(character, []).append(_drawing(content))
        except ValueError as error:
            findings.append(Finding(True, f"{path}: {file}", str(error)))
    if len(counts) != CHARACTERS[name]:
        incomplete = f"is incomplete: it has {len(counts)} of {CHARACTERS[name]} characters"
        findings.append(Finding(True, str(path), incomplete))
    for character, count in counts.items():
        if count != DRAWINGS:
            findings.append(Finding(True, f"{path}: {character}", f"has {count} of {DRAWINGS} drawings"))
    if findings:
        raise DataError(findings)
    digest = hashlib.sha256(b"".join(d.tobytes() for found in characters.values() for d in found)).hexdigest()
    if digest != PIXELS[name]:
        other = f"does not hold the drawings that upstream published (sha256 of the pixels {digest})"
        raise DataError([Finding(True, str(path), other)])
    return {c: np.stack([_small(drawing, size) for drawing in drawings]) for c, drawings in characters.items()}


def _drawing(content: bytes) -> Image.Image:
    """Decode a drawing; its paper is 1, its ink 0.

    Raises:
        ValueError: if it is not a drawing; its size is checked before it is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.size == (SIDE, SIDE):
            return image.convert("1")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"has far too many pixels, expected {SIDE}x{SIDE}") from error
    except UNREADABLE as error:
        raise ValueError(f"cannot be read as an image: {error}") from error
    raise ValueError(f"has {image.width}x{image.height} pixels, expected {SIDE}x{SIDE}")


def _small(drawing: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return a drawing [P, P] uint8 with ink 255; each pixel is the mean of the original pixels that it covers."""
    ink = drawing.convert("L").point(lambda value: 255 - value)
    return np.asarray(ink.resize((size, size), Image.Resampling.BOX))

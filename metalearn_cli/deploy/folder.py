"""An artefact: a folder with a learner, its support set, and all that a program elsewhere needs to use it.

    artefact.json         what it is: classes, preprocessing, result, where it comes from, sha256 of the other files
    encoder.onnx          from items to embeddings and logits
    classes.safetensors   what the learner has learnt of the classes, and the embeddings of their examples
    learner.safetensors   the tensors of the trained learner, to learn further classes
    support.safetensors   the examples, or their embeddings where these are enough, and pictures to show
    README.md             a page for people
    predict.py            a program that uses it, without this package

A changed artefact is a whole new folder, which then takes the place of the old one; other files in it stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import InUseError, UserError
from metalearn_cli.records.runs import LACKING, as_json, read_json, sha256_of
from metalearn_cli.records.shapes import ARTEFACT, misshapen

FORMAT = 1
ABOUT = "artefact.json"
ENCODER, CARD, PROGRAM = "encoder.onnx", "README.md", "predict.py"
CLASSES, LEARNER, SUPPORT = (f"{name}.safetensors" for name in ("classes", "learner", "support"))


def is_artefact(path: Path) -> bool:
    """Whether a folder is an artefact."""
    return (path / ABOUT).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """Read artefact.json, and check the other files.

    Raises:
        UserError: if it is none, is damaged, or is of another version.
        InUseError: if another process is changing it at this moment.
    """
    if not folder.exists() and aside(folder, "old").exists():
        with changing(folder):
            pass  # which has put it back
    if not is_artefact(folder):
        raise UserError(f"{folder} is no artefact: it has no {ABOUT}; make one with: mlx export support=EXAMPLES")
    about = read_json(folder / ABOUT)
    if about.get("format") != FORMAT:
        told = f"format {shown(about.get('format'))}; it reads format {FORMAT}"
        raise UserError(f"{folder / ABOUT} has a format that this version does not read ({told}); export it again")
    if wrong := misshapen(about, ARTEFACT):
        raise UserError(f"{folder / ABOUT} is damaged: {wrong}")
    if about["sha256"] != seal_of(about):
        raise UserError(f"{folder / ABOUT} was changed after it was written; export it again")
    for name in (ENCODER, CLASSES, LEARNER, SUPPORT):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing")
        if sha256_of(path) != about["files"].get(name, {}).get("sha256"):
            raise UserError(f"{path} is damaged: its sha256 is not the one in {ABOUT}")
    return about


def seal_of(about: Mapping[str, Any]) -> str:
    """Return the sha256 of the contents of artefact.json, without the entry that holds it."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(as_json(rest).encode()).hexdigest()


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Within a block, keep other processes from changing the artefacts of a folder; without locks, they are not kept.

    Raises:
        UserError: if the folder above the artefact does not exist, or this process is in the artefact.
        InUseError: if another process changes one.
    """
    if not folder.absolute().parent.is_dir():
        raise UserError(f"there is no folder {folder}")
    if Path.cwd().is_relative_to(folder.resolve()):  # the shell would stay in the old folder, which is removed
        above = folder.resolve().parent
        raise UserError(f"a change replaces the folder that you are in; go to the one above it first: cd {above}")
    descriptor = os.open(folder.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InUseError(
            f"an artefact in {folder.parent} is being changed by another mlx process; try again"
        ) from error
    except OSError as error:
        if error.errno not in LACKING:
            os.close(descriptor)
            raise
    try:
        before = aside(folder, "old")
        if not folder.exists() and before.exists():  # a change was killed between its last two steps
            before.rename(folder.resolve())
        yield
    finally:
        os.close(descriptor)


def aside(folder: Path, what: str) -> Path:
    """Return the name of a folder beside an artefact."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.{what}")

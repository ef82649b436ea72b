"""What a client of the server sends, as an item; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.pixels import TooLarge
from metalearn_cli.data.common.spelling import ids_of
from metalearn_cli.deploy.decoding import decoded, floats
from metalearn_cli.deploy.looks import looks_of, of_texts
from metalearn_cli.deploy.served import Item, Served

MILLION = 10**6
LETTERS = 100_000  # most of a text
NAME = 60  # most letters of the name of an example, without its end


class Limits(NamedTuple):
    """What a client may ask for.

    Attributes:
        body: most megabytes of a request.
        pixels: most million pixels of a picture, or samples of a recording.
        classes: most classes of the artefact.
        items: most examples of a class.
        queue: most requests that wait or are answered.
    """

    body: int = 32
    pixels: int = 25
    classes: int = 200
    items: int = 100
    queue: int = 64


class Refused(Exception):
    """A request that is not done.

    Args:
        status: of HTTP.
        told: why, for the client.
    """

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: what users call it.
        type: of its content, in HTTP.
        ending: of the names of such files.
        pattern: of its beginning.
    """

    name: str
    type: str
    ending: str
    pattern: bytes


KINDS = {
    "image": (
        Kind("PNG", "image/png", ".png", rb"\x89PNG\r\n\x1a\n"),
        Kind("JPEG", "image/jpeg", ".jpg", rb"\xff\xd8\xff"),
        Kind("BMP", "image/bmp", ".bmp", rb"BM"),
    ),
    "audio": (Kind("WAV", "audio/wav", ".wav", rb"RIFF....WAVE"), Kind("FLAC", "audio/flac", ".flac", rb"fLaC")),
    "text": (Kind("text in UTF-8", "text/plain", ".txt", rb""),),
}
"""The kinds of files that are taken, whatever else could be read: few decoders, and those that are used most."""


def item_of(content: bytes, served: Served, limits: Limits) -> Item:
    """Return the content of a file as an item.

    Raises:
        Refused: if it cannot be used.
    """
    kind_of(content, served)
    about = served.about
    try:
        if served.kind == "text":
            text = _text(content)
            return Item(ids_of([text], about["preprocessing"], about["tokenizer"]).ids[0], of_texts([text]))
        found, heard = decoded(content, served.kind, about["preprocessing"], limits.pixels * MILLION)
        x = floats(found)
        if heard is None:
            return Item(x, looks_of(x[None], about["input"]["kind"], about["input"]["values"]))
        return Item(x, np.array([heard], np.float32))
    except TooLarge as error:
        raise Refused(413, f"the file {error}") from error
    except ValueError as error:
        raise Refused(422, f"the file {error}") from error
    except UserError as error:  # a library that is not installed
        raise Refused(501, str(error)) from error


def kind_of(content: bytes, served: Served) -> Kind:
    """Return what kind of file a content is, by its beginning.

    Raises:
        Refused: if the artefact does not take such files.
    """
    if not content:
        raise Refused(422, "the file is empty")
    for kind in KINDS[served.kind]:
        if re.match(kind.pattern, content, re.DOTALL):
            return kind
    raise Refused(415, f"the file is not one of {', '.join(kind.name for kind in KINDS[served.kind])}")


def names_of(files: Iterable[tuple[str, Kind]]) -> list[str]:
    """Return names under which files can be written into one folder, from those that a client gives.

    Args:
        files: the name of each, which may be anything, and its kind.
    """
    found = list[str]()
    for number, (name, kind) in enumerate(files, start=1):
        stem = re.sub(r"[^\w.-]+", "-", PurePosixPath(name.replace("\\", "/")).stem)[:NAME].strip("-.")
        stem = stem or str(number)
        found.append(f"{stem}{kind.ending}" if f"{stem}{kind.ending}" not in found else f"{stem}-{number}{kind.ending}")
    return found


def _text(content: bytes) -> str:
    """Return a text.

    Raises:
        Refused: if it is none.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Refused(415, "the file is no text in UTF-8") from error
    if not text.strip() or "\0" in text:
        raise Refused(422, "the text is empty" if not text.strip() else "the text has a character that no text has")
    if len(text) > LETTERS:
        raise Refused(413, f"the text has {len(text)} letters; at most {LETTERS} are read")
    return text

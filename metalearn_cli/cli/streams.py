"""Where text is written: a terminal of some width, a pipe whose reader is gone (`mlx run | head -1`), or nowhere."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from metalearn_cli.core.errors import UserError


class Unwritable(UserError):
    """The result cannot be written to stdout."""


def fitted(text: str) -> str:
    """Return a text, unless it is piped, with lines that fit the terminal, broken below their last column."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_broken(line, width) for line in text.splitlines())


def _broken(line: str, width: int) -> str:
    columns = re.match(r"\s*(?:\S.*?\s{2,})?", line)
    indent = len(columns[0]) if columns else 0
    below = " " * (indent if indent < width // 2 else 4)
    return textwrap.fill(line, width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)


@contextmanager
def patient() -> Iterator[None]:
    """Within a block, ignore write errors that occur because nobody reads the output.

    Other errors, such as a full disk, are still raised on stdout, which has the result; on stderr all are ignored.

    Raises:
        Unwritable: for such an error.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next opened file would get its number, and what is printed
            os.open(os.devnull, os.O_RDWR)
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(cast(TextIO, _Patient(sys.stdout or nowhere, BrokenPipeError))),
        redirect_stderr(cast(TextIO, _Patient(sys.stderr or nowhere, OSError))),
    ):
        yield


class _Patient:
    """A stream that ignores one kind of error and, once it has raised another one, all errors.

    Args:
        stream: the real stream.
        forgiven: the errors to ignore.
    """

    def __init__(self, stream: TextIO, forgiven: type[OSError]) -> None:
        self._stream, self._forgiven = stream, forgiven

    def write(self, text: str) -> int:
        """Write; after an error, discard the text."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush; after an error, discard the text."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Discard all later output, also what Python itself writes at its end."""
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if not isinstance(error, self._forgiven):
            self._forgiven = OSError
            raise Unwritable(f"cannot write to stdout: {str(error.strerror).lower()}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

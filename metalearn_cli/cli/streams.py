"""stdout and stderr that may be closed, or lose their reader (`mlx run | head -1`): the work goes on without them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


@contextmanager
def patient() -> Iterator[None]:
    """Within a block, let no write end the program because nobody reads it.

    On stdout, which is the result, other errors such as a full disk still count; on stderr none does.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would take its place, and what is printed
            os.open(os.devnull, os.O_RDWR)
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(cast(TextIO, _Patient(sys.stdout or nowhere, BrokenPipeError))),
        redirect_stderr(cast(TextIO, _Patient(sys.stderr or nowhere, OSError))),
    ):
        yield


class _Patient:
    """A stream that forgives errors of a kind.

    Args:
        stream: the real one.
        forgiven: what does not count.
    """

    def __init__(self, stream: TextIO, forgiven: type[OSError]) -> None:
        self._stream, self._forgiven = stream, forgiven

    def write(self, text: str) -> int:
        """Write, or do not."""
        try:
            return self._stream.write(text)
        except self._forgiven:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or do not."""
        try:
            self._stream.flush()
        except self._forgiven:
            self._give_up()

    def _give_up(self) -> None:
        """Send what is still to come nowhere, also what Python itself writes when it ends."""
        with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

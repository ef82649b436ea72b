"""Signals that stop a run: Ctrl-C, `kill`, and the signals of a scheduler before it ends a job."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from metalearn_cli.core.errors import Stopped

ALWAYS = ("SIGINT", "SIGTERM")
"""Signals that stop every run; `runtime.stop_on` names more."""


@contextmanager
def first_signal(names: Sequence[str], act: Callable[[int], None]) -> Iterator[None]:
    """Within a block, call `act` at the first signal to stop; the second one goes to the previous handlers.

    Args:
        names: names of signals, besides `ALWAYS`.
        act: is called with the signal's number.
    """
    before: dict[int, Any] = {}

    def put_back() -> None:
        while before:
            signal.signal(*before.popitem())

    def received(number: int, frame: object) -> None:
        put_back()
        act(number)

    try:
        for name in dict.fromkeys((*ALWAYS, *names)):
            number = signal.Signals[name]
            before[number] = signal.signal(number, received) or signal.SIG_DFL
    except ValueError:  # not in the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        put_back()


def stop(number: int) -> None:
    """Stop at once.

    Raises:
        Stopped: always.
    """
    raise Stopped(number)

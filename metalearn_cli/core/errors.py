"""Errors that are the user's to mend, as opposed to crashes.

Everything raised as `UserError` is shown as a sentence, without a traceback, and ends with exit code 2.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with the settings.

    Attributes:
        key: the setting as the user spells it, dotted ("algorithm.inner_lr"); "" where no single one is to blame.
        message: what is wrong and what is allowed.
        hint: what was probably meant ("inner_steps"), or "".
    """

    key: str
    message: str
    hint: str = ""


class UserError(Exception):
    """The input cannot be carried out; the text is one sentence that says what to change."""


class ConfigError(UserError):
    """One or more settings are wrong; `problems` lists all of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.key}: {p.message}" if p.key else p.message for p in self.problems))


class NonFiniteError(UserError):
    """A loss or a gradient stopped being a finite number; raised before it could reach the weights."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop.

    Args:
        number: the signal's.
        advice: how to go on, or "".
    """

    def __init__(self, number: int, advice: str = "") -> None:
        self.number = number
        name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{name}; {advice}" if advice else name)

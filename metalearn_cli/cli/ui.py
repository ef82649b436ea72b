"""Everything that is drawn on a terminal: tables on stdout, progress and errors on stderr. The only user of rich and tqdm.

User text is never taken for markup. Where there is no terminal, progress is plain lines and nothing is wrapped.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from metalearn_cli.cli.errors import Fault

_UNWRAPPED = 400  # columns where there is no terminal


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNWRAPPED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def width() -> int:
    """Return the columns that stdout has."""
    return _console().width


def say(text: str) -> None:
    """Print a line of the result to stdout."""
    _console().print(text, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table to stdout.

    Args:
        title: its heading.
        columns: the columns' names; one that starts with "!" is never wrapped.
        rows: its cells.
        right: the columns whose cells are aligned at the right.
    """
    drawn = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        shown = name.lstrip("!")
        justify = "right" if shown in right else "left"
        drawn.add_column(Text(shown), justify=justify, no_wrap=name.startswith("!"), overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    _console().print(drawn)


def error(text: str) -> None:
    """Print an error to stderr."""
    console = _console(stderr=True)
    console.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def faults(stage: str, found: Sequence[Fault]) -> None:
    """Print what is wrong with the settings of a command to stderr."""
    console = _console(stderr=True)
    number = f"{len(found)} problem{'s' * (len(found) > 1)} in the settings"
    console.print(Text.assemble(("error: ", "bold red"), number, f" of `mlx {stage}`" if stage else ""))
    grid = Table.grid(padding=(0, 2), pad_edge=True)
    for fault in found:
        origin = f"   (from {fault.origin})" if fault.origin else ""
        hint = f"   did you mean: {fault.hint}" if fault.hint else ""
        text = Text.assemble(fault.message, (origin, "dim"), (hint, "bold"))
        grid.add_row(Text(fault.key, overflow="fold"), text)
    console.print(grid)
    if stage:
        console.print(f"see all settings: mlx {stage} --cfg job")

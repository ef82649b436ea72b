"""embedding.csv of an evaluation: where the network puts items of classes, in two dimensions.

Its columns are the class of an item and its places. Their names give the share of the variance that each explains.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.runs import write_text

FILE = "embedding.csv"
_LARGEST = 1e30  # number that is drawn
_COLUMN = "component {} ({} of the variance)"


class Embedding(NamedTuple):
    """Items in two dimensions.

    Attributes:
        variance: the share of the variance in each dimension.
        points: class, first and second place of each item.
    """

    variance: tuple[float, float]
    points: Sequence[tuple[str, float, float]]


def write_embedding(found: Embedding, folder: Path) -> None:
    """Write embedding.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["class", *(_COLUMN.format(i, f"{share:.4f}") for i, share in enumerate(found.variance, 1))])
    writer.writerows((name, f"{first:.6g}", f"{second:.6g}") for name, first, second in found.points)
    write_text(folder / FILE, text.getvalue())


def read_embedding(folder: Path) -> Embedding | None:
    """Return what embedding.csv holds; None if there is none.

    Raises:
        UserError: if it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        (_, *names), *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        first, second = (float(name.split("(")[1].split()[0]) for name in names)
        points = [(name, float(x), float(y)) for name, x, y in rows]
        if not points or not all(abs(number) < _LARGEST for point in points for number in point[1:]):
            raise ValueError("no numbers that can be drawn")
        return Embedding((first, second), points)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path} is damaged; evaluate again to write it anew") from error

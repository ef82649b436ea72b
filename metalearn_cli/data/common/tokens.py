"""Texts as Bao et al. published them: a file of JSON lines, each with tokens and the number of a class.

Source: Bao et al. 2020, "Few-shot text classification with distributional signatures",
github.com/YujiaBao/Distributional-Signatures; the splits of classes are those of its src/dataset/loader.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from metalearn_cli.core.errors import DataError, Finding
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root
from metalearn_cli.data.common.manifest import Entry, Manifest, placed
from metalearn_cli.data.common.rows import columns_of, values_of
from metalearn_cli.data.common.texts import Coding, Passage, filled, text_data

DATA = "the data of github.com/YujiaBao/Distributional-Signatures"


class Source(NamedTuple):
    """One of their data sets.

    Attributes:
        name: of the data set here.
        file: the name of its file.
        labels: those of each split.
        names: of the classes, by label; () if the source does not name them.
    """

    name: str
    file: str
    labels: Mapping[str, Sequence[int]]
    names: Sequence[str] = ()


def token_data(source: Source, root: str | None, coding: Coding) -> Dataset:
    """Return a data set whose classes are split by their labels.

    Args:
        source: the data set.
        root: its file or the folder of it; None for a folder of its name in $MLX_DATA_DIR.
        coding: how texts become ids.

    Raises:
        UserError: if the file is missing or damaged.
    """
    place = benchmark_root(root, source.name, f"{source.file} of {DATA}, or its folder")
    path = place / source.file if place.is_dir() else place
    columns = columns_of(path)
    texts, numbers = (values_of(columns, column, path) for column in ("text", "label"))
    split_of = {label: split for split, own in source.labels.items() for label in own}
    entries, wrong = [], []
    for row, (tokens, label) in enumerate(zip(texts, numbers, strict=True)):
        where = f"{path.name}, row {row + 1}"
        if not isinstance(tokens, list) or not isinstance(label, int) or label not in split_of:
            told = f"must have a list of tokens, and a label from 0 to {max(split_of)}; its label is {label!r}"
            wrong.append(Finding(True, where, told))
            continue
        class_name = source.names[label] if source.names else f"{label:02d}"
        entries.append(Entry(Passage(" ".join(map(str, tokens)), where), class_name, split_of[label]))
    if wrong:
        raise DataError(wrong)
    kept, findings = filled(entries)
    found = placed(Manifest(kept, findings=findings), "auto", seed=0)
    return text_data(source.name, found._replace(protocol="Bao et al. 2020"), coding)

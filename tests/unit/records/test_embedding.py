"""embedding.csv holds what was written; a damaged one gets a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.embedding import FILE, Embedding, read_embedding, write_embedding


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = Embedding((0.5, 0.125), [('a, "b"', 0.5, -1.25), ("字", 3.0, 1e-6)])
    assert read_embedding(tmp_path) is None
    write_embedding(found, tmp_path)
    assert read_embedding(tmp_path) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "class,x,y\na,1,2\n",
        "class,component 1 (0.5 of the variance)\na,1\n",
        "class,component 1 (0.5 of the variance),component 2 (0.1 of the variance)\n",
        "class,component 1 (0.5 of the variance),component 2 (0.1 of the variance)\na,1\n",
        "class,component 1 (0.5 of the variance),component 2 (0.1 of the variance)\na,nan,1\n",
        "class,component 1 (0.5 of the variance),component 2 (0.1 of the variance)\na,1e300,1\n",
        "class,component 1 (,component 2 ()\na,1,1\n",
        "class,\xff",
    ],
)
def test_a_damaged_file(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"embedding\.csv is damaged"):
        read_embedding(tmp_path)

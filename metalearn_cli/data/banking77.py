"""BANKING77: about 13,000 questions of a bank's customers, of 77 intents.

Source: Casanueva et al. 2020, "Efficient intent detection with dual sentence encoders",
github.com/PolyAI-LDN/task-specific-datasets, banking_data/ (CC BY 4.0).
"""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.core.check import Range
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.files import benchmark_root
from metalearn_cli.data.common.manifest import Entry, Manifest, placed
from metalearn_cli.data.common.rows import columns_of, values_of
from metalearn_cli.data.common.texts import Coding, Length, Passage, Vocabulary, filled, text_data

WHERE = "the folder banking_data of github.com/PolyAI-LDN/task-specific-datasets, with train.csv and test.csv"


def banking77(
    root: str | None = None,
    split: str = "auto",
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 32,
    seed: Annotated[int, Range(0)] = 0,
) -> Dataset:
    """Questions as ids; both files are read as one, because they have the same classes.

    Args:
        root: folder with train.csv and test.csv; None for $MLX_DATA_DIR/banking77.
        split: "auto" or "classes": 47 intents train, 15 validate, 15 test, drawn by the seed; "items": the published
            split of the questions of each intent (ordinary classification); or a JSON file of lists, see
            `manifest.placed`.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.
        seed: of the split, >= 0.

    Raises:
        UserError: if a file is missing or damaged.
    """
    folder = benchmark_root(root, "banking77", WHERE)
    entries = []
    for part in ("train", "test"):
        path = folder / f"{part}.csv"
        columns = columns_of(path)
        texts, labels = (values_of(columns, column, path) for column in ("text", "category"))
        given = part if split == "items" else ""
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            entries.append(Entry(Passage(text, f"{path.name}, row {row + 1}"), label, given))
    kept, findings = filled(entries)
    found = placed(Manifest(kept, findings=findings), split, seed)
    return text_data("banking77", found, Coding(tokenizer, vocabulary, length))

"""Headlines of the HuffPost, as Bao et al. 2020 published them (see `common.tokens`)."""

from __future__ import annotations

from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.texts import Coding, Length, Vocabulary
from metalearn_cli.data.common.tokens import Source, token_data

SOURCE = Source("huffpost", "huffpost.json", {"train": range(20), "val": range(20, 25), "test": range(25, 41)})


def huffpost(
    root: str | None = None,
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 32,
) -> Dataset:
    """Headlines as ids: 20 classes train, 5 validate, 16 test.

    Args:
        root: huffpost.json or its folder; None for $MLX_DATA_DIR/huffpost.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return token_data(SOURCE, root, Coding(tokenizer, vocabulary, length))

"""Newswire articles of Reuters-21578, as Bao et al. 2020 published them (see `common.tokens`)."""

from __future__ import annotations

from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.texts import Coding, Length, Vocabulary
from metalearn_cli.data.common.tokens import Source, token_data

SOURCE = Source("reuters", "reuters.json", {"train": range(15), "val": range(15, 20), "test": range(20, 31)})


def reuters(
    root: str | None = None,
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 128,
) -> Dataset:
    """Articles as ids: 15 classes train, 5 validate, 11 test.

    Args:
        root: reuters.json or its folder; None for $MLX_DATA_DIR/reuters.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return token_data(SOURCE, root, Coding(tokenizer, vocabulary, length))

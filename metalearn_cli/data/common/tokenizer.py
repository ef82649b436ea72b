"""Texts as the ids of an encoder's own tokenizer.

A tokenizer's padding may have any id, or none. Here every id is the tokenizer's plus one, so that id 0 always pads; the
backbone `hf` takes the one off again.

Legend: N texts, L ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metalearn_cli.core.errors import UserError


class Tokenized(NamedTuple):
    """Texts as ids, and how they became so.

    Attributes:
        ids: [N, L] int64; 0 pads, every other id is the tokenizer's plus one.
        cut: how many texts were longer than L ids and lost their end.
        vocabulary: number of ids, padding included, up to the highest that the tokenizer has.
        preprocessing: plain values for `Dataset.of`: the tokenizer's sha256, not its folder.
    """

    ids: NDArray[np.int64]
    cut: int
    vocabulary: int
    preprocessing: dict[str, Any]


def tokenized(texts: Sequence[str], folder: str | Path, length: int) -> Tokenized:
    """Return texts as ids of the tokenizer in a folder, with the marks that it puts at their ends ("[CLS]").

    Args:
        texts: N of them.
        folder: has the encoder's `tokenizer.json`.
        length: L; longer texts are cut, shorter ones padded.

    Raises:
        UserError: if the package `tokenizers` is not installed, or the file is missing or damaged, or needs more than
            `length` ids for its marks alone.
    """
    file = Path(folder, "tokenizer.json")
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise UserError("tokenizers is not installed; type: pip install 'metalearn-cli[hf]'") from error
    try:
        content = file.read_bytes()
    except OSError as error:
        advice = "transformers writes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        raise UserError(f"{file} cannot be read ({error.strerror}); {advice}") from error
    try:
        tokenizer = Tokenizer.from_str(content.decode())
        tokenizer.no_padding()
        if length <= (marks := tokenizer.num_special_tokens_to_add(is_pair=False)):
            raise ValueError(f"its {marks} marks leave no room for words")
        tokenizer.enable_truncation(length)
        found = tokenizer.encode_batch(list(texts))
    except Exception as error:  # the package raises no narrower one
        raise UserError(f"{file} cannot be used for texts of {length} ids: {error}") from error
    ids = np.zeros((len(texts), length), np.int64)
    for row, text in zip(ids, found, strict=True):
        row[: len(text.ids)] = 1 + np.array(text.ids, np.int64)
    return Tokenized(
        ids=ids,
        cut=sum(bool(text.overflowing) for text in found),
        vocabulary=2 + max(tokenizer.get_vocab().values(), default=-1),  # ids may have gaps
        preprocessing={
            "tokenizer": hashlib.sha256(content).hexdigest(),
            "length": length,
            "ids": "the tokenizer's plus 1; 0 pads",
        },
    )


def written(ids: Sequence[int], folder: str | Path) -> list[str]:
    """Return the tokens of ids that `tokenized` has returned for the same folder, without padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    return [str(tokenizer.id_to_token(i - 1)) for i in ids]

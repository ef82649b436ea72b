"""Messages of 20 Newsgroups, as Bao et al. 2020 published them (see `common.tokens`)."""

from __future__ import annotations

from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.texts import Coding, Length, Vocabulary
from metalearn_cli.data.common.tokens import Source, token_data

NAMES = """talk.politics.mideast sci.space misc.forsale talk.politics.misc comp.graphics sci.crypt
    comp.windows.x comp.os.ms-windows.misc talk.politics.guns talk.religion.misc rec.autos sci.med
    comp.sys.mac.hardware sci.electronics rec.sport.hockey alt.atheism rec.motorcycles comp.sys.ibm.pc.hardware
    rec.sport.baseball soc.religion.christian""".split()
TOPS = {"sci": "train", "rec": "train", "comp": "val"}  # the others test
LABELS = {
    split: [k for k, name in enumerate(NAMES) if TOPS.get(name.partition(".")[0], "test") == split]
    for split in ("train", "val", "test")
}
SOURCE = Source("newsgroups", "20news.json", LABELS, NAMES)


def newsgroups(
    root: str | None = None,
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 128,
) -> Dataset:
    """Messages as ids: the 8 classes sci and rec train, the 5 of comp validate, the other 7 test.

    Args:
        root: 20news.json or its folder; None for $MLX_DATA_DIR/newsgroups.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return token_data(SOURCE, root, Coding(tokenizer, vocabulary, length))

"""Product reviews at Amazon, as Bao et al. 2020 published them (see `common.tokens`)."""

from __future__ import annotations

from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.texts import Coding, Length, Vocabulary
from metalearn_cli.data.common.tokens import Source, token_data

LABELS = {
    "train": (2, 3, 4, 7, 11, 12, 13, 18, 19, 20),
    "val": (1, 22, 23, 6, 9),
    "test": (0, 5, 14, 15, 8, 10, 16, 17, 21),
}
NAMES = """Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl
    Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food
    Health_and_Personal_Care Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products
    Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games
    Video_Games""".split()
SOURCE = Source("amazon", "amazon.json", LABELS, NAMES)


def amazon(
    root: str | None = None,
    tokenizer: str = "words",
    vocabulary: Vocabulary = 4096,
    length: Length = 128,
) -> Dataset:
    """Reviews as ids: 10 classes train, 5 validate, 9 test.

    Args:
        root: amazon.json or its folder; None for $MLX_DATA_DIR/amazon.
        tokenizer: "words", "bytes" or an encoder's folder, see `text.text`.
        vocabulary: most ids of tokenizer "words", 16 to 1048576.
        length: ids of an item, 1 to 65536.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return token_data(SOURCE, root, Coding(tokenizer, vocabulary, length))

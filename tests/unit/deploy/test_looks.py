"""Pictures that are unlike the examples are named, in the way they differ."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.core.items import Facts
from metalearn_cli.deploy.looks import looks_of, unlike

FACTS = Facts("image", (1, 8, 8), "unit", 2)
EXAMPLES = torch.zeros(4, 1, 8, 8)
for number, example in enumerate(EXAMPLES):  # ink 1 on 0
    example[0, :, 2 + number // 2] = 0.9


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (EXAMPLES[:1], []),
        (1 - EXAMPLES[:1], ["dark and bright are exchanged: a"]),
        (EXAMPLES[:1] / 3, ["less contrast: a"]),
        (EXAMPLES[:1] + 0.3, ["brighter: a"]),
        (torch.cat([EXAMPLES[:1], EXAMPLES[:1] / 3]), ["less contrast: b"]),
        (torch.zeros(7, 1, 8, 8), [f"{way}: a, b, c, d, e and 2 more" for way in ("darker", "less contrast")]),
    ],
)
def test_what_differs_is_named(x, told):
    looks = looks_of(EXAMPLES, FACTS)
    assert looks is not None and looks.shape == (4, 2)
    assert unlike(looks, looks_of(x, FACTS), "abcdefg"[: len(x)]) == told


def test_other_items_have_no_looks():
    assert looks_of(torch.zeros(2, 5), Facts("vector", (5,), "real", 2)) is None
    assert looks_of(torch.zeros(2, 1, 8, 8), Facts("audio", (1, 8, 8), "unit", 2)) is None

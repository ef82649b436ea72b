from __future__ import annotations

from typing import Any

import pytest

from metalearn_cli.backbones.common.items import make_backbone, part_of
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts

TEXT = Facts("text", (6,), "ids", 4, vocabulary=9)
PAIR = Facts(
    "mixed", {"image": (1, 8, 8), "text": (6,)}, {"image": "unit", "text": "ids"}, 4, 0, {"text": 9, "image": 0}
)
VECTOR = Facts("vector", (6,), "real", 4)
IMAGE = Facts("image", (1, 16, 16), "unit", 4)


@pytest.mark.parametrize(
    ("name", "facts", "said"),
    [
        (
            "conv4.Conv4",
            TEXT,
            "Conv4 takes numbers, but the items are text (ids of shape [6]); use backbone=transformer",
        ),
        ("mlp.Mlp", TEXT, "Mlp takes numbers, but the items are text (ids of shape [6]); use backbone=transformer"),
        ("mlp.Mlp", PAIR, "Mlp takes numbers, but the items are made of parts (image, text); use backbone=mixed"),
        ("conv4.Conv4", VECTOR, "which conv4 needs; use backbone=mlp, or cnn1d for series"),
        ("conv4.Conv4", VECTOR._replace(shape=(2, 6)), "which conv4 needs; use backbone=cnn1d"),
    ],
)
def test_other_items_are_refused_with_the_backbone_that_takes_them(name: str, facts: Facts, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_backbone({"_target_": f"metalearn_cli.backbones.{name}"}, facts)
    assert said in str(caught.value)


@pytest.mark.parametrize(("name", "facts"), [("conv4.Conv4", IMAGE), ("mlp.Mlp", VECTOR), ("mlp.Mlp", IMAGE)])
def test_fitting_items_are_taken(name: str, facts: Any) -> None:
    assert make_backbone({"_target_": f"metalearn_cli.backbones.{name}"}, facts).out_dim > 0


def test_the_facts_of_a_part() -> None:
    assert part_of(PAIR, "text") == TEXT
    assert part_of(PAIR, "image") == Facts("image", (1, 8, 8), "unit", 4)

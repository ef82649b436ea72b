from __future__ import annotations

from typing import Any

import pytest
import torch

from metalearn_cli.backbones.common.items import make_backbone
from metalearn_cli.backbones.mixed import Mixed
from metalearn_cli.core.build import problems_of
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts

SHAPES: dict[str, tuple[int, ...]] = {"text": (5,), "image": (1, 16, 16), "row": (3,), "sound": (2, 9)}
PAIR = Facts("mixed", SHAPES, {"text": "ids", "image": "unit", "row": "real", "sound": "real"}, 4, 0, {"text": 7})
MIXED = {"_target_": "metalearn_cli.backbones.mixed.Mixed"}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 3}


def test_each_part_gets_the_backbone_for_its_kind_and_features_lie_side_by_side() -> None:
    network = Mixed(PAIR, {"image": MLP})
    kinds = {name: type(encoder).__name__ for name, encoder in network.encoders.items()}
    assert kinds == {"image": "Mlp", "row": "Mlp", "sound": "Cnn1d", "text": "Transformer"}
    x = {name: torch.rand(2, *shape) for name, shape in SHAPES.items()} | {"text": torch.randint(7, (2, 5))}
    expected = torch.cat([network.encoders[name](x[name]) for name in sorted(SHAPES)], 1)
    assert torch.equal(network(x), expected)
    assert network.out_dim == expected.shape[1] == 3 + 40 + 64 + 64
    assert network.batch_statistics  # those of cnn1d


@pytest.mark.parametrize(
    ("facts", "parts", "key", "said"),
    [
        (PAIR, {"image": {"_target_": "os.system"}}, "backbone.parts.image._target_", "may not be built from a config"),
        (
            PAIR,
            {"image": MLP | {"_target_": "metalearn_cli.models.gan.Gan"}},
            "backbone.parts.image._target_",
            "may not",
        ),
        (PAIR, {"image": MLP | {"hiden": 3}}, "backbone.parts.image.hiden", "no such setting of Mlp"),
        (PAIR, {"image": 3}, "backbone.parts.image", "must name its class in `_target_`"),
        (PAIR, {"text": MLP}, "backbone.parts.text", "use backbone=transformer"),
        (PAIR, {"picture": MLP}, "backbone.parts", "has picture, but the items are made of parts"),
        (PAIR, {"image": MIXED}, "backbone.parts.image", "not made of parts; use backbone=conv4"),
        (Facts("text", (5,), "ids", 4, vocabulary=7), None, "backbone", "not made of parts; use backbone=transformer"),
    ],
)
def test_refuses(facts: Facts, parts: Any, key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_backbone(MIXED | {"parts": parts}, facts)
    (problem,) = caught.value.problems
    assert problem.key == key and said in problem.message


def test_a_part_s_settings_are_checked_before_anything_is_imported() -> None:
    found = problems_of(MIXED | {"parts": {"a": MLP | {"hidden": 0}, "b": {"_target_": "os.system"}}}, "backbone")
    assert [problem.key for problem in found] == ["backbone.parts.a.hidden", "backbone.parts.b._target_"]

"""Against turns by transposing and flipping, one image at a time."""

from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.models.rotation import Rotation


def test_the_loss_and_its_gradient_are_the_mean_over_all_turns_of_a_quarter_of_the_images() -> None:
    torch.manual_seed(0)
    model = Rotation(Mlp((2, 5, 5), hidden=8), (2, 5, 5)).double()
    x = torch.rand(7, 2, 5, 5, dtype=torch.float64)
    loss, metrics = model(x, torch.zeros(7))
    terms, right = [], 0
    for image in x[:2]:
        for turn in range(4):
            logits = model.head(model.backbone(image[None]))[0]
            terms.append(logits.exp().sum().log() - logits[turn])
            right += int(logits.argmax() == turn)
            image = image.transpose(1, 2).flip(1)  # by 90 degrees, against the clock
    expected = sum(terms) / 8
    torch.testing.assert_close(loss, expected)
    assert metrics["turn_accuracy"].item() == pytest.approx(right / 8)
    tensors = list(model.parameters())
    for one, two in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((6,), r"the items have the shape \(6,\)"),
        ((1, 8, 9), r"the items have the shape \(1, 8, 9\)"),
        ({"a": (2,), "b": (3,)}, r"the items have several parts \(a, b\)"),
    ],
)
def test_what_has_no_four_turns_is_refused(shape: object, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model: rotation turns square images, but {told}; use model=simclr$"):
        build({"_target_": "metalearn_cli.models.rotation.Rotation"}, "model", backbone=Mlp((3,)), shape=shape)

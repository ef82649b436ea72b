from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.models.classifier import Classifier


def test_loss_and_accuracy() -> None:
    torch.manual_seed(0)
    model = Classifier(Mlp((4,), hidden=8), classes=3, smoothing=0.1)
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    loss, metrics = model(x, y)
    logits = model.head(model.backbone(x))
    torch.testing.assert_close(loss, cross_entropy(logits, y, label_smoothing=0.1))
    assert metrics["label_accuracy"] == (logits.argmax(1) == y).float().mean()


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_refuses(smoothing: float) -> None:
    spec = {"_target_": "metalearn_cli.models.classifier.Classifier", "smoothing": smoothing}
    with pytest.raises(ConfigError, match=rf"^model\.smoothing: must be a number >= 0 and < 1, got {smoothing}"):
        build(spec, "model", backbone=Mlp((4,)), classes=3)


def test_learns_small_data_by_heart() -> None:
    torch.manual_seed(0)
    model = Classifier(Mlp((4,), hidden=32), classes=3)
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss, metrics = model(x, y)
        loss.backward()
        optimizer.step()
    assert metrics["label_accuracy"] == 1.0

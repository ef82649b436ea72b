"""Supervised pretraining: Chen et al. 2019, https://arxiv.org/abs/1904.04232 ("Baseline").

The backbone and a linear layer learn to classify all training classes at once. It is the strong baseline of few-shot
learning: classes that were never seen are told by the same features.

Legend: B items, K classes, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metalearn_cli.core.check import Below, Range


class Classifier(nn.Module):
    """A linear classifier of all training classes on the backbone's features.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        classes: K.
        smoothing: share of the target that is spread over all classes, in [0, 1).
    """

    def __init__(
        self, backbone: nn.Module, classes: int, smoothing: Annotated[float, Range(0), Below(1)] = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.out_dim), classes)
        self.smoothing = smoothing

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy [] of items x [B, ...] with classes y [B], and the accuracy."""
        logits = self.head(self.backbone(x))
        accuracy = (logits.argmax(-1) == y).float().mean()
        return cross_entropy(logits, y, label_smoothing=self.smoothing), {"label_accuracy": accuracy}

"""Supervised pretraining: classify the training classes.

Source: Chen et al. 2019, "A Closer Look at Few-shot Classification", https://arxiv.org/abs/1904.04232 (Baseline).

Legend: B items, K classes, ... the shape of one item.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metalearn_cli.core.learning import score


class Classifier(nn.Module):
    """A linear classifier over all training classes on the backbone's features.

    Args:
        backbone: maps items [B, ...] to features and says their number as `out_dim`.
        classes: K.
        smoothing: label smoothing, in [0, 1).

    Raises:
        ValueError: if smoothing is outside [0, 1).
    """

    def __init__(self, backbone: nn.Module, classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.out_dim), classes)
        self.smoothing = smoothing

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] and metrics of items x [B, ...] and their classes y [B]."""
        logits = self.head(self.backbone(x))
        return cross_entropy(logits, y, label_smoothing=self.smoothing), {"accuracy": score(logits, y)}

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return nothing: there is nothing to see."""
        return {}

"""Supervised pretraining: the strong baseline of Chen et al. 2019, https://arxiv.org/abs/1904.04232 ("Baseline").

Legend: B items, K classes, ... the shape of one item.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Classifier(nn.Module):
    """A linear classifier of all training classes on the backbone's features.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        classes: K.
        smoothing: share of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if smoothing is out of range.
    """

    def __init__(self, backbone: nn.Module, classes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.out_dim), classes)
        self.smoothing = smoothing

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy [] of items x [B, ...] with classes y [B], and the share of right answers."""
        logits = self.head(self.backbone(x))
        accuracy = (logits.argmax(-1) == y).float().mean()
        return cross_entropy(logits, y, label_smoothing=self.smoothing), {"label_accuracy": accuracy}

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Return no pictures: a classifier draws nothing."""
        return {}

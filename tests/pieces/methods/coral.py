"""Deep CORAL: Sun & Saenko 2016, https://arxiv.org/abs/1607.01719.

Legend: B items, D features.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class Coral:
    """Fine-tune everything such that features of the labelled and of other, unlabelled items covary alike.

    Args:
        weight: of the difference of covariances in the loss, >= 0.
    """

    asks = ("unlabelled",)

    def __init__(self, weight: Annotated[float, Range(0)] = 1.0) -> None:
        self.weight = weight

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy with the difference (equation 1) to items "unlabelled" [B, ...], and the logits."""
        source, target = (net.features(net.params, batch[name]) for name in ("x", "unlabelled"))
        logits = net.head(net.params, source)
        apart = (torch.cov(source.T) - torch.cov(target.T)).square().sum() / (4 * source.shape[1] ** 2)
        return task_loss(logits, batch["y"]) + self.weight * apart, logits

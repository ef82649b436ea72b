"""Deep CORAL: Sun & Saenko 2016, https://arxiv.org/abs/1607.01719, equation 1.

A classifier works on another domain only if features are distributed alike in both. So the difference between the
covariances of the features of labelled items and of unlabelled items of the other domain is added to the loss.

Legend: B items, D features, K classes.
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

    The paper compares the outputs of its last layer; here it is the features, which the next stage gets.

    Args:
        weight: of the difference of covariances in the loss, >= 0.
    """

    asks = ("unlabelled",)
    whole_batch = True

    def __init__(self, weight: Annotated[float, Range(0)] = 1.0) -> None:
        self.weight = weight

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy with the weighted difference to items "unlabelled" [B, ...], and logits [B, K]."""
        labelled_BD, other_BD = (net.features(net.params, batch[name]) for name in ("x", "unlabelled"))
        logits_BK = net.head(net.params, labelled_BD)
        apart = (torch.cov(labelled_BD.T) - torch.cov(other_BD.T)).square().sum() / (4 * net.out_dim**2)
        return task_loss(logits_BK, batch["y"]) + self.weight * apart, logits_BK

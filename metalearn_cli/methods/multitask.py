"""Multitask learning: Caruana 1997, https://doi.org/10.1023/A:1007379606734.

What helps several tasks at once is more general than what helps one, so one backbone learns to classify several data
sets. Each has a linear classifier of its own, and the mean losses of batches of all of them are added.

Legend: B items, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from metalearn_cli.core.check import Above
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class Multitask:
    """Fine-tune everything on several labelled data sets, with a classifier for each.

    Args:
        weight: of the loss of each data set in `also`, relative to the loss of `data`, > 0.
    """

    asks = ("also",)

    def __init__(self, weight: Annotated[float, Above(0)] = 1.0) -> None:
        self.weight = weight

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def init(self, net: Network, sizes: Mapping[str, int]) -> Params:
        """Return a classifier [K, D] for each data set in `also`; zeros, as the network's own head."""
        weights = {f"{name}.weight": torch.zeros(classes, net.out_dim) for name, classes in sizes.items()}
        return weights | {f"{name}.bias": torch.zeros(classes) for name, classes in sizes.items()}

    def loss(self, net: Network, own: Params, start: Params, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the cross-entropies of all data sets, and the logits [B, K] of `data`."""
        logits = net.output(net.params, batch["x"])
        loss = task_loss(logits, batch["y"])
        for name, (x, y) in batch["also"].items():  # one after the other: batch statistics are those of one data set
            z_BD = net.features(net.params, x)
            loss = loss + self.weight * task_loss(linear(z_BD, own[f"{name}.weight"], own[f"{name}.bias"]), y)
        return loss, logits

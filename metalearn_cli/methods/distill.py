"""Distillation: Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531, section 2.

A teacher's answers say more of an item than its label does, so a student, which may be smaller or of another kind,
learns to give the same softened answers. It can also learn features from which a linear map gives the teacher's, as
in FitNets (Romero et al. 2015, https://arxiv.org/abs/1412.6550).

Legend: B items, K classes, D features of the student, E features of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear, mse_loss

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class Distill:
    """Fine-tune everything on the labels, and on what a teacher computes from the same items.

    Args:
        temperature: what both sides' logits are divided by, > 0.
        weight: share of the teacher's logits in the loss, from 0 to 1; the labels have the rest. With 0 the teacher
            needs no classifier.
        features: weight of the squared difference of features, >= 0.

    Raises:
        ValueError: if both weights are 0.
    """

    def __init__(
        self,
        temperature: Annotated[float, Above(0)] = 2.0,
        weight: Annotated[float, Range(0, 1)] = 0.5,
        features: Annotated[float, Range(0)] = 0.0,
    ) -> None:
        if not weight and not features:
            raise ValueError("weight and features are 0, so nothing is learnt from the teacher; use method=finetune")
        self.temperature, self.weight, self.features = temperature, weight, features
        self.asks = ("taught",) * bool(weight) + ("taught_features",) * bool(features)

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def init(self, net: Network, sizes: Mapping[str, int]) -> Params:
        """Return the linear map [E, D] from the student's features to the teacher's, {} if features do not count."""
        if not self.features:
            return {}
        wide = sizes["taught_features"]
        return {"map.weight": torch.randn(wide, net.out_dim) / net.out_dim**0.5, "map.bias": torch.zeros(wide)}

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the loss [] of labels, "taught" logits [B, K] and "taught_features" [B, E]; and the logits [B, K]."""
        z_BD = net.features(net.params, batch["x"])
        logits_BK = net.head(net.params, z_BD)
        loss = (1 - self.weight) * task_loss(logits_BK, batch["y"])
        if self.weight:
            said, meant = ((logits / self.temperature).log_softmax(-1) for logits in (logits_BK, batch["taught"]))
            # gradients of softened logits are smaller by the square of the temperature (section 2)
            soft = self.temperature**2 * kl_div(said, meant, log_target=True, reduction="batchmean")
            loss = loss + self.weight * soft
        if self.features:
            mapped_BE = linear(z_BD, own["map.weight"], own["map.bias"])
            loss = loss + self.features * mse_loss(mapped_BE, batch["taught_features"])
        return loss, logits_BK

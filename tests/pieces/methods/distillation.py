"""Distillation: Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531.

Legend: B items, K classes.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import kl_div

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class Distillation:
    """Fine-tune everything on the labels, and on what a teacher says of the same items.

    Args:
        temperature: what both sides' logits are divided by, > 0.
        weight: share of the teacher in the loss, in [0, 1].
    """

    asks = ("taught",)

    def __init__(
        self,
        temperature: Annotated[float, Above(0)] = 2.0,
        weight: Annotated[float, Range(0, 1)] = 0.5,
    ) -> None:
        self.temperature = temperature
        self.weight = weight

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the weighted mean of both losses (section 2), and the logits; "taught" are the teacher's [B, K]."""
        logits = net.output(net.params, batch["x"])
        said, meant = ((z / self.temperature).log_softmax(-1) for z in (logits, batch["taught"]))
        # gradients of softened logits are smaller by the square of the temperature
        soft = self.temperature**2 * kl_div(said, meant, log_target=True, reduction="batchmean")
        return (1 - self.weight) * task_loss(logits, batch["y"]) + self.weight * soft, logits

"""L2-SP: Li, Grandvalet & Davoine 2018, https://arxiv.org/abs/1802.01483."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class L2Sp:
    """Fine-tune everything, pulled back towards where it started from.

    Args:
        alpha: strength of the pull, >= 0.
    """

    def __init__(self, alpha: Annotated[float, Range(0)] = 0.01) -> None:
        self.alpha = alpha

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy with the pull (equation 2), and the logits."""
        logits = net.output(net.params, batch["x"])
        carried = [name for names in net.blocks for name in names]
        away = torch.stack([(net.params[name] - start[name]).square().sum() for name in carried]).sum()
        return task_loss(logits, batch["y"]) + self.alpha / 2 * away, logits

"""L2-SP: Li, Grandvalet & Davoine 2018, https://arxiv.org/abs/1802.01483.

Fine-tuning on little data forgets what the pretrained network knows. So the squared distance of the backbone's weights
from the checkpoint that transfer starts from is added to the loss, in place of weight decay towards zero.

Legend: B items, K classes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.core.check import Range
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params


class L2Sp:
    """Fine-tune everything; the backbone is pulled back to its start, the classifier to zero.

    Args:
        alpha: strength of the pull to the start, >= 0.
        beta: strength of the pull to zero, >= 0.
    """

    keeps_start = True

    def __init__(self, alpha: Annotated[float, Range(0)] = 0.01, beta: Annotated[float, Range(0)] = 0.01) -> None:
        self.alpha, self.beta = alpha, beta

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for every tensor."""
        return dict.fromkeys(net.params, 1.0)

    def loss(self, net: Network, own: Params, start: Params, batch: Params) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy with both pulls [], and the logits [B, K]."""
        logits = net.output(net.params, batch["x"])
        away = [p if name in net.head_names else p - start[name] for name, p in net.params.items()]
        strength = [self.beta if name in net.head_names else self.alpha for name in net.params]
        pulls = [s / 2 * difference.square().sum() for s, difference in zip(strength, away, strict=True)]
        return task_loss(logits, batch["y"]) + torch.stack(pulls).sum(), logits

"""Gradual unfreezing: Howard & Ruder 2018 (ULMFiT), https://arxiv.org/abs/1801.06146, section 3.3."""

from __future__ import annotations

import copy
from typing import Annotated

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.network import Network


class Gradual:
    """Train the classifier first, then one more block after the other, from the last to the first.

    Args:
        share: share of training after which everything learns, in (0, 1].
    """

    def __init__(self, share: Annotated[float, Above(0), Range(high=1)] = 0.5) -> None:
        self.share = share
        self.progress = 1.0

    def at(self, progress: float) -> Gradual:
        """Return the method at a share of training."""
        now = copy.copy(self)
        now.progress = progress
        return now

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the tensors that learn by now."""
        count = int(min(1.0, self.progress / self.share) * len(net.blocks))
        unfrozen = net.blocks[len(net.blocks) - count :]
        return dict.fromkeys([*net.head_names, *(name for names in unfrozen for name in names)], 1.0)

"""Fine-tuning: Howard & Ruder 2018 (ULMFiT), https://arxiv.org/abs/1801.06146, section 3.2.

A pretrained backbone is a good start for a related task, so it, or only its last blocks, learns on, together with a new
classifier. To keep what it knows, earlier blocks can learn more slowly, or begin to learn later.
"""

from __future__ import annotations

import copy
from typing import Annotated

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.network import Network


class Finetune:
    """Train the backbone or its last blocks; later blocks can learn faster than earlier ones, or sooner.

    Args:
        blocks: how many of the last blocks learn, >= 1; None means all. To freeze the backbone, use linear_probe.
        decay: learning rate of a block relative to the block after it, in (0, 1]; 1 means the same rate everywhere.
            "Discriminative fine-tuning"; the paper has 1 / 2.6.
        unfreeze: share of training in which blocks begin to learn one after the other, from the last to the first; the
            classifier learns from the start, and so does everything with 0. "Gradual unfreezing".
        block_rates: learning rates of all blocks, from input to output, relative to the classifier's, each >= 0, where
            0 freezes a block; None means those of `blocks` and `decay`.

    Raises:
        ValueError: if `block_rates` are given together with `blocks` or `decay`.
    """

    def __init__(
        self,
        blocks: Annotated[int, Range(1)] | None = None,
        decay: Annotated[float, Above(0), Range(high=1)] = 1.0,
        unfreeze: Annotated[float, Range(0, 1)] = 0.0,
        block_rates: list[Annotated[float, Range(0)]] | None = None,
    ) -> None:
        if block_rates is not None and (blocks, decay) != (None, 1.0):
            raise ValueError("block_rates replaces blocks and decay, so it cannot be set together with them")
        self.blocks, self.decay, self.unfreeze, self.block_rates = blocks, decay, unfreeze, block_rates
        self.progress = 1.0

    def at(self, progress: float) -> Finetune:
        """Return the method at a fraction of training."""
        now = copy.copy(self)
        now.progress = progress
        return now

    def rates(self, net: Network) -> dict[str, float]:
        """Return the learning-rate multiplier of each tensor that learns by now.

        Raises:
            ValueError: if the backbone has fewer than `blocks` blocks, or another number than `block_rates`.
        """
        rates = self._last_first(len(net.blocks))
        if self.progress < self.unfreeze:
            rates = rates[: int(len(rates) * self.progress / self.unfreeze)]
        # rates may be fewer than blocks
        pairs = zip(reversed(net.blocks), rates, strict=False)
        return dict.fromkeys(net.head_names, 1.0) | {name: rate for names, rate in pairs if rate for name in names}

    def _last_first(self, count: int) -> list[float]:
        """Return the rates of the last of `count` blocks, from output to input."""
        if self.block_rates is not None:
            if len(self.block_rates) != count:
                raise ValueError(
                    f"block_rates must have {count} numbers, one for each block of the backbone, "
                    f"got {len(self.block_rates)}"
                )
            return self.block_rates[::-1]
        if self.blocks is not None and self.blocks > count:
            raise ValueError(f"blocks must be at most {count}, the backbone's number of blocks, got {self.blocks}")
        return [self.decay**depth for depth in range(1, (self.blocks or count) + 1)]

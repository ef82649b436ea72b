"""Fine-tuning: train the backbone, or its last blocks, together with a new classifier."""

from __future__ import annotations

from typing import Annotated

from metalearn_cli.core.check import Above, Range
from metalearn_cli.core.network import Network


class Finetune:
    """Train the last blocks of the backbone; later ones can learn faster than earlier ones.

    Args:
        blocks: how many of the last blocks learn, >= 1; None means all. To freeze the backbone, use linear_probe.
        decay: learning rate of a block relative to the block after it, in (0, 1]; 1 means the same rate everywhere.
            Source: Howard & Ruder 2018 (ULMFiT), https://arxiv.org/abs/1801.06146, section 3.2, "discriminative
            fine-tuning"; they use 1 / 2.6.
    """

    def __init__(
        self,
        blocks: Annotated[int, Range(1)] | None = None,
        decay: Annotated[float, Above(0), Range(high=1)] = 1.0,
    ) -> None:
        self.blocks = blocks
        self.decay = decay

    def rates(self, net: Network) -> dict[str, float]:
        """Return the learning-rate multiplier of each tensor that learns.

        Raises:
            ValueError: if the backbone has fewer than `blocks` blocks.
        """
        if self.blocks is not None and self.blocks > len(net.blocks):
            allowed = f"at most {len(net.blocks)}, the backbone's number of blocks"
            raise ValueError(f"blocks must be {allowed}, got {self.blocks}")
        learning = list(reversed(net.blocks))[: self.blocks]
        backbone = {name: self.decay**depth for depth, names in enumerate(learning, start=1) for name in names}
        return {**dict.fromkeys(net.head_names, 1.0), **backbone}

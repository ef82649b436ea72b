"""A backbone with or without a linear head: the network of every stage but pretraining.

Legend: B items, D features, O outputs, ... the shape of one item.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Network(nn.Module):
    """Tensors are named "backbone.*" and "head.*" in every checkpoint.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        outputs: size O of the linear head; None for no head.
    """

    def __init__(self, backbone: nn.Module, outputs: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Identity() if outputs is None else nn.Linear(cast(int, backbone.out_dim), outputs)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # no class is preferred before its first example

    def forward(self, x: Tensor, *, reference: int | None = None) -> Tensor:
        """Return features [B, D], or the head's outputs [B, O].

        Args:
            x: items [B, ...].
            reference: how many of the first items give the batch statistics; None means all.
        """
        output: Tensor = self.head(self.backbone(x, reference=reference))
        return output

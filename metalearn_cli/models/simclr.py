"""SimCLR: Chen et al. 2020, https://arxiv.org/abs/2002.05709, equation 1 and algorithm 1.

Two random views are made of each item, and each is to find the other among all views of the batch by its features.
So features keep what tells items apart and drop what the random changes alter.

Legend: B items, E dimensions of the projection, ... the shape of one item.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.core.items import Items, joined, size
from metalearn_cli.core.views import view
from metalearn_cli.models.common.projecting import make_projector


class Simclr(nn.Module):
    """Contrast the two views of an item with the views of all other items of the batch (NT-Xent loss).

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        hidden: width of the projection's hidden layer, >= 1.
        outputs: E, >= 2.
        temperature: of the softmax over cosine similarities, > 0.
        strength: of the random views, > 0 and < 1, see `core.views.view`.
    """

    whole_batch = True

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Annotated[int, Range(1)] = 128,
        outputs: Annotated[int, Range(2)] = 64,
        temperature: Annotated[float, Above(0)] = 0.2,
        strength: Annotated[float, Above(0), Below(1)] = 0.25,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = make_projector(cast(int, backbone.out_dim), hidden, outputs)
        self.temperature, self.strength = temperature, strength

    def forward(self, x: Items, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...], and the share of views that find the other; y is not used."""
        count = size(x)
        views = joined([view(x, self.strength), view(x, self.strength)])
        z = normalize(self.projector(self.backbone(views)), dim=1)
        itself = torch.eye(2 * count, dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        other = torch.arange(2 * count, device=z.device).roll(count)
        found = (logits.argmax(1) == other).float().mean()
        return cross_entropy(logits, other), {"found": found}

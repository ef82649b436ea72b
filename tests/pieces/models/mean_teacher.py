"""BYOL: Grill et al. 2020, https://arxiv.org/abs/2006.07733.

Legend: B items, E dimensions of the projection, ... the shape of one item.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.core.network import Params


class Byol(nn.Module):
    """Predict, from one noisy view of an item, what a slowly following copy of the network says of another.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        hidden: dimensions E of the projections, >= 1.
        noise: standard deviation of the noise that makes views, > 0.
        momentum: how much of the teacher stays in a step when training begins (tau_base), in [0, 1).
    """

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Annotated[int, Range(1)] = 32,
        noise: Annotated[float, Above(0)] = 0.1,
        momentum: Annotated[float, Range(0), Below(1)] = 0.99,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Linear(cast(int, backbone.out_dim), hidden)
        self.predictor = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        parts = {"backbone": backbone, "projector": self.projector}
        self.teacher = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()})
        self.noise = noise
        self.momentum = momentum

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...] (equation 2, both ways round); the labels y are not used."""
        one, two = (x + self.noise * torch.randn_like(x) for _ in range(2))
        said = self.predictor(self.projector(self.backbone(torch.cat([one, two]))))
        with torch.no_grad():
            meant = self.teacher["projector"](self.teacher["backbone"](torch.cat([two, one])))
        return 2 - 2 * cosine_similarity(said, meant).mean(), {}

    def follow(self, params: Params, progress: float) -> Params:
        """Return the teacher's tensors after a step: a moving average of the student's, slower and slower."""
        keep = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        teacher = {name: p for name, p in params.items() if name.startswith("teacher.")}
        return {name: params[name.removeprefix("teacher.")].lerp(p, keep) for name, p in teacher.items()}

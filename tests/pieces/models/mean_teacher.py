"""Mean teacher: Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780.

Legend: B items, K classes, ... the shape of one item.
"""

from __future__ import annotations

import copy
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.core.network import Params


class MeanTeacher(nn.Module):
    """Classify, and agree with a slowly following copy of the network that sees other noise.

    Args:
        backbone: maps [B, ...] to [B, D] and says D as `out_dim`.
        classes: K.
        noise: standard deviation of the noise on each of the two copies of an item, > 0.
        momentum: how much of the teacher stays in a step, in [0, 1).
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int,
        noise: Annotated[float, Above(0)] = 0.1,
        momentum: Annotated[float, Range(0), Below(1)] = 0.99,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(cast(int, backbone.out_dim), classes)
        parts = {"backbone": backbone, "head": self.head}
        self.teacher = nn.ModuleDict({name: copy.deepcopy(part) for name, part in parts.items()})
        self.noise = noise
        self.momentum = momentum

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...] with classes y [B]."""
        one, two = (x + self.noise * torch.randn_like(x) for _ in range(2))
        said = self.head(self.backbone(one))
        with torch.no_grad():
            meant = self.teacher["head"](self.teacher["backbone"](two)).softmax(1)
        agreement = mse_loss(said.softmax(1), meant)
        return cross_entropy(said, y) + agreement, {"disagreement": agreement.detach()}

    def follow(self, params: Params, progress: float) -> Params:
        """Return the teacher's tensors after a step: a moving average of the student's."""
        teacher = {name: p for name, p in params.items() if name.startswith("teacher.")}
        return {name: params[name.removeprefix("teacher.")].lerp(p, self.momentum) for name, p in teacher.items()}

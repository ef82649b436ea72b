"""A model one part of which follows another."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metalearn_cli.core.network import Params


class Teacher(nn.Module):
    """Features are to be those of a teacher, on other noise; the teacher is the backbone's moving average.

    Args:
        backbone: the student.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.teacher = copy.deepcopy(backbone)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return mse_loss(self.backbone(x), self.teacher(x + 0.1).detach() + 1), {}

    def follow(self, params: Params, progress: float) -> Params:
        pairs = {name: f"teacher.{name.removeprefix('backbone.')}" for name in params if name.startswith("backbone.")}
        rest = 0.5 * (1 - progress)
        return {theirs: (1 - rest) * params[theirs] + rest * params[own] for own, theirs in pairs.items()}

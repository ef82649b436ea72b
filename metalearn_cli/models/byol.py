"""BYOL: Grill et al. 2020, https://arxiv.org/abs/2006.07733, equations 1 and 2 and section 3.3.

From one random view of an item the network predicts what a teacher computes from another view of it.
The teacher is a moving average of the network itself, so that no other items are needed to compare with.

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
from metalearn_cli.core.items import Items, joined
from metalearn_cli.core.network import Params
from metalearn_cli.core.views import view
from metalearn_cli.models.common.projecting import make_projector

TEACHER = "teacher."


class Byol(nn.Module):
    """Predict a slowly moving teacher's projection of one view from another view, both ways round.

    Args:
        backbone: maps [B, ...] to [B, D]; its `out_dim` is D.
        hidden: width of the hidden layers of projection and prediction, >= 1.
        outputs: E, >= 2.
        momentum: share of the teacher that stays in a step at the start of training (tau_base), in [0, 1); it grows
            to 1 by a cosine.
        strength: of the random views, > 0 and < 1, see `core.views.view`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        hidden: Annotated[int, Range(1)] = 128,
        outputs: Annotated[int, Range(2)] = 64,
        momentum: Annotated[float, Range(0), Below(1)] = 0.95,
        strength: Annotated[float, Above(0), Below(1)] = 0.25,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = make_projector(cast(int, backbone.out_dim), hidden, outputs)
        self.predictor = make_projector(outputs, hidden, outputs)
        parts = nn.ModuleDict({"backbone": backbone, "projector": self.projector})
        self.teacher = copy.deepcopy(parts)
        self.momentum, self.strength = momentum, strength

    def forward(self, x: Items, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x [B, ...], and the spread of the teacher's projections; y is not used.

        The spread is the standard deviation over items of a normalised dimension, times the square root of E: about 1
        where directions vary, and 0 where all items have collapsed into one.
        """
        one, two = view(x, self.strength), view(x, self.strength)
        told = self.predictor(self.projector(self.backbone(joined([one, two]))))
        with torch.no_grad():
            meant = self.teacher["projector"](self.teacher["backbone"](joined([two, one])))
            directions = nn.functional.normalize(meant.float(), dim=1)
            spread = directions.std(0).square().sum().sqrt()
        return 2 * (2 - 2 * cosine_similarity(told, meant).mean()), {"spread": spread}

    def follow(self, params: Params, progress: float) -> Params:
        """Return the teacher's tensors after a step: a moving average of the network's, with buffers."""
        stays = 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        led = {name: p for name, p in params.items() if name.startswith(TEACHER) and p.is_floating_point()}
        return {name: params[name.removeprefix(TEACHER)].lerp(p, stays) for name, p in led.items()}

"""The network between the backbone's features and the loss of models that compare views.

Legend: B items, D features.
"""

from __future__ import annotations

from torch import nn


def make_projector(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """Return a network with one hidden layer from [B, inputs] to [B, outputs].

    The papers have batch normalisation where this has layer normalisation, which has no running statistics to train
    and works for batches of any size.
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs, bias=False)
    )

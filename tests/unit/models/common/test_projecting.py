from __future__ import annotations

import torch
from torch import nn

from metalearn_cli.models.common.projecting import make_projector


def test_it_has_batch_normalisation_in_its_hidden_layer() -> None:
    torch.manual_seed(0)
    projector, x = make_projector(5, 7, 3).double(), 3 + torch.randn(6, 5, dtype=torch.float64)
    norm = nn.BatchNorm1d(7).double().train()
    first, own, _, last = projector
    with torch.no_grad():
        for tensor in (own.weight, own.bias):
            tensor.copy_(torch.randn(7))
        norm.weight.copy_(own.weight)
        norm.bias.copy_(own.bias)
    torch.testing.assert_close(projector(x), last(norm(first(x)).relu()))

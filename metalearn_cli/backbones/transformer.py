"""A transformer for text that is given as ids; without layers it is a bag of embeddings.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

Legend: B items, L tokens, V vocabulary, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from metalearn_cli.backbones.common.attention import Block
from metalearn_cli.backbones.common.items import advice, named
from metalearn_cli.backbones.common.weights import Weights, load_weights
from metalearn_cli.core.check import Range
from metalearn_cli.core.items import Facts

PADDING = 0
HIDDEN_KEY = -1e4  # added to a product, it makes the weight exactly zero, and it is within the range of 16 bits


class Embedding(nn.Module):
    """A vector for each id, and one for each place of a text if places matter.

    Rows of plain parameters: `nn.EmbeddingBag` has no second derivative.
    """

    def __init__(self, vocabulary: int, length: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(vocabulary, hidden) * hidden**-0.5)
        self.places = nn.Parameter(torch.randn(length, hidden) * 0.02) if length else None

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, L, D] of ids x [B, L]."""
        z = embedding(x, self.tokens)  # the gradient of tokens[x] depends on which thread is first
        return z if self.places is None else z + self.places


class Transformer(nn.Module):
    """Embeddings of ids and places, transformer blocks, and the mean over the tokens that are no padding.

    The features of a text without tokens are zeros.

    Args:
        facts: of items that are ids [L].
        hidden: D, a multiple of `heads`, >= 1.
        layers: number of blocks, >= 0; without any, features are the mean of the tokens' embeddings.
        heads: heads of the attention, >= 1.
        weights: file of weights to start from; None for random ones. See `common.weights`.

    Attributes:
        out_dim: D.
        batch_statistics: False: an item's output does not depend on other items.

    Raises:
        ValueError: if items are not ids [L], or the heads do not divide the width.
    """

    batch_statistics = False

    def __init__(
        self,
        facts: Facts,
        hidden: Annotated[int, Range(1)] = 64,
        layers: Annotated[int, Range(0)] = 2,
        heads: Annotated[int, Range(1)] = 4,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        shape, vocabulary = facts.shape, facts.vocabulary
        if facts.values != "ids" or len(shape) != 1 or not isinstance(shape, tuple) or not isinstance(vocabulary, int):
            raise ValueError(f"the items are {named(facts)}, but transformer needs text (ids [L]); {advice(facts)}")
        self.embedding = Embedding(vocabulary, shape[0] if layers else 0, hidden)
        self.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.out_dim = hidden
        load_weights(self, weights)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The embeddings, the transformer blocks, and the last normalisation."""
        return [self.embedding, *self.layers, self.norm]

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, D] of ids x [B, L]."""
        z_BLD = self.embedding(x)
        there_BL = (x != PADDING).to(z_BLD.dtype)
        mask = HIDDEN_KEY * (1 - there_BL)[:, None, None]  # four dimensions: torch's vmap fails with fewer
        for layer in self.layers:
            z_BLD = layer(z_BLD, mask)
        total = (self.norm(z_BLD) * there_BL[..., None]).sum(1)
        mean: Tensor = total / there_BL.sum(1, keepdim=True).clamp(min=1)
        return mean

"""Transformer blocks with the normalisation first.

Sources: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Xiong et al. 2020, https://arxiv.org/abs/2002.04745.
The attention is written out, because torch's fused kernels have no second derivative on a CPU.

Legend: B items, L tokens, D width, H heads, E = D / H.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu


class Block(nn.Module):
    """Attention, then two linear layers with GELU; each is normalised before and added to its input.

    Args:
        hidden: D, a multiple of `heads`.
        heads: H.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"heads {heads} must divide hidden {hidden}")
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.fc1, self.fc2 = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return [B, L, D] from x [B, L, D].

        Args:
            x: tokens.
            mask: what is added to the products of queries and keys, [B, 1, 1, L]; a large negative number hides a key.
        """
        x = x + self._attended(self.norm1(x), mask)
        return x + self.fc2(gelu(self.fc1(self.norm2(x))))

    def _attended(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q_BHLE, k_BHLE, v_BHLE = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        products = q_BHLE * q_BHLE.shape[-1] ** -0.5 @ k_BHLE.mT
        products = products if mask is None else products + mask
        y_BHLE = products.softmax(-1) @ v_BHLE
        mixed: Tensor = self.proj(y_BHLE.transpose(1, 2).flatten(2))
        return mixed

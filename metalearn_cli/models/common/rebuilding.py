"""Reconstruction of items of any kind: which decoder makes them, and how far what it made is from them.

Of a text the bag of its tokens is reconstructed: how often each occurs, in any order.

Legend: B items, L tokens, V vocabulary, Z dimensions of the vector, ... the shape of one item.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from metalearn_cli.models.common.decoders import Decoder, make_decoder


def make_rebuilder(
    inputs: int, shape: tuple[int, ...], value_range: str, vocabulary: int, hidden: int, decoder: Decoder = "auto"
) -> nn.Module:
    """Return a network from [B, Z] to what `losses` compares with items.

    Args:
        inputs: Z.
        shape: of one item.
        value_range: "unit", "real" or "ids".
        vocabulary: V, the number of ids.
        hidden: see `make_decoder`.
        decoder: see `make_decoder`.

    Raises:
        ValueError: see `make_decoder`.
    """
    made = (vocabulary - 1,) if value_range == "ids" else shape  # padding is never made
    return make_decoder(inputs, made, hidden, decoder)


def losses(rebuilt: Tensor, x: Tensor, value_range: str, counted: Tensor | None = None) -> Tensor:
    """Return the mean loss [B] of the values of each item, or of the tokens of each text.

    Args:
        rebuilt: [B, ...], unbounded: logits for "unit", numbers for "real"; the logits [B, V - 1] of tokens for "ids".
        x: the items [B, ...].
        value_range: "unit" (cross-entropy), "real" (squared error) or "ids" (cross-entropy with the frequencies of an
            item's tokens; id 0 is padding and is left out).
        counted: which values count, 0 or 1, in a shape that expands to that of x; None for all. An item of which none
            counts has the loss 0.
    """
    if value_range == "ids":
        every = -rebuilt.log_softmax(1).gather(1, (x - 1).clamp(min=0))
        counted = (x > 0) if counted is None else (x > 0) & (counted > 0)
    elif value_range == "unit":
        every = binary_cross_entropy_with_logits(rebuilt, x, reduction="none")
    else:
        every = mse_loss(rebuilt, x, reduction="none")
    if counted is None:
        return every.flatten(1).mean(1)
    weight = counted.expand_as(every).to(every.dtype)
    return (every * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


def error(rebuilt: Tensor, x: Tensor, value_range: str) -> dict[str, Tensor]:
    """Return the reported error [] of what was rebuilt by its name: mean squared error, or a text's perplexity."""
    with torch.no_grad():
        if value_range == "ids":
            return {"perplexity": losses(rebuilt, x, value_range).mean().exp()}
        return {"mse": mse_loss(rebuilt.sigmoid() if value_range == "unit" else rebuilt, x)}

"""Linear probing: what a representation is worth as it is.

Source: Alain & Bengio 2017, https://arxiv.org/abs/1610.01644.
"""

from __future__ import annotations

from collections.abc import Sequence


class LinearProbe:
    """Train a new linear classifier on the frozen backbone."""

    def rates(self, blocks: Sequence[Sequence[str]], head: Sequence[str]) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the classifier's tensors; all others stay as they are."""
        return dict.fromkeys(head, 1.0)

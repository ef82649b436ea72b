"""Linear probing: the quality of a representation without further training.

Source: Alain & Bengio 2017, https://arxiv.org/abs/1610.01644.
"""

from __future__ import annotations

from metalearn_cli.core.network import Network


class LinearProbe:
    """Train a new linear classifier on the frozen backbone."""

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the classifier's tensors; all others do not change."""
        return dict.fromkeys(net.head_names, 1.0)

"""Linear probing: Alain & Bengio 2017, https://arxiv.org/abs/1610.01644.

How well a linear classifier does on the features of a frozen backbone shows how good they are. So nothing but the
classifier is trained, and the features are handed on as they came.
"""

from __future__ import annotations

from metalearn_cli.core.network import Network


class LinearProbe:
    """Train a new linear classifier on the frozen backbone."""

    keeps_start = True

    def rates(self, net: Network) -> dict[str, float]:
        """Return learning-rate multiplier 1 for the classifier's tensors; all others do not change."""
        return dict.fromkeys(net.head_names, 1.0)

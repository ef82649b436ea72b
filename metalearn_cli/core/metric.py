"""Metrics: name, unit, and whether higher is better. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A quantity that is reported.

    Attributes:
        name: as in metrics.jsonl, without the split ("accuracy").
        unit: "share" (in [0, 1], reported in percent) or "" for a plain number.
        higher_is_better: whether a higher value is better.
    """

    name: str
    unit: str
    higher_is_better: bool


ACCURACY = Metric("accuracy", "share", higher_is_better=True)
LABEL_ACCURACY = Metric("label_accuracy", "share", higher_is_better=True)
MSE = Metric("mse", "", higher_is_better=False)
NEIGHBOURS_ACCURACY = Metric("neighbours_accuracy", "share", higher_is_better=True)
LINEAR_ACCURACY = Metric("linear_accuracy", "share", higher_is_better=True)
PERPLEXITY = Metric("perplexity", "", higher_is_better=False)
FRECHET_OURS = Metric("frechet_ours", "", higher_is_better=False)
"""Not FID, which compares features of one certain network, Inception v3."""

SAME_CLASSES = "items of the same"
"""How the protocol of data begins whose test classes are those of training: ordinary classification."""

_ALL = (ACCURACY, LABEL_ACCURACY, NEIGHBOURS_ACCURACY, LINEAR_ACCURACY, MSE, PERPLEXITY, FRECHET_OURS)
_KNOWN = {metric.name: metric for metric in _ALL}


def metric_named(name: str) -> Metric:
    """Return the metric that a record calls "accuracy" or "val/accuracy"; an unknown one is a plain number."""
    own = name.rpartition("/")[2]
    return _KNOWN.get(own, Metric(own, "", higher_is_better=False))

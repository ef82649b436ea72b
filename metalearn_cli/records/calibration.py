"""How far a classifier's confidence is its accuracy, and the temperature that brings them together.

Logits are divided by the temperature before the softmax: no answer changes, only how sure it is.

Source: Guo, Pleiss, Sun & Weinberger 2017, https://arxiv.org/abs/1706.04599, sections 2 and 4.2.

Legend: E episodes, Q queries of an episode, N queries of all episodes, W classes of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

BINS = 15
"""Bins of equal width for confidences."""

_RANGE = 1e4  # the temperature is sought between 1 / _RANGE and _RANGE times the size of the logits
_HALVINGS = 50  # of that range, on a scale of logarithms: to a relative 1e-14


class Calibration(NamedTuple):
    """How well a classifier is calibrated.

    Attributes:
        ece: expected calibration error in [0, 1]: mean distance of confidence and accuracy, over bins by their queries.
        nll: mean negative log-likelihood of the right class.
        share: [BINS] of the queries in each bin of confidence.
        confidence: [BINS], its mean in each bin; NaN without queries.
        accuracy: [BINS], likewise.
    """

    ece: float
    nll: float
    share: list[float]
    confidence: list[float]
    accuracy: list[float]


def temperature_of(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> float | None:
    """Return the temperature with the largest likelihood of the right classes.

    The likelihood is concave in 1 / temperature, so its only maximum is where the slope is 0: bisection.

    Args:
        logits: [Q, W], E of them.
        targets: classes [Q], E of them.

    Returns:
        None if there is no maximum: if all answers are right, the smaller the temperature the better; if they are no
        better than chance, the larger the better.
    """
    rows_NW, y_N = _joined(logits, targets)
    absent_NW = rows_NW.isinf()
    size = rows_NW.masked_fill(absent_NW, 0.0).abs().mean().item()

    def slope(temperature: float) -> float:
        """Return the derivative of the mean log-likelihood by 1 / temperature."""
        expected_NW = (rows_NW / temperature).softmax(-1) * rows_NW.masked_fill(absent_NW, 0.0)
        return (rows_NW.gather(1, y_N[:, None])[:, 0] - expected_NW.sum(1)).mean().item()

    low, high = (float(np.log(size * factor)) if size else 0.0 for factor in (1 / _RANGE, _RANGE))
    if not slope(np.exp(low)) < 0 < slope(np.exp(high)):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def calibration_of(logits: Sequence[Tensor], targets: Sequence[Tensor], temperature: float = 1.0) -> Calibration:
    """Return how well logits that are divided by a temperature are calibrated; see `temperature_of`."""
    rows_NW, y_N = _joined(logits, targets)
    scaled_NW = rows_NW / temperature
    sure_N, answer_N = scaled_NW.softmax(-1).max(-1)
    # bins are open below and closed above, as in the paper
    bin_N = ((sure_N * BINS).ceil().long() - 1).clamp(0, BINS - 1).numpy()
    count, sure, right = (
        np.bincount(bin_N, weights, BINS) for weights in (None, sure_N.numpy(), (answer_N == y_N).numpy())
    )
    with np.errstate(invalid="ignore"):
        confidence, accuracy = sure / count, right / count
    ece = float(np.abs(sure - right).sum() / len(y_N))
    share = (count / len(y_N)).tolist()
    return Calibration(ece, cross_entropy(scaled_NW, y_N).item(), share, confidence.tolist(), accuracy.tolist())


def _joined(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the logits of all queries [N, W], the largest of each 0, and their classes [N].

    Where an episode has fewer classes than others, the missing ones are impossible: minus infinity.
    """
    most = max(own.shape[1] for own in logits)
    wide = [torch.nn.functional.pad(own.double(), (0, most - own.shape[1]), value=-torch.inf) for own in logits]
    rows_NW = torch.cat(wide)
    return rows_NW - rows_NW.amax(1, keepdim=True), torch.cat(tuple(targets))

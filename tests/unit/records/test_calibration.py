"""Calibration: against the definitions in loops, and a temperature that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from metalearn_cli.records.calibration import BINS, calibration_of, temperature_of


@pytest.fixture
def sure() -> tuple[list[Tensor], list[Tensor]]:
    """Return logits of episodes, and classes that were drawn by the softmax of a third of them."""
    of_seed = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(15, way, generator=of_seed) for way in (3, 5) * 100]
    return logits, [(own / 3).softmax(-1).multinomial(1, generator=of_seed)[:, 0] for own in logits]


def test_the_temperature_is_the_most_likely_one(sure):
    logits, targets = sure

    def loss(temperature: float) -> float:
        pairs = zip(logits, targets, strict=True)
        return sum(cross_entropy(own.double() / temperature, y, reduction="sum").item() for own, y in pairs)

    found = temperature_of(logits, targets)
    assert found == pytest.approx(3, rel=0.1)
    assert loss(found) < min(loss(0.999 * found), loss(1.001 * found))
    assert temperature_of([1000 * own for own in logits], targets) == pytest.approx(1000 * found)


def test_no_temperature_is_the_most_likely_one(sure):
    logits, _ = sure
    assert temperature_of(logits, [own.argmax(-1) for own in logits]) is None
    assert temperature_of(logits, [own.argmin(-1) for own in logits]) is None
    assert temperature_of([torch.zeros(4, 2)], [torch.tensor([0, 1, 0, 1])]) is None


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.medium
def test_calibration_is_that_of_its_definition(sure, temperature):
    logits, targets = sure
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for own, y in zip(logits, targets, strict=True):
        for row, label in zip((own.double() / temperature).softmax(-1), y, strict=True):
            place = next(k for k in range(BINS) if row.max() <= (k + 1) / BINS)
            bins[place].append((row.max().item(), bool(row.argmax() == label)))
    found = calibration_of(logits, targets, temperature)
    number = sum(map(len, bins))
    gaps = [len(b) * abs(sum(sure - right for sure, right in b) / len(b)) for b in bins if b]
    assert found.ece == pytest.approx(sum(gaps) / number)
    assert found.share == pytest.approx([len(b) / number for b in bins])
    accuracy = [sum(right for _, right in b) / len(b) if b else math.nan for b in bins]
    assert found.accuracy == pytest.approx(accuracy, nan_ok=True)
    losses = torch.cat(
        [cross_entropy(z.double() / temperature, y, reduction="none") for z, y in zip(logits, targets, strict=True)]
    )
    assert found.nll == pytest.approx(losses.mean().item())
    assert calibration_of(logits, targets, 3.0).ece < found.ece / 3 or temperature == 3.0

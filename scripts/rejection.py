"""How well a learner knows what it does not know: the table of docs/deploy.md, for the checkpoint of one run.

    python scripts/rejection.py RUN [--statistics train] [--episodes 200]

RUN is the folder of a run. Threshold and temperature are from 100 validation episodes (5 classes, and 5 further ones
whose items are unknown); then they are tried on test episodes of the same kind. Shifted queries are pictures of half
the contrast around gray, or texts that are said three times; their examples are as they were. Nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.items import Facts
from metalearn_cli.core.stages import TABLE
from metalearn_cli.data.common.spelling import PADDING
from metalearn_cli.deploy.calibrating import QUERY, calibrated
from metalearn_cli.deploy.enrolled import answered, distances, embedded, enrol
from metalearn_cli.deploy.looks import looks_of, unlike
from metalearn_cli.deploy.trained import data_of, learner_of, of_checkpoint
from metalearn_cli.records.calibration import calibration_of
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.runs import find_checkpoint

WAY, VALIDATION = 5, 100
SHOTS = (1, 5)


class Row(NamedTuple):
    """Shares of items: within the threshold, right, or named in a warning; and calibration errors."""

    shot: int
    known: float
    unknown_val: float
    unknown: float
    before: float
    after: float
    right: float
    warned: float
    right_shifted: float
    warned_shifted: float


def looks(x: Tensor, facts: Facts) -> Any:
    """Return what warnings look at; of texts the number of tokens, in place of the letters that items do not show."""
    found = looks_of(x.numpy(), facts.kind, facts.values)
    return (x != PADDING).sum(1, keepdim=True).float().numpy() if found is None else found


def shifted(x: Tensor, facts: Facts) -> Tensor:
    """Return pictures of half the contrast, or texts said three times, cut to the length of an item."""
    if facts.kind == "image":
        return 0.5 * x + 0.25
    thrice = torch.zeros_like(x)
    for own, ids in zip(thrice, x, strict=True):
        said = ids[ids != PADDING].repeat(3)[: len(ids)]
        own[: len(said)] = said
    return thrice


def warned(examples: Tensor, x: Tensor, facts: Facts) -> Tensor:
    """Return which items [N] are named in a warning: 1 or 0."""
    seen = looks(examples, facts)
    return torch.tensor([float(bool(unlike(facts.kind, seen, looks(one[None], facts), [""]))) for one in x])


def measured(run: str, statistics: str, shot: int, episodes: int) -> Row:
    """Return the row of a number of examples of each class."""
    checkpoint = open_checkpoint(find_checkpoint(run, "runs", TABLE["evaluate"].accepts, "RUN"))
    trained, data = of_checkpoint(checkpoint, statistics), data_of(checkpoint)  # type: ignore[arg-type]
    facts = trained.facts
    found = calibrated(trained, data, WAY, shot, VALIDATION, 0.95)
    assert found.threshold is not None and found.let_through is not None
    sampler = data.episodes("test", way=2 * WAY, shot=shot, query=QUERY, seed=0)
    learner, backbone = learner_of(trained, WAY)
    known, unknown, logits, targets = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    right, plain, right_shifted, moved = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for step in range(episodes):
        one = sampler.batch(step, 1).map(itemgetter(0))
        own, among = one.support_y < WAY, one.query_y < WAY
        x, queries, y = one.support_x[own], one.query_x[among], one.query_y[among]
        enrolled = enrol(learner, backbone, x, one.support_y[own], trained.statistics)
        far = distances(enrolled, embedded(learner, enrolled.encoder, one.query_x)) <= found.threshold
        known.append(far[among].float())
        unknown.append(far[~among].float())
        logits.append(answered(enrolled, embedded(learner, enrolled.encoder, queries)))
        targets.append(y)
        right.append((logits[-1].argmax(1) == y).float())
        plain.append(warned(x, queries, facts))
        other = shifted(queries, facts)
        answers = answered(enrolled, embedded(learner, enrolled.encoder, other)).argmax(1)
        right_shifted.append((answers == y).float())
        moved.append(warned(x, other, facts))
    before, after = (calibration_of(logits, targets, t).ece for t in (1.0, found.temperature))
    shares = [float(torch.cat(part).mean()) for part in (known, unknown, right, plain, right_shifted, moved)]
    return Row(shot, shares[0], found.let_through, shares[1], before, after, *shares[2:])


HEAD = (
    "examples of each class",
    "known items within, test",
    "unknown items within, validation",
    "unknown items within, test",
    "ECE before, after",
    "accuracy, warned of",
    "shifted: accuracy, warned of",
)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in rows:
        shot, known, val, unknown, before, after, right, plain, other, moved = row
        told = [f"{known:.1%}", f"{val:.0%}", f"{unknown:.0%}", f"{before:.1%}, {after:.1%}"]
        told += [f"{right:.1%}, {plain:.0%}", f"{other:.1%}, {moved:.0%}"]
        lines.append(f"| {shot} | " + " | ".join(told).replace("%", " %") + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--statistics", default="support")
    parser.add_argument("--episodes", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(table([measured(asked.run, asked.statistics, shot, asked.episodes) for shot in SHOTS]))

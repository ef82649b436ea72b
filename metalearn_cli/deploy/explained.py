"""Why a learner answers as it does: which parts of an item, and which examples, speak for the answer.

Explained is the logarithm of the probability of the answer, by the network with fixed statistics.

Legend: N items, M parts, C channels, H height, W width, L ids, S support items, ... the shape of one item.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.data.common.spelling import PADDING, tokens_of
from metalearn_cli.data.common.tables import places_of
from metalearn_cli.data.common.waves import mel_edges
from metalearn_cli.deploy.attributions import (
    MOST,
    NETWORKS,
    STEPS,
    Score,
    alike,
    gradients,
    occlusion,
    shuffled,
)
from metalearn_cli.deploy.deployed import Deployed, left_out, predicted
from metalearn_cli.deploy.enrolled import AT_ONCE, Enrolled, answered, embedded, embedding, logits_of
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.windows import spread, windows
from metalearn_cli.records.plots import attribution_bars, attribution_map
from metalearn_cli.records.runs import read_json, write_json

Method = Literal["gradients", "occlusion"]
"""How the parts of an item are weighed."""

NUMBERS = "explanations.json"
INKED = 0.05  # of 1: pixels that differ more from the background are compared
LETTERS = 40  # most letters of a file's name in the name of its picture


class _Parts(NamedTuple):
    """The parts of an item, as masks [M, ...]; those of a picture are windows [M, 1, H, W], and names is None."""

    names: tuple[str, ...] | None
    masks: Tensor


def explained(learner: Deployed, queries: Inputs, method: Method | None = None) -> list[dict[str, Any]]:
    """Return for each item why it gets its answer.

    Args:
        learner: the learner with its examples.
        queries: the items.
        method: None for gradients of pictures and recordings, and occlusion of the parts of texts and rows.

    Returns:
        for each item its `file`, `class` and `probability`; the `method`; `values`, what each pixel [H, W] adds to the
        logarithm of the probability, or `parts`, each `part` with its `value`; `sum` of the values, and `difference` of
        the logarithms for the item and for the background; `sanity`, the mean correlation with the values of networks
        with shuffled weights, None where there is none; and `examples`, see `_influences`.

    Raises:
        UserError: if such items have no explanation.
    """
    facts = learner.trained.facts
    mapped = facts.kind in ("image", "audio")
    if mapped and len(facts.shape) != 3:
        told = "recordings as samples (data.features=raw) have no map"
        raise UserError(f"{told}; train a learner on spectrograms: data.features=logmel")
    chosen: Method = method or ("gradients" if mapped else "occlusion")
    if chosen == "gradients" and not mapped:
        raise UserError("method=gradients is for pictures and recordings; type method=occlusion")
    networks = [
        learner.enrolled,
        *(shuffled(learner.enrolled, queries.items[:AT_ONCE], seed) for seed in range(NETWORKS)),
    ]
    answers = predicted(learner, queries)
    classes = [learner.classes.index(answer["class"]) for answer in answers]
    examples = _influences(learner, queries.items, classes)
    return [
        {
            **{key: answer[key] for key in ("file", "class", "probability")},
            "method": chosen,
            **_explanation(learner, [_score(learner, network, k) for network in networks], x, chosen),
            "examples": strongest,
        }
        for answer, k, x, strongest in zip(answers, classes, queries.items, examples, strict=True)
    ]


def write(folder: Path, learner: Deployed, queries: Inputs, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write explanations into a folder: a picture of each item, and all numbers in `NUMBERS`.

    Args:
        folder: is made if it is not there.
        learner: the learner.
        queries: the items.
        found: what `explained` has returned for them.

    Returns:
        the files of the pictures.
    """
    known, files = learner.trained.preprocessing, list[str]()
    _remove_old(folder)
    for number, (x, one) in enumerate(zip(queries.items, found, strict=True), start=1):
        stem = re.sub(r"[^\w.-]+", "-", PurePath(one["file"]).stem)[:LETTERS].strip("-.")
        path = folder / f"{number:03d}-{stem or 'item'}.png"
        sanity = "" if one["sanity"] is None else f"; correlation with shuffled networks {one['sanity']:.2f}"
        title = f"{one['class']}, probability {100 * one['probability']:.0f} %{sanity}"
        if "parts" in one:
            attribution_bars([(own["part"], own["value"]) for own in one["parts"]], title, path)
        else:
            bands = mel_edges(known["mels"], known["rate"])[1:-1].tolist() if "mels" in known else []
            dark = "polarity" in known
            attribution_map(x, torch.tensor(one["values"]), title, path, dark, known.get("seconds", 0.0), bands)
        files.append(str(path))
    rows = [{**one, "picture": file} for one, file in zip(found, files, strict=True)]
    write_json(folder / NUMBERS, {"classes": dict(learner.support.sizes), "explanations": rows})
    return files


def _remove_old(folder: Path) -> None:
    """Remove the pictures of explanations that were written into a folder before, as `NUMBERS` names them."""
    with suppress(OSError, UserError, KeyError, TypeError):
        for old in read_json(folder / NUMBERS)["explanations"]:
            if re.fullmatch(r"\d{3,}-.*\.png", name := Path(old["picture"]).name):
                (folder / name).unlink(missing_ok=True)


def _explanation(learner: Deployed, scores: Sequence[Score], x: Tensor, method: Method) -> dict[str, Any]:
    """Return `values` or `parts`, `sum`, `difference` and `sanity` of an item, see `explained`.

    Args:
        learner: the learner.
        scores: of its network, and of those with shuffled weights.
        x: the item.
        method: how its parts are weighed.
    """
    background, parts = _background(learner, x), _parts(learner, x)
    own = _weighed(scores[0], x, background, parts, method)
    others = [_weighed(score, x, background, parts, method, STEPS) for score in scores[1:]]  # only to compare with
    there = (x - background).abs().amax(0) > INKED if parts.names is None else torch.ones_like(own, dtype=torch.bool)
    correlations = [r for other in others if (r := alike(own[there], other[there])) is not None]
    of_item, of_background = scores[0](torch.stack([x, background])).tolist()
    values: Any = own.tolist()
    if parts.names is not None:
        values = [{"part": name, "value": value} for name, value in zip(parts.names, values, strict=True)]
    return {
        "values" if parts.names is None else "parts": values,
        "sum": float(own.sum()),
        "difference": of_item - of_background,
        "sanity": fmean(correlations) if correlations else None,
    }


def _weighed(score: Score, x: Tensor, background: Tensor, parts: _Parts, method: Method, most: int = MOST) -> Tensor:
    """Return what each part [M], or each pixel [H, W], adds to the score of an item; `most`: see `gradients`."""
    if method == "gradients":
        return gradients(score, x, background, most).sum(0)
    values = occlusion(score, x, background, parts.masks)
    return spread(values, parts.masks[:, 0]) if parts.names is None else values


def _score(learner: Deployed, enrolled: Enrolled, k: int) -> Score:
    """Return the function from items to the logarithms of the probability of class k."""
    temperature = learner.calibration.temperature if learner.calibration else 1.0

    def score(x: Tensor) -> Tensor:
        z = embedding(enrolled.learner, enrolled.encoder)(x)
        return (logits_of(enrolled, z).double() / temperature).log_softmax(1)[:, k]  # of 1 - 1e-9, too

    return score


def _background(learner: Deployed, x: Tensor) -> Tensor:
    """Return an item that shows nothing: paper, silence, padding, a mean row; of a photograph its mean colour."""
    if learner.trained.facts.kind == "image" and "polarity" not in learner.trained.preprocessing:
        return x.mean((1, 2), keepdim=True).expand_as(x)
    return torch.zeros_like(x)


def _parts(learner: Deployed, x: Tensor) -> _Parts:
    """Return the parts of an item: windows, tokens or columns."""
    kind, known = learner.trained.facts.kind, learner.trained.preprocessing
    if kind in ("image", "audio"):
        return _Parts(None, torch.from_numpy(windows(*x.shape[1:]))[:, None])
    if kind == "text":
        masks = torch.eye(len(x), dtype=torch.bool)[x != PADDING]
        return _Parts(tuple(tokens_of(x[x != PADDING].tolist(), known, learner.trained.tokenizer)), masks)
    columns = places_of(known["columns"])
    masks = torch.zeros(len(columns), len(x), dtype=torch.bool)
    for mask, own in zip(masks, columns.values(), strict=True):
        mask[own] = True
    return _Parts(tuple(columns), masks)


def _influences(learner: Deployed, x: Tensor, classes: Sequence[int]) -> list[list[dict[str, Any]]]:
    """Return by how much each example raises the logarithm of the probability of the answers.

    Args:
        learner: the learner.
        x: items [N, ...].
        classes: the numbers of their answers [N].

    Returns:
        for each item each `example`, its `class` and its `influence`, the strongest first; without the only example of
        a class, and nothing for a learner that would have to adapt the network for each.
    """
    if learner.enrolled.learner.algorithm.traits.sees == "items":
        return [[] for _ in classes]
    temperature = learner.calibration.temperature if learner.calibration else 1.0
    z, answers = embedded(learner.enrolled.learner, learner.enrolled.encoder, x), torch.tensor(classes)[:, None]

    def logarithms(enrolled: Enrolled) -> Tensor:
        return (answered(enrolled, z).double() / temperature).log_softmax(1).gather(1, answers)[:, 0]

    whole, support = logarithms(learner.enrolled), learner.support
    lost = {i: (whole - logarithms(without)).tolist() for i, without in left_out(learner)}
    rows = [
        [{"example": support.names[i], "class": support.labels[i], "influence": own[n]} for i, own in lost.items()]
        for n in range(len(classes))
    ]
    return [sorted(row, key=lambda one: -one["influence"]) for row in rows]

"""A trained learner with a support set of files: its answers for other files, and further classes.

Legend: S support items, W classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts, Items, size
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.deploy.calibrating import Calibration, calibrated
from metalearn_cli.deploy.enrolled import (
    AT_ONCE,
    Answers,
    Enrolled,
    answered,
    answers,
    answers_of,
    embedded,
    enrol,
    learnt,
    needs_items,
    some,
)
from metalearn_cli.deploy.exporting import outputs_of, session_of
from metalearn_cli.deploy.folding import folded
from metalearn_cli.deploy.inputs import ENDINGS, Inputs, Reader, check_class
from metalearn_cli.deploy.looks import looks_of, unlike
from metalearn_cli.deploy.trained import Statistics, Trained, data_of, learner_of, of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.runs import find_checkpoint


class Support(NamedTuple):
    """The examples of the classes, class by class.

    Attributes:
        names: where each was found.
        labels: the class of each.
        x: the items [S, ...], or their embeddings where the learner needs no more to learn a further class.
        embedded: whether they are embeddings.
        looks: see `looks`; None of items that have none, and of pictures before `deployed` has computed them.
        pictures: of embedded pictures, as bytes [S, ...], to show them; None of others.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    x: Tensor
    embedded: bool = False
    looks: Tensor | None = None
    pictures: Tensor | None = None

    @property
    def sizes(self) -> Counter[str]:
        """The number of examples of each class, sorted by class."""
        return Counter(sorted(self.labels))

    def of(self, numbers: Sequence[int]) -> Support:
        """Return the examples of these numbers."""
        names, labels = (tuple(values[i] for i in numbers) for values in (self.names, self.labels))
        looks, pictures = (None if own is None else own[numbers] for own in (self.looks, self.pictures))
        return Support(names, labels, self.x[numbers], self.embedded, looks, pictures)

    def joined(self, other: Support) -> Support:
        """Return these examples and those of another class, class by class."""
        labels = (*self.labels, *other.labels)
        seen = ((self.looks, other.looks), (self.pictures, other.pictures))
        looks, pictures = (None if a is None or b is None else torch.cat([a, b]) for a, b in seen)
        names, x = (*self.names, *other.names), torch.cat([self.x, other.x])
        every = Support(names, labels, x, self.embedded, looks, pictures)
        return every.of(sorted(range(len(labels)), key=lambda i: labels[i]))


class Deployed(NamedTuple):
    """A learner that has learnt the classes of files.

    Attributes:
        trained: what was trained.
        support: the examples.
        classes: the names [W] of the classes, sorted.
        enrolled: what was learnt.
        calibration: what validation episodes have shown; None without them.
        integers: the graph in 8-bit integers that answers in place of torch; None if torch does.
    """

    trained: Trained
    support: Support
    classes: tuple[str, ...]
    enrolled: Enrolled
    calibration: Calibration | None = None
    integers: bytes | None = None

    def check_floats(self, what: str) -> None:
        """Check that it computes in floats, which something needs.

        Raises:
            UserError: if not.
        """
        if self.integers is not None:
            told = "this artefact computes in integers (quantize=int8), which are fitted to the network of its examples"
            raise UserError(f"{told}; {what}")


def reader_of(trained: Trained, column: Mapping[str, str]) -> Reader:
    """Return how the files of a learner become items; `column` names columns of tables, by role."""
    return Reader(trained.facts, trained.preprocessing, trained.tokenizer, column)


def named(ckpt: str, runs_dir: str, statistics: Statistics) -> Trained:
    """Return what the checkpoint of a name has trained.

    Raises:
        UserError: if there is none, or it cannot be used.
    """
    folder = find_checkpoint(expanded(ckpt), runs_dir, TABLE["evaluate"].accepts, "ckpt")
    return of_checkpoint(open_checkpoint(folder), statistics)


def deployed(trained: Trained, support: Support, calibration: Calibration | None = None) -> Deployed:
    """Have a learner learn the classes of some examples.

    Args:
        trained: the learner.
        support: the examples.
        calibration: see `Deployed`.

    Raises:
        UserError: if it cannot.
    """
    classes = tuple(support.sizes)
    y = torch.tensor([classes.index(label) for label in support.labels])
    learner, backbone = learner_of(trained, len(classes))
    if support.embedded:
        found = learnt(learner, folded(backbone, trained.statistics), support.x, y)
    else:
        support = support._replace(looks=_looks(support.looks, support.x, trained.facts))
        found = enrol(learner, backbone, support.x, y, trained.statistics)
        if not needs_items(learner, trained.statistics):
            pictures = _pictures(support.x, trained.facts)
            support = support._replace(x=found.embedded, embedded=True, pictures=pictures)
    return Deployed(trained, support, classes, found, calibration)


def with_calibration(learner: Deployed, episodes: int, keep: float) -> Deployed:
    """Return a learner that was calibrated on validation episodes with as many classes and examples.

    Raises:
        UserError: if its data are gone, or have no such episodes.
    """
    data = data_of(open_checkpoint(Path(learner.trained.source["checkpoint"])))
    way, shot = len(learner.classes), int(median(learner.support.sizes.values()))
    return learner._replace(calibration=calibrated(learner.trained, data, way, shot, episodes, keep))


def predicted(learner: Deployed, queries: Inputs) -> list[dict[str, Any]]:
    """Return the answer for each item.

    Returns:
        a dict with `file`, `class`, its `probability` and the `probabilities` of all classes; `distance` to the nearest
        centre of a class, where items are embedded; `nearest`, the support item that is nearest there; and `unknown`,
        whether the distance says that it is of no class, None if that was not calibrated.
    """
    calibration = learner.calibration
    threshold = calibration.threshold if calibration else None
    found = _answers(learner, queries.items, calibration.temperature if calibration else 1.0)
    rows = zip(queries.names, found.probabilities, found.distances, found.nearest, strict=True)
    return [
        {
            "file": name,
            "class": learner.classes[int(p.argmax())],
            "probability": float(p.max()),
            "probabilities": dict(zip(learner.classes, p.tolist(), strict=True)),
            "distance": float(distance),
            "nearest": learner.support.names[int(nearest)],
            "unknown": None if threshold is None else float(distance) > threshold,
        }
        for name, p, distance, nearest in rows
    ]


def _answers(learner: Deployed, x: Items, temperature: float) -> Answers:
    """Return the answers to items, by torch or by the graph that was exported."""
    if learner.integers is None:
        return answers(learner.enrolled, x, temperature)
    session = session_of(learner.integers)
    parts = [outputs_of(session, some(x, first)) for first in range(0, size(x), AT_ONCE)]
    z, logits = map(torch.cat, zip(*parts, strict=True))
    return answers_of(learner.enrolled, z, logits, temperature)


def suspects(learner: Deployed) -> list[dict[str, Any]]:
    """Return the examples that the learner takes for another class when it learns from all the others.

    Returns:
        for each the `example`, its `class`, the `answer`, and the `margin` of their logits; the largest margin first.

    Raises:
        UserError: if the learner adapts the network, so that it would have to do so for each example.
    """
    enrolled, support = learner.enrolled, learner.support
    if enrolled.learner.algorithm.traits.sees == "items":
        name = type(enrolled.learner.algorithm).__name__
        raise UserError(f"audit=true is for learners that compare what the network gives; {name} adapts the network")
    found = []
    for i, without in left_out(learner):
        own = learner.classes.index(support.labels[i])
        logits = answered(without, enrolled.embedded[i : i + 1])[0]
        answer = int(logits.argmax())
        if answer != own:
            facts = {"example": support.names[i], "class": learner.classes[own], "answer": learner.classes[answer]}
            found.append({**facts, "margin": float(logits[answer] - logits[own])})
    return sorted(found, key=lambda one: -one["margin"])


def left_out(learner: Deployed) -> Iterator[tuple[int, Enrolled]]:
    """Yield the number of each example, and what is learnt from all the others; not the only example of a class.

    Args:
        learner: a learner that compares what the network gives.
    """
    enrolled = learner.enrolled
    z, y = enrolled.embedded, torch.tensor([learner.classes.index(label) for label in learner.support.labels])
    for i, own in enumerate(y.tolist()):
        others = torch.arange(len(y)) != i
        if own in y[others]:
            yield i, learnt(enrolled.learner, enrolled.encoder, z[others], y[others])


def warnings_of(learner: Deployed, queries: Inputs) -> list[str]:
    """Return in which ways some items are unlike the examples, each with their names."""
    facts = learner.trained.facts
    looks = _looks(queries.looks, queries.items, facts)
    if looks is None or learner.support.looks is None:
        return []
    return unlike(facts.kind, learner.support.looks.numpy(), looks.numpy(), queries.names)


def _looks(given: Tensor | None, x: Tensor, facts: Facts) -> Tensor | None:
    found = looks_of(x.numpy(), facts.kind, facts.values) if given is None else None
    return given if found is None else torch.from_numpy(found)


def _pictures(x: Tensor, facts: Facts) -> Tensor | None:
    """Return pictures as bytes; None of other items."""
    return (x * ONE).round().byte() if facts.kind == "image" and facts.values == "unit" else None


def with_class(learner: Deployed, name: str, examples: Inputs) -> Deployed:
    """Return a learner that knows one more class; nothing is trained.

    Args:
        learner: the learner.
        name: of the class.
        examples: items of it.

    Raises:
        UserError: if the name cannot be used, if it knows the class, or can have no further one.
    """
    check_class(name)
    if name in learner.classes:
        own = counted(learner.support.sizes[name], "example")
        raise UserError(f"the class {name} exists, with {own}; take another name")
    return with_examples(learner, examples._replace(labels=(name,) * len(examples.names)))


def with_examples(learner: Deployed, examples: Inputs) -> Deployed:
    """Return a learner that has more examples, of classes that it knows or of others; nothing is trained.

    Raises:
        UserError: if it can have no further class.
    """
    x, names, labels, trained = examples.items, examples.names, examples.labels, learner.trained
    looks, pictures = _looks(examples.looks, x, trained.facts), None
    if learner.support.embedded:
        pictures = _pictures(x, trained.facts)
        x = embedded(learner.enrolled.learner, learner.enrolled.encoder, x)
    if trained.facts.kind in ENDINGS:  # as in a folder of the class
        names = tuple(f"{label}/{PurePath(file).name}" for label, file in zip(labels, names, strict=True))
    own = Support(names, labels, x, learner.support.embedded, looks, pictures)
    return deployed(trained, learner.support.joined(own), learner.calibration)


def without_class(learner: Deployed, name: str) -> Deployed:
    """Return a learner that does not know a class any more.

    Raises:
        UserError: if it does not know it, or if fewer than two classes would be left.
    """
    if name not in learner.classes:
        near = next(iter(get_close_matches(name, learner.classes)), "")
        hint = f"; did you mean {near}?" if near else f"; there are {', '.join(learner.classes)}"
        raise UserError(f"there is no class {name}{hint}")
    if len(learner.classes) == 2:
        raise UserError(f"without {name} there would be a single class; two or more are needed")
    kept = [i for i, label in enumerate(learner.support.labels) if label != name]
    return deployed(learner.trained, learner.support.of(kept), learner.calibration)

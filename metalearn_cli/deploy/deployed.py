"""A trained learner with a support set of files: its answers for other files, and further classes.

Legend: S support items, W classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.deploy.enrolled import Enrolled, answers, embedded, enrol, learnt, needs_items
from metalearn_cli.deploy.folding import folded
from metalearn_cli.deploy.inputs import ENDINGS, Inputs, Reader
from metalearn_cli.deploy.trained import Statistics, Trained, learner_of, of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.runs import find_checkpoint


class Support(NamedTuple):
    """The examples of the classes, class by class.

    Attributes:
        names: where each was found.
        labels: the class of each.
        x: the items [S, ...], or their embeddings where the learner needs no more to learn a further class.
        embedded: whether they are embeddings.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    x: Tensor
    embedded: bool = False

    @property
    def sizes(self) -> Counter[str]:
        """The number of examples of each class, sorted by class."""
        return Counter(sorted(self.labels))


class Deployed(NamedTuple):
    """A learner that has learnt the classes of files.

    Attributes:
        trained: what was trained.
        support: the examples.
        classes: the names [W] of the classes, sorted.
        enrolled: what was learnt.
    """

    trained: Trained
    support: Support
    classes: tuple[str, ...]
    enrolled: Enrolled


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


def deployed(trained: Trained, support: Support) -> Deployed:
    """Have a learner learn the classes of some examples.

    Raises:
        UserError: if it cannot.
    """
    classes = tuple(support.sizes)
    y = torch.tensor([classes.index(label) for label in support.labels])
    learner, backbone = learner_of(trained, len(classes))
    if support.embedded:
        found = learnt(learner, folded(backbone, trained.statistics), support.x, y)
    else:
        found = enrol(learner, backbone, support.x, y, trained.statistics)
        if not needs_items(learner, trained.statistics):
            support = support._replace(x=found.embedded, embedded=True)
    return Deployed(trained, support, classes, found)


def predicted(learner: Deployed, queries: Inputs) -> list[dict[str, Any]]:
    """Return the answer for each item.

    Returns:
        a dict with `file`, `class`, its `probability` and the `probabilities` of all classes; `distance` to the nearest
        centre of a class, where items are embedded; and `nearest`, the support item that is nearest there.
    """
    found = answers(learner.enrolled, queries.items)
    rows = zip(queries.names, found.probabilities, found.distances, found.nearest, strict=True)
    return [
        {
            "file": name,
            "class": learner.classes[int(p.argmax())],
            "probability": float(p.max()),
            "probabilities": dict(zip(learner.classes, p.tolist(), strict=True)),
            "distance": float(distance),
            "nearest": learner.support.names[int(nearest)],
        }
        for name, p, distance, nearest in rows
    ]


def with_class(learner: Deployed, name: str, examples: Inputs) -> Deployed:
    """Return a learner that knows one more class; nothing is trained.

    Args:
        learner: the learner.
        name: of the class.
        examples: items of it.

    Raises:
        UserError: if it knows the class, or can have no further one.
    """
    if name in learner.classes:
        raise UserError(f"the class {name} exists, with {learner.support.sizes[name]} examples; take another name")
    x, support = examples.items, learner.support
    if support.embedded:
        x = embedded(learner.enrolled.learner, learner.enrolled.encoder, x)
    own = examples.names
    if learner.trained.facts.kind in ENDINGS:  # as in a folder of the class
        own = tuple(f"{name}/{PurePath(file).name}" for file in own)
    names, labels = (*support.names, *own), (*support.labels, *[name] * len(own))
    return deployed(learner.trained, _sorted(names, labels, torch.cat([support.x, x]), support))


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
    support = learner.support
    kept = [i for i, label in enumerate(support.labels) if label != name]
    names, labels = (tuple(values[i] for i in kept) for values in (support.names, support.labels))
    return deployed(learner.trained, _sorted(names, labels, support.x[kept], support))


def _sorted(names: Sequence[str], labels: Sequence[str], x: Tensor, like: Support) -> Support:
    """Return examples class by class, of the same kind as others."""
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    return Support(tuple(names[i] for i in order), tuple(labels[i] for i in order), x[order], like.embedded)

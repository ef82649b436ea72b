"""The interfaces between data, networks, learners and the engine.

Legend: T tasks, S support items, Q query items, W ways (classes of a task), O outputs of a regression, B items of a
batch, ... the shape of one item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from metalearn_cli.core.errors import Finding
from metalearn_cli.core.items import Facts, Items, each
from metalearn_cli.core.network import Network, Params


class Episode(NamedTuple):
    """One few-shot task, or a batch of them with a leading T.

    A named tuple is a pytree, so `torch.func` transforms accept it.
    """

    support_x: Items  # [S, ...], S = way * shot; in any order
    support_y: Tensor  # [S] int64 in [0, W); float [S, O] for regression
    query_x: Items  # [Q, ...], equally many of each class, in random order
    query_y: Tensor  # [Q], as support_y

    def map(self, function: Callable[[Tensor], Tensor]) -> Episode:
        """Apply `function` to each tensor."""
        return Episode(*(each(function, part) for part in self))  # type: ignore[arg-type]


class EpisodeOutput(NamedTuple):
    """The output of a learner for one episode in training."""

    loss: Tensor  # [] what meta-training minimises
    logits: Tensor  # [Q, W], or [Q, O] for regression


class Fit(NamedTuple):
    """The answers to the queries of a task: logits [Q, W], or numbers [Q, O]."""

    before: Tensor | None  # of the network before it adapts; None if it has no head
    after: Tensor  # of the learner
    spread: Tensor | None  # standard deviations of numbers, where the learner has them


State = dict[str, Tensor]
"""What a learner has learnt from a support set: all that answers depend on besides the network, so it can be saved."""

Targets = Literal["classes", "numbers"]


class Traits(NamedTuple):
    """Properties of a learner that the engine needs.

    Attributes:
        sees: what `adapt` and `predict` get as x. For "features" [S, D] and "maps" [S, C, H, W] the engine runs the
            backbone on support and query items and passes its output, so that the learner needs no code for batch
            statistics.
        head: whether the network ends in a linear layer with one output per way.
        targets: what it can learn: classes, numbers (regression), or both.
        learns: whether meta-training changes anything; False for learners that are only evaluated.
        inner_gradients: whether it takes gradients within an episode, which does not work with 16-bit loss scaling.
        surrogate: whether its training gradient is not the gradient of its loss value (Reptile, first-order methods).
        uses_queries: whether an answer depends on the other queries: then it is never reported as inductive.
        batchable: False if `vmap` cannot run it (scikit-learn, random numbers).
    """

    sees: Literal["items", "features", "maps"] = "items"
    head: bool = False
    targets: frozenset[Targets] = frozenset({"classes"})
    learns: bool = True
    inner_gradients: bool = False
    surrogate: bool = False
    uses_queries: bool = False
    batchable: bool = True


class Algorithm(Protocol):
    """A learner of one episode at a time; the engine does batches of tasks, devices and derivatives.

    `way` is the number of classes W, or of outputs O.

    Optional members, only for learners that need them:

    `episode(net, own, episode, way) -> EpisodeOutput`: the training loss, if it is not the task's loss of `predict`
    after `adapt`. Scoring never calls it, so that no learner sees query labels there.

    `at(progress) -> Algorithm`: for annealing, the learner at a fraction of training in [0, 1]; 1 in evaluation.

    `rates(own) -> dict[str, float]`: learning-rate multipliers of the learner's own tensors; all are 1 without it.

    `spread(net, own, state, x) -> Tensor`: the standard deviations [Q, O] of `predict`'s numbers, which are drawn.

    `base(z) -> Params`: for a learner of features with own tensors that are no result of meta-training but statistics
    of the features z [N, D] of training items; evaluation measures them before it scores.
    """

    traits: Traits

    def init(self, net: Network, way: int) -> Params:
        """Return the learner's own tensors, {} for none; drawn from torch's generator, which is seeded for this call.

        It is called once, before everything else, so it may store what it builds on the learner, such as the function
        of a module.
        """

    def adapt(self, net: Network, own: Params, x: Any, y: Tensor, way: int) -> State:
        """Learn from support items x with targets y."""

    def predict(self, net: Network, own: Params, state: State, x: Any) -> Tensor:
        """Return the logits [Q, W], or numbers [Q, O], of query items x."""


class Method(Protocol):
    """How transfer adapts a backbone to a labelled task.

    Optional members, only for methods that need them:

    `asks: tuple[str, ...]`: more entries of the batch: "taught" and "taught_features", the logits [B, K] and features
    [B, E] of the checkpoint `teacher`; names of data sets in `also`, whose items it gets without labels; "also", all
    other data sets in `also` by name, each as a pair of items and labels.

    `at(progress) -> Method`: the method at a fraction of training in [0, 1].

    `init(net, sizes) -> Params`: own tensors, which learn besides those of `rates`; `sizes` has the number of classes
    of each data set in the entry "also", by name, and E as "taught_features".

    `whole_batch = True`: its loss compares items of a batch with each other, so that a batch cannot be dealt to several
    ranks; batch statistics do not count, as ranks share them.

    `keeps_start = True`: what it gives stays near, or is made of, the tensors that transfer starts from, so that random
    ones make no sense; a line says so where they are.

    `merged(net, own) -> Params`: the network's tensors combined with the own ones (LoRA): these are trained, evaluated
    and saved.

    `loss(net, own, start, batch) -> (loss [], logits [B, K])`: the training loss, if it is not the cross-entropy of the
    merged network; `start` has the network's tensors at the beginning of transfer.
    """

    def rates(self, net: Network) -> dict[str, float]:
        """Return the learning-rate multiplier of each tensor of `net.params` that learns; others do not change.

        Blocks without a learning tensor run in eval mode.
        """


class Model(Protocol):
    """What pretraining trains: an `nn.Module` around the backbone, which is its attribute `backbone`.

    Optional members, only for models that need them:

    `follow(params, progress) -> Params`: new values of tensors that follow others instead of learning (a teacher that
    is a moving average), called after each step with all tensors and the fraction of training done; its keys do not
    learn.

    `whole_batch = True`: as of a `Method`.

    `measures(x) -> dict[str, Tensor]`: metrics [] of validation items, such as the error of a reconstruction; called at
    each evaluation, in eval mode and without gradients.

    `generate(like) -> Tensor`: as many new items as `like` has; they are compared with validation items.

    `pictures(x) -> dict`: images [N, C, H, W] in [0, 1] by name, or for a name a dict of such images by row name, drawn
    at the end.
    """

    def __call__(self, x: Items, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of items x with labels y [B], and metrics []."""


ALL = slice(None)
"""The share of everything: of one rank alone, see `engine.ranks`."""


class Sampler(Protocol):
    """A stream of episodes, a function of (seed, step).

    Optional members: `count`, the number of episodes where there is a fixed list of them; `varying`, the bounds of way
    and shots where each episode has its own, whose numbers of labelled items `shots(episodes)` returns; `way` is then
    the largest, and `tasks` 1.
    """

    way: int
    regression: bool

    def batch(self, step: int, tasks: int, share: slice = ALL) -> Episode:
        """Return a share of the `tasks` episodes of meta-batch `step`, stacked."""

    def classes(self, episodes: int) -> list[tuple[str, ...]]:
        """Return the names of the classes of each of the first `episodes` one-task batches.

        Of a regression, it is the name of the task, or () if tasks are generated.
        """

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of the items of the first `episodes` one-task batches."""


Part = Literal["all", "fit", "held_out"]
"""Items of each class: all of them, or the last fifth (at least one) held out from the others."""


class Limits(NamedTuple):
    """What episodes a data set allows, in every split.

    Attributes:
        way: most classes of an episode; 1 for a regression.
        items: items of the smallest class.
    """

    way: int
    items: int


class Dataset(Protocol):
    """Classes in splits that share none, and batches and episodes from them; generated tasks are only episodes."""

    name: str
    protocol: str
    facts: Facts
    splits: Mapping[str, Any]  # what has the `names` of each split's classes; {} if tasks are generated
    fingerprint: str
    preprocessing: Mapping[str, Any]  # plain values: how a file becomes an item; stored with every checkpoint
    findings: tuple[Finding, ...]  # its problems, whatever it is used for
    about: Mapping[str, Any]  # plain values: what was understood of its source
    whole: str  # fingerprint of the data that this is a fold of, or ""

    @property
    def limits(self) -> Limits:
        """Return what episodes it allows."""

    def to(self, device: torch.device | str) -> Dataset:
        """Return this data set with its items on a device."""

    def fold(self, k: int, of: int) -> Dataset:
        """Return it split anew for cross-validation: fold `k` of `of` is test, the next one validation."""

    def batch(
        self, split: str, part: Part, size: int, seed: int, step: int, share: slice = ALL
    ) -> tuple[Items, Tensor]:
        """Draw `size` items, and return a share of them, x, and their classes y [B]; a function of its arguments."""

    def all(self, split: str, part: Part, most: int) -> Iterator[tuple[Items, Tensor]]:
        """Yield every item of a part once, in batches of `most` or fewer."""

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> Sampler:
        """Return the stream of episodes of a split."""


class Reporter(Protocol):
    """Where the engine reports to: a terminal, a log file, a test."""

    def start(self, stage: str, folder: str, start: int, steps: int) -> None:
        """A stage's loop begins at step `start` of `steps`."""

    def advance(self, step: int) -> None:
        """`step` steps are done."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values measured after `step` steps."""

    def note(self, text: str) -> None:
        """One line that the user should see: a choice made, a hand-off, a skipped stage."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The stage is over; `summary` is its run.json."""

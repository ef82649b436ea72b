"""The interfaces between data, networks, learners and the engine.

Legend: T tasks, S support items, Q query items, W ways (classes of a task), ... the shape of one item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Params = dict[str, Tensor]
"""The tensors of a network by name: all that a learner may change."""

Apply = Callable[..., Tensor]
"""`apply(params, x)` runs a network with the given tensors; see `core.functional.pure`."""


class Episode(NamedTuple):
    """One few-shot task, or a batch of them with a leading T.

    Being a named tuple it is a pytree, so `torch.func` transforms take it as it is.
    """

    support_x: Tensor  # [S, ...], S = way * shot; the order is not promised
    support_y: Tensor  # [S] int64 in [0, W); float [S, out] for regression
    query_x: Tensor  # [Q, ...]
    query_y: Tensor  # [Q], as support_y


class EpisodeOutput(NamedTuple):
    """What a learner makes of one episode."""

    loss: Tensor  # [] what meta-training minimises
    logits: Tensor  # [Q, W], or [Q, out] for regression


class Algorithm(Protocol):
    """A learner: a pure function of one episode, so that batching belongs to the engine."""

    needs_head: bool  # the network ends in a linear layer with one output per way
    learns: bool  # meta-training changes something; False for the floors, which are only evaluated
    handles_regression: bool  # takes float targets too
    inner_gradients: bool  # takes gradients within an episode, which 16-bit loss scaling cannot serve

    def init(self, params: Params) -> Params:
        """Add the learner's own meta-parameters to the network's."""

    def __call__(self, apply: Apply, params: Params, episode: Episode, *, way: int) -> EpisodeOutput:
        """Adapt to the support set and score the query set."""


class Method(Protocol):
    """How transfer carries a backbone over: which tensors learn, and how fast."""

    def rates(self, blocks: Sequence[Sequence[str]], head: Sequence[str]) -> dict[str, float]:
        """Learning-rate multiplier per tensor; a tensor that is absent stays as it is.

        Args:
            blocks: the names of the backbone's tensors, one sequence per block from input to output.
            head: the names of the classifier's tensors.
        """


class Sampler(Protocol):
    """A stream of episodes, a function of (seed, step)."""

    way: int
    regression: bool

    def batch(self, step: int, tasks: int) -> Episode:
        """Return the `tasks` episodes of meta-batch `step`, stacked."""

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of what the first `episodes` one-task batches are made of."""


class Reporter(Protocol):
    """Where the engine speaks to: a terminal, a log file, a test."""

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

"""A learner on an episode, under a named protocol of normalisation. Only this module knows the protocols.

Which items give the batch statistics:

inductive: the support items, for support items and for queries. Each query is answered as if it were the only one.
transductive, if the algorithm sees features or maps: support items and queries together, in one pass.
transductive, if it sees items: while it adapts, the support items; in its answers, all queries without the support
    items.

Legend: S support items, Q query items, W ways, O outputs of a regression, ... the shape of one item.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from metalearn_cli.core.config import Normalisation
from metalearn_cli.core.items import Items, joined, size
from metalearn_cli.core.learning import task_loss
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Algorithm, Episode, EpisodeOutput, Fit

OWN = "learner."
"""Prefix of the names of a learner's own tensors, in the optimizer and in every checkpoint."""


class Learner(NamedTuple):
    """An algorithm on a network, with its own tensors.

    Attributes:
        algorithm: how it learns a task.
        net: the network.
        own: the algorithm's own tensors, see `Algorithm.init`.
        way: number of classes, or of outputs of a regression.
        normalisation: the protocol.
    """

    algorithm: Algorithm
    net: Network
    own: Params
    way: int
    normalisation: Normalisation

    @property
    def tensors(self) -> Params:
        """All tensors in one dict: the network's, its constants, and the learner's own as "learner.*"."""
        return self.net.params | self.net.constants | {OWN + name: p for name, p in self.own.items()}

    def of(self, tensors: Params) -> Learner:
        """Return this learner with the tensors of the same names in `tensors`."""
        own = {name: tensors[OWN + name] for name in self.own}
        return self._replace(net=self.net.of(tensors), own=own)

    def at(self, progress: float) -> Learner:
        """Return this learner at a fraction of training in [0, 1]; 1 in evaluation."""
        if not hasattr(self.algorithm, "at"):
            return self
        return self._replace(algorithm=self.algorithm.at(progress))


def trained(learner: Learner, episode: Episode) -> EpisodeOutput:
    """Return what meta-training minimises, with the logits [Q, W] or numbers [Q, O] of the queries."""
    net, support_x, query_x = _seen(learner, episode.support_x, episode.query_x)
    episode = episode._replace(support_x=support_x, query_x=query_x)
    algorithm = learner.algorithm
    if hasattr(algorithm, "episode"):
        output: EpisodeOutput = algorithm.episode(net, learner.own, episode, learner.way)
        return output
    state = algorithm.adapt(net, learner.own, support_x, episode.support_y, learner.way)
    logits = algorithm.predict(net, learner.own, state, query_x)
    return EpisodeOutput(task_loss(logits, episode.query_y), logits)


def answered(learner: Learner, support_x: Items, support_y: Tensor, query_x: Items) -> Tensor:
    """Return the logits [Q, W], or numbers [Q, O], of query items; queries' labels are not used."""
    net, support_x, query_x = _seen(learner, support_x, query_x)
    state = learner.algorithm.adapt(net, learner.own, support_x, support_y, learner.way)
    return learner.algorithm.predict(net, learner.own, state, query_x)


def fitted(learner: Learner, support_x: Items, support_y: Tensor, query_x: Items) -> Fit:
    """Return the answers to query items before and after adaptation, for a picture."""
    net, support_x, query_x = _seen(learner, support_x, query_x)
    algorithm, own = learner.algorithm, learner.own
    state = algorithm.adapt(net, own, support_x, support_y, learner.way)
    numbers = support_y.is_floating_point()
    seen = net.on_features() if algorithm.traits.sees == "features" else net
    return Fit(
        before=seen.output(net.params, query_x) if algorithm.traits.head else None,
        after=algorithm.predict(net, own, state, query_x),
        spread=algorithm.spread(net, own, state, query_x) if numbers and hasattr(algorithm, "spread") else None,
    )


def _seen(learner: Learner, support_x: Items, query_x: Items) -> tuple[Network, Items, Items]:
    """Return network, support and query items as the algorithm gets them under the protocol."""
    net, sees = learner.net, learner.algorithm.traits.sees
    if sees == "items":
        return (net.under(support_x) if learner.normalisation == "inductive" else net), support_x, query_x
    n = size(support_x)
    run = net.features if sees == "features" else net.maps
    reference = n if learner.normalisation == "inductive" and net.batch_statistics else None
    embedded = run(net.params, joined([support_x, query_x]), reference=reference)
    return net, embedded[:n], embedded[n:]

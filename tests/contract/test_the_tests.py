"""The contracts have power: each deliberately wrong component fails the test that is there for it, and no other."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from contract import test_algorithms as of_algorithms
from torch import Tensor
from torch.nn.functional import one_hot

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.learning import square_distances, task_loss
from metalearn_cli.core.types import EpisodeOutput, Traits


def failing(contract: Any, component: Any, case: Any) -> set[str]:
    """Return the names of the tests of a contract that a component fails, of those that are for its like."""
    failed = set()
    for name, test in vars(contract).items():
        if name.startswith("test_") and hasattr(test, "where") and test.where(component):
            try:
                test(case())
            except Exception:  # whatever comes of what is wrong
                failed.add(name)
    return failed


class Right(ProtoNet):
    pass


class TrainsOnItsAnswers(ProtoNet):
    """Its training logits are the labels; its loss is right, so nothing else tells."""

    def episode(self, net, own, episode, way):
        state = self.adapt(net, own, episode.support_x, episode.support_y, way)
        logits = self.predict(net, own, state, episode.query_x)
        return EpisodeOutput(task_loss(logits, episode.query_y), logits + 100 * one_hot(episode.query_y, way))


class RemembersLabels(ProtoNet):
    """It answers with the labels that it saw in training, where there are as many."""

    def __init__(self):
        self.labels = None

    def episode(self, net, own, episode, way):
        self.labels = episode.query_y
        state = self.adapt(net, own, episode.support_x, episode.support_y, way)
        logits = super().predict(net, own, state, episode.query_x)
        return EpisodeOutput(task_loss(logits, episode.query_y), logits)

    def predict(self, net, own, state, x):
        logits = super().predict(net, own, state, x)
        known = self.labels is not None and len(self.labels) == len(x)
        return logits + 100 * one_hot(self.labels, logits.shape[1]) if known else logits


class WritesItsTensors(ProtoNet):
    def init(self, net, way):
        return {"calls": torch.zeros(())}

    def adapt(self, net, own, x, y, way):
        own["calls"].data.add_(1)
        return super().adapt(net, own, x, y, way)


class CentresQueries(ProtoNet):
    """Its answers depend on the other queries, and its traits do not say so."""

    def predict(self, net, own, state, x):
        return super().predict(net, own, state, x - x.mean(0) + state["prototypes"].mean(0))


class SaysItUsesQueries(ProtoNet):
    traits = Traits(sees="features", uses_queries=True)


class CutsTheGraph(ProtoNet):
    """Its gradient leaves the prototypes out, and its traits do not say so."""

    def adapt(self, net, own, x, y, way):
        return super().adapt(net, own, x.detach(), y, way)


class CountsTheFirstItemTwice(ProtoNet):
    def adapt(self, net, own, x, y, way):
        return super().adapt(net, own, torch.cat([x, x[:1]]), torch.cat([y, y[:1]]), way)


class PrefersAClass(ProtoNet):
    def predict(self, net, own, state, x):
        return super().predict(net, own, state, x) + 0.1 * torch.arange(len(state["prototypes"]))


class LeavesTorch(ProtoNet):
    """`vmap` cannot run it, and its traits do not say so."""

    def adapt(self, net, own, x, y, way):
        assert y.max().item() < way
        return super().adapt(net, own, x, y, way)


class KeepsItsState(ProtoNet):
    """What `adapt` returns is not what `predict` uses."""

    def adapt(self, net, own, x, y, way):
        self.kept = super().adapt(net, own, x, y, way)
        return {"nothing": x.new_zeros(())}

    def predict(self, net, own, state, x):
        return super().predict(net, own, self.kept, x)


class ForgetsGiven(ProtoNet):
    """A step of its own, by a loss whose other tensors `gradient` is not told."""

    traits = Traits(sees="features", inner_gradients=True)

    def adapt(self, net, own, x, y, way):
        state = super().adapt(net, own, x, y, way)
        start = {"prototypes": state["prototypes"]}
        slope = gradient(lambda fast: task_loss(-square_distances(x, fast["prototypes"]), y), start)
        return {"prototypes": start["prototypes"] - 0.1 * slope["prototypes"]}


class DrawsElsewhere(ProtoNet):
    """Its own tensor is drawn from a generator that has no part in the seed."""

    def init(self, net, way):
        return {"scale": torch.tensor(0.5 + random.random())}

    def predict(self, net, own, state, x):
        return own["scale"] * super().predict(net, own, state, x)


class SaysNothing(ProtoNet):
    def predict(self, net, own, state, x):
        return 0 * super().predict(net, own, state, x)


class NamesOtherRates(ProtoNet):
    def rates(self, own):
        return {"head.weight": 0.1}


class Climbs(ProtoNet):
    """Its gradient is of another kind, and points the wrong way."""

    traits = Traits(sees="features", surrogate=True)

    def episode(self, net, own, episode, way):
        state = self.adapt(net, own, episode.support_x, episode.support_y, way)
        logits = self.predict(net, own, state, episode.query_x)
        loss = task_loss(logits, episode.query_y)
        return EpisodeOutput(2 * loss.detach() - loss, logits)


class NeverChanges(ProtoNet):
    def at(self, progress):
        return self


CAUGHT: dict[type, set[str]] = {
    Right: set(),
    TrainsOnItsAnswers: {"test_answers_do_not_depend_on_query_labels"},
    RemembersLabels: {"test_answers_do_not_depend_on_query_labels"},
    WritesItsTensors: {"test_is_pure"},
    CentresQueries: {"test_an_answer_depends_on_other_queries_where_the_traits_say_so"},
    SaysItUsesQueries: {"test_an_answer_depends_on_other_queries_where_the_traits_say_so"},
    CutsTheGraph: {"test_gradient_is_that_of_finite_differences"},
    CountsTheFirstItemTwice: {"test_order_of_support_items_does_not_matter"},
    PrefersAClass: {"test_renaming_classes_renames_answers"},
    LeavesTorch: {"test_vmap_over_tasks_equals_a_loop"},
    KeepsItsState: {"test_the_state_is_all_that_answers_depend_on"},
    ForgetsGiven: {"test_gradient_checkpointing_changes_no_gradient"},
    DrawsElsewhere: {"test_own_tensors_are_a_function_of_the_seed"},
    SaysNothing: {"test_learns"},
    NamesOtherRates: {"test_rates_are_those_of_own_tensors"},
    Climbs: {"test_a_gradient_of_another_kind_descends", "test_learns"},
    NeverChanges: {"test_changes_with_progress_and_leaves_itself_as_it_is"},
}


@pytest.mark.parametrize("wrong", CAUGHT, ids=lambda wrong: wrong.__name__)
def test_a_wrong_learner_is_caught(wrong: type) -> None:
    learner = wrong()
    assert failing(of_algorithms, learner, lambda: of_algorithms.case_of(wrong())) == CAUGHT[wrong]


def test_no_label_reaches_what_scores() -> None:
    """A learner cannot answer with the labels of what it is asked: `answered` has no place for them."""

    class Cheats(ProtoNet):
        def episode(self, net, own, episode, way):
            raise AssertionError("scoring never calls it")

    case = of_algorithms.case_of(Cheats())
    assert isinstance(of_algorithms.answers(case.learner, case.one), Tensor)

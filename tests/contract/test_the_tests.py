"""The contracts have power: each deliberately wrong component fails the test that is there for it, and no other."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextvars import Context, copy_context
from inspect import signature
from itertools import count
from typing import Any

import pytest
import torch
from contract import test_algorithms as of_algorithms
from contract import test_backbones as of_backbones
from contract import test_methods as of_methods
from contract import test_models as of_models
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.common.norms import BatchNormReluPool
from metalearn_cli.core.functional import gradient
from metalearn_cli.core.learning import square_distances, task_loss
from metalearn_cli.core.network import unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import EpisodeOutput, Traits

pytestmark = pytest.mark.slow


def failing(contract: Any, case: Callable[[], Any], component: Any = None) -> set[str]:
    """Return the names of the tests of a contract that fail for a component.

    Args:
        contract: the module of tests.
        case: makes what they are given, anew for each of them.
        component: what a test looks at to know whether it is for its like.
    """
    failed = set()
    for name, test in vars(contract).items():
        of_one = name.startswith("test_") and [*signature(test).parameters] in (["case"], ["made"])
        if of_one and getattr(test, "where", lambda component: True)(component):
            try:
                test(case())
            except Exception:  # whatever comes of what is wrong
                failed.add(name)
    return failed


class Right(ProtoNet):
    """Nothing is wrong with it."""


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


LEARNERS: dict[type, set[str]] = {
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


@pytest.mark.parametrize("wrong", LEARNERS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_learner_is_caught(wrong: type) -> None:
    assert failing(of_algorithms, lambda: of_algorithms.case_of(wrong()), wrong()) == LEARNERS[wrong]


def test_no_label_reaches_what_scores() -> None:
    """A learner cannot answer with the labels of what it is asked: `answered` has no place for them."""

    class Cheats(ProtoNet):
        def episode(self, net, own, episode, way):
            raise AssertionError("scoring never calls it")

    case = of_algorithms.case_of(Cheats())
    assert isinstance(of_algorithms.answers(case.learner, case.one), Tensor)


class Small(nn.Module):
    """Two blocks with batch statistics; nothing is wrong with it."""

    batch_statistics = True

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Convolution(1), Convolution(4)])
        self.out_dim = 4 * 4 * 4

    def forward(self, x):
        for block in self.blocks:
            x = self.run(block, x)
        return x.flatten(1)

    def run(self, block, x):
        return block(x)


class Convolution(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.norm = BatchNormReluPool(4, pool=True)

    def forward(self, x):
        return self.norm(self.conv(x))


def in_a_transform() -> bool:
    """`vmap` and `torch.func.grad` cannot run what is checkpointed."""
    return torch._C._are_functorch_transforms_active()


class Checkpoints(Small):
    """It computes its blocks again for the gradient, and takes along what that depends on: tensors and context."""

    def run(self, block, x):
        if in_a_transform():
            return block(x)
        context, tensors = copy_context(), dict(block.named_parameters())
        return checkpoint(lambda x: context.run(functional_call, block, tensors, x), x, use_reentrant=False)


class ForgetsTheContext(Small):
    def run(self, block, x):
        if in_a_transform():
            return block(x)
        tensors, times = dict(block.named_parameters()), count()

        def computed(x):
            # the second time there is no reference any more
            run = Context().run if next(times) else copy_context().run
            return run(functional_call, block, tensors, x)

        return checkpoint(computed, x, use_reentrant=False)


class ForgetsTheTensors(Small):
    """When it computes its blocks again, they have the module's own tensors, not those of the call."""

    def run(self, block, x):
        return block(x) if in_a_transform() else checkpoint(copy_context().run, block, x, use_reentrant=False)


class OfTheWholeBatch(nn.Module):
    def forward(self, x):
        deviation, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
        return nn.functional.max_pool2d(((x - mean) / (deviation + 1e-3)).relu(), 2)


class IgnoresTheReference(Small):
    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.norm = OfTheWholeBatch()


class SaysItHasNoBatchStatistics(Small):
    batch_statistics = False


class WritesABuffer(Small):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return super().forward(x)


class Idle(Small):
    """One of its tensors does nothing."""

    def __init__(self):
        super().__init__()
        self.blocks[0].idle = nn.Parameter(torch.ones(3))


class DifferentiatesOnce(Small):
    def forward(self, x):
        return _Once.apply(super().forward(x))


class _Once(torch.autograd.Function):
    """The square, whose gradient is a constant to whoever differentiates it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0].detach() * gradient


REFERENCE = "test_gradient_with_a_reference_is_that_of_finite_differences"
SECOND = "test_second_derivatives_are_those_of_finite_differences"
BATCHING = "test_every_way_of_batching_tasks_gives_the_same_gradients"
BACKBONES: dict[type, set[str]] = {
    Small: set(),
    Checkpoints: set(),
    ForgetsTheContext: {REFERENCE, BATCHING},
    ForgetsTheTensors: {SECOND, BATCHING},
    IgnoresTheReference: {"test_with_a_reference_an_item_depends_on_the_reference_alone"},
    SaysItHasNoBatchStatistics: {"test_says_whether_an_item_depends_on_the_others"},
    WritesABuffer: {"test_writes_none_of_its_buffers", BATCHING},
    Idle: {"test_every_tensor_learns"},
    DifferentiatesOnce: {SECOND},
}


@pytest.mark.parametrize("wrong", BACKBONES, ids=lambda wrong: wrong.__name__)
def test_a_wrong_backbone_is_caught(wrong: type) -> None:
    def case() -> of_backbones.Made:
        with seeded(0, "backbone"):
            return of_backbones.used(wrong())

    assert failing(of_backbones, case) == BACKBONES[wrong]


def test_a_written_buffer_is_refused_in_words() -> None:
    made = of_backbones.used(WritesABuffer())
    net = made.net
    with pytest.raises(ValueError, match=r"^the network writes its buffers backbone\.calls within an episode"):
        with unwritten(net.constants):
            net.features(net.params, made.items())


class Whole(nn.Module):
    """A linear classifier of four classes, with a copy of its layer that follows it; nothing is wrong with it."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.layer = nn.Linear(backbone.out_dim, 4)
        self.teacher = copy.deepcopy(self.layer)

    def forward(self, x, y):
        return task_loss(self.layer(self.backbone(x)), y), {}

    def follow(self, params, progress):
        return {f"teacher.{n}": params[f"teacher.{n}"].lerp(params[f"layer.{n}"], 0.1) for n in ("weight", "bias")}


class HasAnIdleLayer(Whole):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.idle = nn.Linear(2, 2)


class LearnsWhatFollows(Whole):
    def forward(self, x, y):
        loss, metrics = super().forward(x, y)
        return loss + task_loss(self.teacher(self.backbone(x)), y), metrics


class LeadsNowhere(Whole):
    def follow(self, params, progress):
        return {name: p.clone() for name, p in params.items() if name.startswith("teacher.")}


class FollowsInPlace(Whole):
    def follow(self, params, progress):
        with torch.no_grad():
            return {n: params[n].copy_(p) for n, p in super().follow(params, progress).items()}


class DrawsFromElsewhere(Whole):
    def forward(self, x, y):
        return super().forward(x + random.random(), y)


class CopiesTheBackbone(Whole):
    def __init__(self, backbone):
        super().__init__(copy.deepcopy(backbone))


class GraphInAMetric(Whole):
    def forward(self, x, y):
        loss, _ = super().forward(x, y)
        return loss, {"again": loss}


GRADIENTS = "test_loss_is_a_finite_number_with_a_gradient_for_every_tensor_that_learns"
FOLLOWING = "test_what_follows_comes_nearer_to_what_it_follows"
MODELS: dict[type, set[str]] = {
    Whole: set(),
    HasAnIdleLayer: {GRADIENTS},
    LearnsWhatFollows: {GRADIENTS},
    GraphInAMetric: {GRADIENTS},
    LeadsNowhere: {FOLLOWING},
    FollowsInPlace: {FOLLOWING},
    DrawsFromElsewhere: {"test_is_a_function_of_tensors_batch_and_seed"},
    CopiesTheBackbone: {"test_wraps_the_backbone_under_its_name"},
}


@pytest.mark.parametrize("wrong", MODELS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_model_is_caught(wrong: type) -> None:
    assert failing(of_models, lambda: of_models.case_of(wrong)) == MODELS[wrong]


class Plain:
    """Train the last block and the classifier; nothing is wrong with it."""

    def rates(self, net):
        return dict.fromkeys([*net.head_names, *net.blocks[-1]], 1.0)


class NamesStrangers(Plain):
    def rates(self, net):
        return super().rates(net) | {"method.scale": 1.0}


class WritesWhatIsFrozen(Plain):
    def loss(self, net, own, start, batch):
        first = net.params[net.blocks[0][0]]
        with torch.no_grad():
            first.mul_(1 + 1e-12)
        logits = net.output(net.params, batch["x"])
        return task_loss(logits, batch["y"]) + 0 * first.sum(), logits


class BeginsElsewhere(Plain):
    def init(self, net, sizes):
        return {"shift": torch.ones(())}

    def merged(self, net, own):
        return {name: p + own["shift"] if name in net.head_names else p for name, p in net.params.items()}


class HandsOnWhatItDidNotTrain(Plain):
    """Its loss has a factor that `merged`, which it lacks, would have to work in."""

    def init(self, net, sizes):
        return {"scale": torch.ones(())}

    def loss(self, net, own, start, batch):
        logits = own["scale"] * net.output(net.params, batch["x"])
        return task_loss(logits, batch["y"]), logits


class CutsItsGraph(Plain):
    """Its pull is a constant to the gradient."""

    def loss(self, net, own, start, batch):
        logits = net.output(net.params, batch["x"])
        return task_loss(logits, batch["y"]) + net.params["head.bias"].detach().add(1).square().sum(), logits


class DrawsItsTensorsElsewhere(Plain):
    def init(self, net, sizes):
        drawn = random.random()
        return {"plus": torch.tensor(drawn), "minus": torch.tensor(drawn)}

    def merged(self, net, own):
        bias = {"head.bias": net.params["head.bias"] + torch.arange(4) * (own["plus"] - own["minus"])}
        return net.params | bias


class UnlearnsInTheEnd(Plain):
    """What learns at first is not held by the optimizer, which asks for what learns in the end."""

    def __init__(self):
        self.progress = 1.0

    def at(self, progress):
        now = copy.copy(self)
        now.progress = progress
        return now

    def rates(self, net):
        return dict.fromkeys([*net.head_names, *(net.blocks[-1] if self.progress < 1 else ())], 1.0)


METHODS: dict[type, set[str]] = {
    Plain: set(),
    NamesStrangers: {"test_rates_name_tensors_of_the_network"},
    WritesWhatIsFrozen: {"test_what_does_not_learn_stays_bit_for_bit"},
    BeginsElsewhere: {"test_begins_where_it_was_started"},
    HandsOnWhatItDidNotTrain: {"test_the_network_that_is_handed_on_is_the_one_that_was_trained"},
    CutsItsGraph: {"test_gradient_is_that_of_finite_differences"},
    DrawsItsTensorsElsewhere: {"test_own_tensors_are_a_function_of_the_seed"},
    UnlearnsInTheEnd: {"test_rates_name_tensors_of_the_network"},
}


@pytest.mark.parametrize("wrong", METHODS, ids=lambda wrong: wrong.__name__)
def test_a_wrong_method_is_caught(wrong: type) -> None:
    assert failing(of_methods, lambda: of_methods.case_of(wrong())) == METHODS[wrong]

"""MAML, ProtoNet and Reptile against peers that install: make bench creates .venv-bench, which has them.

PYTHONPATH=.venv/lib/python3.11/site-packages .venv-bench/bin/python -m pytest tests/unit/algorithms/test_peers.py
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from unit.algorithms.adapting import HIDDEN, SIZE, WAY, learner_of, task

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, trained

LR, STEPS = 0.2, 3
EPISODES = [task(seed=seed) for seed in range(2)]


def peer(module: str) -> Any:
    """Return a module of a peer, or skip the test."""
    if find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module.partition('.')[0]} is not installed; make bench does it, in an environment of its own")
    # without torchvision's compiled operators, which no peer needs here and which do not fit every build of torch
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchvision._meta_registrations", ModuleType("torchvision._meta_registrations"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, of what they use of others
            return import_module(module)


class Part(nn.Module):
    """Layers that ignore what a peer passes beside x."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, **others: Any) -> Tensor:
        return self.layers(x)


def twin(learner: Learner) -> tuple[nn.Sequential, nn.Linear]:
    """Return the same network as modules that know nothing of ours: its features, and its head."""
    body = nn.Sequential(nn.Linear(SIZE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()).double()
    head = nn.Linear(HIDDEN, WAY).double()
    p = learner.net.params
    body.load_state_dict({f"{2 * i}.{n}": p[f"backbone.blocks.{i}.{n}"] for i in range(2) for n in ("weight", "bias")})
    if "head.weight" in p:
        head.load_state_dict({n: p[f"head.{n}"] for n in ("weight", "bias")})
    return body, head


def gradients(learner: Learner) -> list[Tensor]:
    """Return ours, of the mean loss of all episodes, in the order of the twin's tensors."""
    (sum(trained(learner, episode).loss for episode in EPISODES) / len(EPISODES)).backward()  # type: ignore[union-attr]
    p: Params = learner.net.params
    names = [f"backbone.blocks.{i}.{n}" for i in range(2) for n in ("weight", "bias")]
    names += [name for name in ("head.weight", "head.bias") if name in p]
    return [g for name in names if (g := p[name].grad) is not None]


def check(learner: Learner, *modules: nn.Module) -> None:
    ours, theirs = gradients(learner), [p.grad for module in modules for p in module.parameters()]
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_has_the_gradient_of_learn2learn(first_order: bool) -> None:
    algorithms = peer("learn2learn.algorithms")
    learner = learner_of(Maml(inner_lr=LR, inner_steps=STEPS, first_order=first_order))
    model = nn.Sequential(*twin(learner))
    theirs = algorithms.MAML(model, lr=LR, first_order=first_order)
    for episode in EPISODES:
        adapted = theirs.clone()
        for _ in range(STEPS):
            adapted.adapt(cross_entropy(adapted(episode.support_x), episode.support_y))
        (cross_entropy(adapted(episode.query_x), episode.query_y) / len(EPISODES)).backward()
    check(learner, model)


def test_protonet_has_the_gradient_of_easyfsl() -> None:
    methods = peer("easyfsl.methods")
    learner = learner_of(ProtoNet())
    body, _ = twin(learner)
    theirs = methods.PrototypicalNetworks(body)
    for episode in EPISODES:
        theirs.process_support_set(episode.support_x, episode.support_y)
        scores = -(theirs.l2_distance_to_prototypes(theirs.compute_features(episode.query_x)) ** 2)  # ours are squared
        (cross_entropy(scores, episode.query_y) / len(EPISODES)).backward()
    check(learner, body)


def test_reptile_moves_the_weights_as_parallel_metalearn_does() -> None:
    reptile = peer("metalearn.algorithms.Reptile")
    from metalearn.inner_optimizers.optimizers import InnerSGD
    from metalearn.loss.categorical_accuracy import CategoricalAccuracy
    from metalearn.loss.CEloss import CrossEntropy
    from metalearn.model_wrappers.MAMLWrapper import MAML_Model

    learner = learner_of(Reptile(LR, inner_steps=STEPS, inner_batch=100))
    body, head = twin(learner)
    model = MAML_Model(backbone=Part(body), head=Part(head))
    inner = InnerSGD(model.get_fast_weights(), inner_lr=LR, first_order=True, learn_lr=False).double()
    algorithm = reptile.Reptile(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 1.0),
        inner_optimizer=inner,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()),
        inner_steps=STEPS,
        device=torch.device("cpu"),
        backend="sequential",
    )
    start = [p.detach().clone() for p in (*body.parameters(), *head.parameters())]
    algorithm.step(iter([_stacked(EPISODES)]), training=True)
    moved = [a - b.detach() for a, b in zip(start, (*body.parameters(), *head.parameters()), strict=True)]
    for one, other in zip(gradients(learner), moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def _stacked(episodes: list[Episode]) -> tuple[Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
    x, y, query_x, query_y = (torch.stack(parts) for parts in zip(*episodes, strict=True))
    return x, {"labels": y}, query_x, {"labels": query_y}

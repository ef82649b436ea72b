"""Networks and learners from settings, initialised as functions of the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import get_type_hints

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.items import make_backbone
from metalearn_cli.core.build import Spec, blamed_on
from metalearn_cli.core.check import mismatch, shown
from metalearn_cli.core.config import Normalisation
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import Facts, size
from metalearn_cli.core.network import Network, check_backbone, network, unwritten
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Algorithm, Episode, Traits
from metalearn_cli.engine.episodes import Learner, answered
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.stages.frozen import let_learn


def fresh_backbone(backbone: Spec, facts: Facts, seed: int) -> nn.Module:
    """Build a backbone; with the same seed, every stage starts from the same untrained one.

    Raises:
        ConfigError: if it cannot be built, or its setting `train` names nothing.
    """
    with seeded(seed, "backbone"):
        module = make_backbone(backbone, facts)
    with blamed_on(backbone, "backbone"):
        check_backbone(module)
    let_learn(module, backbone.get("train", "all"))
    return module


def fresh_network(backbone: Spec, facts: Facts, outputs: int | None, seed: int, runtime: Runtime) -> Network:
    """Build a backbone, with a linear head unless `outputs` is None, that computes in the runtime's precision."""
    return network(fresh_backbone(backbone, facts, seed), outputs, runtime.under_precision)


def fresh_learner(
    algorithm: Algorithm, net: Network, way: int, normalisation: Normalisation | None, seed: int
) -> Learner:
    """Put an algorithm on a network; its own tensors are drawn as a function of the seed.

    Args:
        algorithm: the algorithm.
        net: the network.
        way: classes, or outputs of a regression.
        normalisation: the protocol; None where the network has no batch statistics.
        seed: seed of the algorithm's own tensors.

    Raises:
        ConfigError: if the algorithm needs feature maps and the backbone has none, or its `init` does not return
        tensors.
    """
    if algorithm.traits.sees == "maps" and net.maps_shape is None:
        message = f"{type(algorithm).__name__} compares feature maps, which this backbone does not have; use conv4"
        raise ConfigError([Problem("backbone", message)])
    with seeded(seed, "learner"):
        own = algorithm.init(net, way)
    floats = isinstance(own, dict) and all(isinstance(t, Tensor) and t.is_floating_point() for t in own.values())
    if not floats:
        message = f"{type(algorithm).__name__}.init must return a dict of floating-point tensors, got {shown(own)}"
        raise ConfigError([Problem("algorithm", message)])
    own = {name: tensor.detach().requires_grad_() for name, tensor in own.items()}
    return Learner(algorithm, net, own, way, normalisation or "transductive")


def check_learner(algorithm: Algorithm, facts: Facts, precision: str) -> list[Problem]:
    """Return the problems of a learner with this data or in this precision."""
    name, traits = type(algorithm).__name__, algorithm.traits
    for trait, annotation in get_type_hints(Traits).items():
        if trait != "targets" and (wrong := mismatch(getattr(traits, trait), annotation)):
            raise ConfigError([Problem("algorithm", f"{name}.traits.{trait} {wrong}")])
    problems = []
    if facts.regression and "numbers" not in traits.targets:
        problems.append(Problem("algorithm", f"{name} classifies, but this data's targets are numbers; use maml"))
    if not facts.regression and "classes" not in traits.targets:
        problems.append(Problem("algorithm", f"{name} predicts numbers, but this data's targets are classes"))
    if not facts.regression and traits.sees == "maps" and not _is_image(facts):
        message = f"{name} compares feature maps, which only images have; use protonet, which takes any items"
        problems.append(Problem("algorithm", message))
    if traits.inner_gradients and precision == "16-mixed":
        message = f"16-mixed scales losses, which does not work with gradients inside {name}; use bf16-mixed or 32-true"
        problems.append(Problem("runtime.precision", message))
    return problems


def _is_image(facts: Facts) -> bool:
    """Whether an item is a map [C, H, W], which a spectrogram is, too."""
    return not isinstance(facts.shape, Mapping) and len(facts.shape) == 3


def check_protocols(algorithm: Algorithm, protocols: Sequence[Normalisation]) -> list[Problem]:
    """Return the problem of a learner with the chosen protocols, if all of them forbid what it does."""
    if not algorithm.traits.uses_queries or "transductive" in protocols:
        return []
    message = f"{type(algorithm).__name__} learns from the queries together; it must be transductive"
    return [Problem("normalisation", message)]


def try_learner(learner: Learner, episodes: Episode, runtime: Runtime) -> None:
    """Answer the first of some episodes, on copies of all tensors, to check network and learner.

    Raises:
        ConfigError: if features or answers have a wrong shape, features are not finite, or an episode writes the
            network's buffers: answers would then depend on the episodes before.
    """
    learner = learner.of(runtime.place(learner.tensors))
    net, name = learner.net, type(learner.algorithm).__name__
    one = runtime.cast(episodes.map(itemgetter(0)))
    try:
        with torch.no_grad(), unwritten(net.constants):
            z = net.features(net.params, one.support_x)
            answers = answered(learner, one.support_x, one.support_y, one.query_x)
    except ValueError as error:
        raise ConfigError([Problem("backbone", str(error))]) from error
    if not torch.isfinite(z).all():
        message = "gives features that are NaN or infinite; look at its weights, and at the data: mlx data check"
        raise ConfigError([Problem("backbone", message)])
    wanted = {"backbone": (z, size(one.support_x), net.out_dim), "algorithm": (answers, size(one.query_x), learner.way)}
    said = {"backbone": "gives features", "algorithm": f"is {name}, which gives answers"}
    for key, (found, *shape) in wanted.items():
        if list(found.shape) != shape:
            raise ConfigError([Problem(key, f"{said[key]} of shape {list(found.shape)}; expected is {shape}")])

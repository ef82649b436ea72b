"""The transforms of features of SimpleShot against a loop, and the mean of training classes in an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.core.random import seeded
from metalearn_cli.stages import run
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.session import Session

NET: Any = None  # it sees features alone
SPEC = {"_target_": "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"}
MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8}
GAUSSIAN = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}


@pytest.fixture
def settings_of(config: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a function from a transform to the settings of an evaluation."""
    same = {"ckpt": None, "backbone": MLP, "data": GAUSSIAN, "way": 4, "episodes": 20}
    return lambda transform: config("evaluate", **same, algorithm={**SPEC, "transform": transform})


@pytest.mark.parametrize("transform", ["un", "l2n", "cl2n"])
def test_equals_a_loop(transform: Any) -> None:
    with seeded(0, "simple_shot"):
        base, x, queries = (1 + torch.randn(n, 4, dtype=torch.float64) for n in (20, 6, 5))
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    learner = NearestCentroid(transform)
    own = learner.base(base) if transform == "cl2n" else {}
    found = learner.predict(NET, own, learner.adapt(NET, own, x, y, 3), queries)
    if transform == "cl2n":
        x, queries = x - base.sum(0) / 20, queries - base.sum(0) / 20
    if transform != "un":
        x, queries = (torch.stack([z / z.square().sum().sqrt() for z in part]) for part in (x, queries))
    means = [x[y == k].sum(0) / 2 for k in range(3)]
    expected = torch.stack([torch.stack([-(z - mean).square().sum() for mean in means]) for z in queries])
    torch.testing.assert_close(found, expected)


def test_the_mean_is_that_of_the_training_classes(settings_of: Any) -> None:
    session = Session()
    evaluation = prepare_evaluation(settings_of("cl2n"), session)
    learner, data = evaluation.learner, session.data(GAUSSIAN, evaluation.runtime)

    def features(split: str) -> torch.Tensor:
        (x, _), *rest = data.all(split, "all", 10_000)
        assert not rest
        return learner.net.features(learner.net.params, x).detach()

    z = features("train")
    found = evaluation.base()["mean"]  # type: ignore[misc]
    assert (found - z.mean(0)).abs().max() < 0.1 * z.std()  # of a random sample of 2,000
    assert (features("test").mean(0) - z.mean(0)).abs().max() > 0.2 * z.std()


def test_an_evaluation_scores_with_the_mean(settings_of: Any, said: Any) -> None:
    assert prepare_evaluation(settings_of("l2n"), Session()).base is None
    values = [run("evaluate", settings_of(transform), said)["metric"]["value"] for transform in ("l2n", "cl2n")]
    assert values[0] != values[1]

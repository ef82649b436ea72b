"""ANIL and BOIL against an independent plain loop."""

from __future__ import annotations

import pytest
from unit.algorithms.adapting import assert_same_loss_and_gradient, features, learner_of, loss_of, output, slopes, task

from metalearn_cli.algorithms.anil import Anil
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import network
from metalearn_cli.engine.episodes import trained


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("adapts", ["head", "body"])
def test_loss_and_gradient_are_those_of_a_plain_loop(adapts: str, numbers: bool) -> None:
    learner, episode = learner_of(Anil(adapts, 0.3, 2)), task(numbers)  # type: ignore[arg-type]
    params = learner.net.params
    fast = {n: p for n, p in params.items() if n.startswith("head.") is (adapts == "head")}
    for _ in range(2):
        slope = slopes(loss_of(output(params | fast, episode.support_x), episode.support_y), fast)
        fast = {n: p - 0.3 * slope[n] for n, p in fast.items()}
    assert_same_loss_and_gradient(learner, episode, loss_of(output(params | fast, episode.query_x), episode.query_y))


def test_features_that_do_not_adapt_are_computed_once() -> None:
    learner, episode = learner_of(Anil(inner_steps=3)), task()
    calls = []

    def counted(params, x, reference=None):
        calls.append(len(x))
        return features(params, x)

    trained(learner._replace(net=learner.net._replace(features=counted)), episode)
    assert calls == [len(episode.support_x) + len(episode.query_x)]


def test_a_body_that_cannot_learn_is_refused() -> None:
    frozen = Mlp((4,)).requires_grad_(False)
    Anil("head").init(network(frozen, 3), 3)
    with pytest.raises(ConfigError, match=r"^backbone\.train: BOIL adapts the backbone, so part of it must learn"):
        Anil("body").init(network(frozen, 3), 3)

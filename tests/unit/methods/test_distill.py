from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.methods.distill import Distill


@pytest.fixture
def taught(batch):
    """Return a batch with a teacher's logits, and features that are wider than the student's."""
    torch.manual_seed(3)
    logits, features = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 7, dtype=torch.float64)
    return {**batch, "taught": logits, "taught_features": features}


@pytest.mark.parametrize(("weight", "features"), [(0.3, 0.0), (0.3, 0.7), (0.0, 0.7), (1.0, 0.0)])
def test_loss_is_that_of_the_papers(net, taught, same, weight, features):
    """Hinton's soft targets and hard labels, as sums over items and classes, and FitNets' regression of hints."""
    method = Distill(temperature=3.0, weight=weight, features=features)
    own = {name: p.double().requires_grad_() for name, p in method.init(net, {"taught_features": 7}).items()}
    loss, _ = method.loss(net, own, {}, taught)
    logits = net.output(net.params, taught["x"])
    soft, hints = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for item in range(8):
        p, q = (z[item].div(3.0).exp() / z[item].div(3.0).exp().sum() for z in (taught["taught"], logits))
        soft = soft + 9 * (p * (p / q).log()).sum() / 8
        if own:
            z = net.features(net.params, taught["x"][item : item + 1])[0]
            guess = own["map.weight"] @ z + own["map.bias"]
            hints = hints + (guess - taught["taught_features"][item]).square().mean() / 8
    expected = (1 - weight) * cross_entropy(logits, taught["y"]) + weight * soft + features * hints
    same(loss, expected, net.params | own)


def test_it_asks_for_what_counts():
    assert Distill().asks == ("taught",)
    assert Distill(weight=0.0, features=1.0).asks == ("taught_features",)
    assert Distill(features=1.0).asks == ("taught", "taught_features")


def test_a_teacher_that_does_not_count_is_refused():
    with pytest.raises(ConfigError, match=r"method\.weight: weight and features are 0.*use method=finetune"):
        build({"_target_": "metalearn_cli.methods.distill.Distill", "weight": 0.0}, "method")

"""Attributions have the properties that define them, and a network that has learnt nothing is told by them."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.deploy.attributions import alike, gradients, occlusion, shuffled
from metalearn_cli.deploy.enrolled import Enrolled, embedded, enrol, logits_of
from metalearn_cli.deploy.windows import spread, windows
from metalearn_cli.stages.learner import fresh_backbone, fresh_learner

WAY = 3
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 8}
with seeded(0, "items"):
    X = torch.rand(12, 1, 16, 16)


@pytest.fixture(scope="module")
def enrolled() -> Enrolled:
    backbone = fresh_backbone(CONV4, Facts("image", (1, 16, 16), "unit", 4), seed=0)
    learner = fresh_learner(ProtoNet(), network(backbone), WAY, "inductive", seed=0)
    return enrol(learner, backbone, X[:6], torch.arange(WAY).repeat(2), {})


def score_of(enrolled: Enrolled, k: int = 0):
    return lambda x: logits_of(enrolled, enrolled.encoder(x)).log_softmax(1)[:, k]


@pytest.mark.medium
def test_integrated_gradients_add_up_to_the_difference_of_the_scores(enrolled):
    score, black = score_of(enrolled), torch.zeros(1, 16, 16)
    gaps = {i: float(score(x[None]) - score(black[None])) for i, x in enumerate(X)}
    clear = {i: gap for i, gap in gaps.items() if abs(gap) > 0.1}
    assert len(clear) >= 6
    for i, gap in clear.items():
        assert float(gradients(score, X[i], black).sum()) == pytest.approx(gap, rel=0.01)
    few = [float(gradients(score, X[i], black, most=50).sum()) / gap for i, gap in clear.items()]
    assert max(abs(share - 1) for share in few) > 0.01  # for which there are more


def test_integrated_gradients_of_a_line_are_its_terms():
    weights, x, black = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 1.0])
    torch.testing.assert_close(gradients(lambda items: items @ weights, x, black), torch.tensor([1.0, 0.0, 3.0]))


def test_a_learner_without_gradients_is_told():
    with pytest.raises(UserError, match="no gradients; type method=occlusion"):
        gradients(lambda items: items.detach().sum(1), torch.ones(3), torch.zeros(3))


def test_occlusion_is_that_of_a_plain_loop(enrolled):
    score, x, gray = score_of(enrolled), X[7], torch.full((1, 16, 16), 0.5)
    masks = torch.from_numpy(windows(16, 16))
    total, count = torch.zeros(16, 16), torch.zeros(16, 16)
    starts = range(0, 15)
    for top in starts:  # windows of 2 pixels, 1 apart
        for left in starts:
            hidden = x.clone()
            hidden[:, top : top + 2, left : left + 2] = 0.5
            with torch.no_grad():
                total[top : top + 2, left : left + 2] += float(score(x[None]) - score(hidden[None]))
            count[top : top + 2, left : left + 2] += 1
    found = spread(occlusion(score, x, gray, masks[:, None]), masks)
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (1, 1), (3, 50), (84, 31)])
def test_windows_cover_all_of_a_picture(height, width):
    masks = torch.from_numpy(windows(height, width))
    assert masks.shape[1:] == (height, width) and bool(masks.any(0).all())
    assert masks.sum((1, 2)).unique().numel() == 1  # all of one size
    assert len(masks) <= 200


def test_a_correlation_is_spearmans():
    one, two = torch.tensor([3.0, 1.0, 1.0, 5.0, 2.0]), torch.tensor([0.5, 0.1, 0.2, 0.2, 9.0])
    assert alike(one, two) == pytest.approx(spearmanr(one, two).statistic, abs=1e-6)
    assert alike(one, one) == pytest.approx(1) and alike(one, -one) == pytest.approx(-1)
    assert alike(one, torch.ones(5)) is None and alike(one[:2], two[:2]) is None


def test_a_shuffled_network_has_the_same_weights_in_another_order(enrolled):
    before = {name: t.clone() for name, t in enrolled.encoder.named_parameters()}
    other, again = shuffled(enrolled, X, 0), shuffled(enrolled, X, 0)
    for (name, own), same in zip(other.encoder.named_parameters(), again.encoder.parameters(), strict=True):
        assert torch.equal(own.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(own, same)
        assert own.ndim == 1 or not torch.equal(own, before[name])
    assert all(torch.equal(t, before[name]) for name, t in enrolled.encoder.named_parameters())
    moved = {n for n, t in other.encoder.named_buffers() if not torch.equal(t, enrolled.encoder.get_buffer(n))}
    assert len(moved) == 8  # mean and variance of each layer are those of the shuffled network
    assert not torch.allclose(embedded(other.learner, other.encoder, X), embedded(other.learner, enrolled.encoder, X))

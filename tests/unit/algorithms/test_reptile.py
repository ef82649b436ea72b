"""Reptile's outer step and its batches against an independent plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unit.algorithms.adapting import WAY, learner_of, loss_of, output, slopes, task

from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.core.network import Params
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import answered, trained

LR, EPSILON, SHOT = 0.2, 0.7, 4


def stepped(p: Params, x: Tensor, y: Tensor) -> Params:
    p = {n: t.detach().requires_grad_() for n, t in p.items()}
    slope = slopes(loss_of(output(p, x), y), p, keep=False)
    return {n: t.detach() - LR * slope[n] for n, t in p.items()}


def halves(episode: Episode) -> list[Tensor]:
    """Return where the items of two batches are, which share each class's items between them in turns."""
    if episode.support_y.is_floating_point():
        places = [torch.arange(len(episode.support_y))]
    else:
        places = [(episode.support_y == k).nonzero()[:, 0] for k in range(WAY)]
    return [torch.cat([at[half::2] for at in places]) for half in range(2)]


@pytest.mark.parametrize("numbers", [False, True])
def test_sgd_with_lr_epsilon_takes_the_papers_step(numbers: bool) -> None:
    learner = learner_of(Reptile(LR, inner_steps=3, inner_batch=6))
    episodes = [task(numbers, SHOT, seed) for seed in range(2)]
    start = {n: p.detach().clone() for n, p in learner.net.params.items()}
    ends = []
    for episode in episodes:
        first, second = halves(episode)
        fast = start
        for at in (first, second, first):
            fast = stepped(fast, episode.support_x[at], episode.support_y[at])
        output_, found = output(fast, episode.query_x), trained(learner, episode)
        torch.testing.assert_close(found.logits, output_)
        torch.testing.assert_close(found.loss, loss_of(output_, episode.query_y))
        (found.loss / len(episodes)).backward()
        ends.append(fast)
    for name, p in learner.net.params.items():
        expected = start[name] + EPSILON * torch.stack([end[name] - start[name] for end in ends]).mean(0)
        assert p.grad is not None
        torch.testing.assert_close(p.detach() - EPSILON * p.grad, expected)  # a step of SGD


def test_a_batch_that_is_larger_than_the_support_set_is_all_of_it() -> None:
    learner, episode = learner_of(Reptile(LR, inner_steps=1, inner_batch=100)), task()
    fast = stepped(learner.net.params, episode.support_x, episode.support_y)
    torch.testing.assert_close(trained(learner, episode).logits, output(fast, episode.query_x))


def test_a_new_task_is_learnt_by_test_steps_on_all_of_its_support_set() -> None:
    learner, episode = learner_of(Reptile(LR, inner_steps=1, inner_batch=1, test_steps=3)), task()
    fast = learner.net.params
    for _ in range(3):
        fast = stepped(fast, episode.support_x, episode.support_y)
    found = answered(learner, episode.support_x, episode.support_y, episode.query_x)
    torch.testing.assert_close(found, output(fast, episode.query_x))

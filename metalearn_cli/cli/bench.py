"""`mlx doctor --bench`: the time of a meta-training step on this machine, by task batching and by precision."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import get_args

import torch
from torch import Tensor

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.cli.composing import defaults
from metalearn_cli.core.config import Precision, TaskBatching
from metalearn_cli.core.config import Runtime as RuntimeConfig
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.network import Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, trained
from metalearn_cli.engine.runtime import Runtime, tune
from metalearn_cli.engine.tasks import Tasks

TASKS, WAY, QUERY, SIZE = 8, 5, 15, 28
TURNS = 5


def measure(tasks: int = TASKS, hidden: int = 64) -> dict[str, dict[str, str]]:
    """Return the median time of a MAML step (second order, one inner step), under headings.

    Args:
        tasks: 5-way 1-shot tasks with 15 queries, in one meta-batch.
        hidden: channels of conv4.
    """
    tune()
    shape = f"{tasks} tasks of 5-way 1-shot, conv4 with {hidden} channels, 28x28"
    usual = defaults("meta-train").runtime
    ways = {name: replace(usual, task_batching=name) for name in get_args(TaskBatching)}
    found = {f"task_batching: a step of MAML, {shape}": _in_turn(ways, tasks, hidden)}
    exact, _ = _step(replace(usual, precision="64-true"), tasks, hidden)
    reference = exact()
    precisions = {name: replace(usual, precision=name) for name in get_args(Precision)}
    heading = "precision: the same, and the relative error of the meta-gradient against 64-true"
    found[heading] = _in_turn(precisions, tasks, hidden, reference)
    return found


def _in_turn(
    configs: dict[str, RuntimeConfig], tasks: int, hidden: int, reference: Tensor | None = None
) -> dict[str, str]:
    """Measure all settings in turn, so that other load of the machine affects all of them equally."""
    steps, told = {}, {}
    for name, config in configs.items():
        try:
            steps[name], how = _step(config, tasks, hidden)
            gradient = steps[name]()
        except ConfigError as error:
            told[name] = f"not possible here: {error.problems[0].message}"
            continue
        told[name] = how
        if reference is not None:
            told[name] = f"error {(gradient - reference).norm() / reference.norm():.1e}"
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    return {n: f"{1000 * median(seconds[n]):.0f} ms, {text}" if n in seconds else text for n, text in told.items()}


def _step(config: RuntimeConfig, tasks: int, hidden: int) -> tuple[Callable[[], Tensor], str]:
    """Return a function for the meta-gradient (one float64 vector on the CPU), and a description of its computation."""
    runtime, maml = Runtime(config), Maml(0.4, 1)
    with seeded(0, "bench"):
        net = network(Conv4((1, SIZE, SIZE), hidden), WAY, runtime.under_precision)
        support_x, query_x = (torch.rand(tasks, WAY * n, 1, SIZE, SIZE) for n in (1, QUERY))
        torch.nn.init.normal_(net.params["head.weight"].detach(), std=0.1)
    y = torch.arange(WAY).expand(tasks, -1)
    episodes = Episode(support_x, y, query_x, y.repeat_interleave(QUERY, dim=1))
    episodes = runtime.cast(episodes.map(lambda part: part.to(runtime.device)))
    learner, params = Learner(maml, net, {}, WAY, "transductive"), runtime.place(net.params)
    planned = Tasks(runtime, tasks)

    def task(params: Params, episode: Episode) -> dict[str, Tensor]:
        return {"loss": trained(learner.of(params), episode).loss}

    def step() -> Tensor:
        for p in params.values():
            p.grad = None
        planned.gradients(task, params, episodes)
        return torch.cat([p.grad.flatten().double().cpu() for p in params.values() if p.grad is not None])

    return step, planned.description

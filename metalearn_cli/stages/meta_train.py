"""Meta-training: learn, over many episodes of training classes, to adapt to new classes from a few examples.

Legend: T tasks per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from metalearn_cli.backbones.common.weights import without_weights
from metalearn_cli.core.build import build
from metalearn_cli.core.check import shown
from metalearn_cli.core.config import TRAIN_QUERY, EpisodeShape, MetaTrainConfig
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.learning import score
from metalearn_cli.core.network import Network, Params
from metalearn_cli.core.types import Algorithm, Dataset, Episode, Sampler
from metalearn_cli.engine.episodes import OWN, Learner, fitted, trained
from metalearn_cli.engine.loop import Job
from metalearn_cli.engine.tasks import Tasks
from metalearn_cli.records.plots import episode_picture
from metalearn_cli.stages.curves import draw_curves, is_curve
from metalearn_cli.stages.frozen import on_features
from metalearn_cli.stages.learner import check_learner, check_protocols, fresh_learner, fresh_network, try_learner
from metalearn_cli.stages.preparing import as_seen, describe_data, metric_of, validation
from metalearn_cli.stages.session import Session


def meta_train(config: MetaTrainConfig, session: Session) -> Job:
    """Train a learner on batches of episodes; its score on validation classes selects the best."""
    runtime = session.runtime(config.runtime)
    algorithm: Algorithm = build(config.algorithm, "algorithm")
    data = session.data(config.data, runtime)
    samplers = _samplers(config, algorithm, data)
    answers = data.facts.outputs or config.episode.way
    net = fresh_network(config.backbone, data.facts, answers if algorithm.traits.head else None, config.seed, runtime)
    way = data.facts.outputs or samplers["train"].way
    learner = fresh_learner(algorithm, net, way, config.normalisation, config.seed)
    valid = learner.at(1.0)._replace(way=answers)
    metric = metric_of(samplers["val"])
    tasks = Tasks(runtime, len(runtime.ranks.own(config.tasks)), algorithm.traits.batchable)

    def task(learner: Learner, tensors: Params, episode: Episode) -> dict[str, Tensor]:
        output = trained(learner.of(tensors), episode)
        return {"loss": output.loss, metric.name: score(output.logits, episode.query_y)}

    def computed(net: Network, data: Dataset) -> dict[str, Any]:
        """Return the entries of the job that compute."""
        samplers, own = _samplers(config, algorithm, data), learner._replace(net=net)
        whole = partial(task, own)
        valid = own.at(1.0)._replace(way=config.episode.way)

        def gradients(tensors: Params, episodes: Episode, step: int) -> Mapping[str, Tensor]:
            now = partial(task, own.at(step / config.steps)) if hasattr(algorithm, "at") else whole
            return tasks.gradients(now, tensors, episodes)

        return {
            "batches": lambda step: runtime.cast(samplers["train"].batch(step, config.tasks, runtime.ranks.share)),
            "gradients": gradients,
            "evaluate": validation(valid, samplers["val"], config.val_episodes, runtime),
        }

    few = runtime.cast(samplers["train"].batch(0, 2))
    try_learner(learner, few, runtime)
    if way != answers:  # not every learner can answer for another number of classes
        try_learner(valid, runtime.cast(samplers["val"].batch(0, 1)), runtime)
    if reason := tasks.refused(partial(task, learner), runtime.place(learner.tensors), few):
        raise ConfigError([Problem("runtime.task_batching", reason)])

    def pictures(tensors: Params, folder: Path) -> None:
        episode, drawn = runtime.cast(samplers["val"].batch(0, 1)).map(itemgetter(0)), valid.of(tensors)
        if is_curve(episode):
            return draw_curves(drawn, [episode], "a validation episode", folder / "episode.png")
        if data.facts.kind != "image":
            return
        with torch.no_grad():
            fit = fitted(drawn, episode.support_x, episode.support_y, episode.query_x)
        shown, fit = tree_map_only(Tensor, lambda t: t.float().cpu(), (episode, fit))
        shown = shown._replace(**{x: as_seen(getattr(shown, x), data) for x in ("support_x", "query_x")})
        (names,) = samplers["val"].classes(1)
        episode_picture(shown, fit.after, names, folder / "episode.png")

    if not learner.net.params and not learner.own:
        kind, frozen = type(algorithm).__name__, shown(config.backbone.get("train"))
        message = f"{kind} has no tensors besides the backbone's, so with {frozen} there is nothing to meta-train"
        cure = "score it with: mlx evaluate ckpt=null, or let blocks learn: backbone.train=last:1"
        raise ConfigError([Problem("backbone.train", f"{message}; {cure}")])
    rates = algorithm.rates(learner.own) if hasattr(algorithm, "rates") else dict.fromkeys(learner.own, 1.0)
    job = Job(
        params=learner.tensors,
        rates=dict.fromkeys(net.params, 1.0) | {OWN + name: rate for name, rate in rates.items()},
        **computed(net, data),
        metric=metric,
        model={
            "backbone": without_weights(config.backbone),
            "shape": data.facts.plain_shape,
            "facts": data.facts.record,
            "algorithm": dict(config.algorithm),
            "way": config.episode.way if algorithm.traits.head else None,
            "episode": {"way": samplers["train"].way, "shot": config.train_shot or config.shot},
            "val_episode": {"way": config.episode.way, "shot": config.episode.shot},
            "normalisation": config.normalisation,
        },
        data=describe_data(data, config.data),
        pictures=pictures,
        notes=(f"{config.tasks} tasks a step, {tasks.description}",),
        learns_from=("tasks", config.tasks),
        normalisation=config.normalisation if net.batch_statistics or algorithm.traits.uses_queries else "none",
    )
    if algorithm.traits.sees == "maps":
        return job
    return on_features(job, computed, net, data, config.backbone, runtime)


def _samplers(config: MetaTrainConfig, algorithm: Algorithm, data: Dataset) -> dict[str, Sampler]:
    """Return the episodes of training and of validation.

    Raises:
        ConfigError: with all conflicts between settings, data and learner.
    """
    name, traits = type(algorithm).__name__, algorithm.traits
    (usual_way, usual_shot, usual_query), problems = config.episode, list[Problem]()
    train_way = config.train_way or usual_way
    samplers: dict[str, Sampler] = {}
    wanted = {
        "train": (train_way, config.train_shot or usual_shot, config.train_query or min(TRAIN_QUERY, usual_query)),
        "val": (usual_way, usual_shot, usual_query),
    }
    for split, (way, shot, query) in wanted.items():
        try:
            samplers[split] = data.episodes(split, way=way, shot=shot, query=query, seed=config.seed)
        except UserError as error:
            found = error.problems if isinstance(error, ConfigError) else [Problem("", str(error))]
            own = {k: f"train_{k}" for k in EpisodeShape._fields if split == "train" and getattr(config, f"train_{k}")}
            if "shot" in own:  # there are too few items for shot + query
                own.setdefault("query", own["shot"])
            problems += [problem._replace(key=own.get(problem.key, problem.key)) for problem in found]
    problems += check_learner(algorithm, data.facts, config.runtime.precision)
    problems += check_protocols(algorithm, [config.normalisation])
    if not traits.learns:
        message = "has nothing to meta-train; score it with: mlx evaluate algorithm=..."
        problems.append(Problem("algorithm", f"{name} {message}"))
    if traits.head and train_way != usual_way:
        message = f"must equal way ({usual_way}) or be null: the head has one output per way, got {train_way}"
        problems.append(Problem("train_way", message))
    if hasattr(algorithm, "at") and config.runtime.task_compile:
        problems.append(Problem("runtime.task_compile", f"{name} changes from step to step; set it to false"))
    if (chunk := config.runtime.task_chunk or 1) > config.tasks:
        problems.append(Problem("runtime.task_chunk", f"must be at most tasks ({config.tasks}), got {chunk}"))
    if (ranks := config.runtime.devices) != "auto" and isinstance(ranks, int) and ranks > config.tasks:
        problems.append(Problem("tasks", f"must be at least {ranks}, a task for each rank, got {config.tasks}"))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return samplers

"""Meta-training: learn over many episodes of training classes what adapts to new classes from a few examples.

Legend: T tasks per step.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.core.build import build
from metalearn_cli.core.config import MetaTrainConfig
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.functional import pure
from metalearn_cli.core.learning import score
from metalearn_cli.core.types import Algorithm, Episode, Params
from metalearn_cli.engine.evaluation import under_protocol
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.engine.tasks import Tasks
from metalearn_cli.records.plots import episode_picture
from metalearn_cli.stages.preparing import Job, describe_data, fresh_network, load_data, metric_of, validation


def meta_train(config: MetaTrainConfig, runtime: Runtime) -> Job:
    """Train a learner on batches of episodes; its score on validation classes selects the best."""
    algorithm: Algorithm = build(config.algorithm, "algorithm")
    data = load_data(config.data, runtime)
    train_way = config.train_way or config.way
    problems = check_learner(algorithm, data.regression, config.runtime.precision)
    if not algorithm.learns:
        message = "has nothing to meta-train; score it with: mlx evaluate algorithm=..."
        problems.append(Problem("algorithm", f"{type(algorithm).__name__} {message}"))
    if algorithm.needs_head and train_way != config.way:
        message = f"must equal way ({config.way}) or be null: the head has one output per way, got {train_way}"
        problems.append(Problem("train_way", message))
    samplers = {}
    wanted = {"train": (train_way, config.train_query or config.query), "val": (config.way, config.query)}
    for split, (way, query) in wanted.items():
        try:
            samplers[split] = data.episodes(split, way=way, shot=config.shot, query=query, seed=config.seed)
        except UserError as error:
            found = error.problems if isinstance(error, ConfigError) else [Problem("", str(error))]
            own = {k: f"train_{k}" for k in ("way", "query") if split == "train" and getattr(config, f"train_{k}")}
            problems += [problem._replace(key=own.get(problem.key, problem.key)) for problem in found]
    if (chunk := config.runtime.task_chunk or 1) > config.tasks:
        problems.append(Problem("runtime.task_chunk", f"must be at most tasks ({config.tasks}), got {chunk}"))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    network = fresh_network(config.backbone, data.shape, config.way if algorithm.needs_head else None, config.seed)
    apply, params = pure(network)
    apply = runtime.under_precision(apply)
    params = algorithm.init(params)
    metric = metric_of(samplers["val"])
    tasks = Tasks(runtime, config.tasks)

    def task(params: Params, episode: Episode) -> dict[str, Tensor]:
        run = under_protocol(apply, episode, config.normalisation)
        output = algorithm(run, params, episode, way=train_way)
        return {"loss": output.loss, metric: score(output.logits, episode.query_y)}

    def batches(step: int, tasks: int = config.tasks) -> Episode:
        return runtime.cast(samplers["train"].batch(step, tasks))

    if reason := tasks.refused(task, runtime.place(params), batches(0, tasks=2)):
        raise ConfigError([Problem("runtime.task_batching", reason)])

    def pictures(params: Params, folder: Path) -> None:
        if len(data.shape) != 3:
            return
        with torch.no_grad():
            episode = runtime.cast(Episode(*(part[0] for part in samplers["val"].batch(0, 1))))
            run = under_protocol(apply, episode, config.normalisation)
            logits = algorithm(run, params, episode, way=config.way).logits
        shown = Episode(*(part.float().cpu() for part in episode))
        episode_picture(shown, logits.float().cpu(), folder / "episode.png")

    return Job(
        params=params,
        rates=dict.fromkeys(params, 1.0),
        batches=batches,
        gradients=lambda params, episodes: tasks.gradients(task, params, episodes),
        evaluate=validation(algorithm, apply, samplers["val"], config.val_episodes, config.normalisation, runtime),
        metric=f"val/{metric}",
        higher_is_better=not data.regression,
        model={
            "backbone": dict(config.backbone),
            "shape": list(data.shape),
            "algorithm": dict(config.algorithm),
            "way": config.way if algorithm.needs_head else None,
            "normalisation": config.normalisation,
        },
        data=describe_data(data, config.data),
        pictures=pictures,
        notes=(f"{config.tasks} tasks a step, {tasks.description}",),
    )


def check_learner(algorithm: Algorithm, regression: bool, precision: str) -> list[Problem]:
    """Return what a learner cannot do with this data or in this precision."""
    name = type(algorithm).__name__
    problems = []
    if regression and not algorithm.handles_regression:
        problems.append(Problem("algorithm", f"{name} classifies, but this data's targets are numbers; use maml"))
    if algorithm.inner_gradients and precision == "16-mixed":
        message = f"16-mixed scales losses, which gradients inside {name} do not survive; use bf16-mixed or 32-true"
        problems.append(Problem("runtime.precision", message))
    return problems

"""The table of stages: every fact about a stage besides its code is in its row. Needs no torch."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """The facts about a stage.

    Attributes:
        name: as it is typed ("meta-train").
        about: one line for `mlx --help`.
        accepts: the stages whose checkpoints it may start from.
        then: the next stage and its setting for the checkpoint ("transfer init_from"), or "".
        memory: settings that its memory depends on, named when there is not enough.
        fixed: settings that `mlx resume` cannot change.
        examples: command lines for `mlx STAGE --help`.
    """

    name: str
    about: str
    accepts: tuple[str, ...]
    then: str
    memory: tuple[str, ...]
    fixed: frozenset[str]
    examples: tuple[str, ...]

    @property
    def section(self) -> str:
        """The stage's section in the settings of `mlx run`."""
        return self.name.replace("-", "_")


_FIXED = frozenset({"backbone", "data", "init_from", "reinit", "runs_dir", "way"})
_OF_EPISODES = ("runtime.task_chunk", "runtime.threads", "runtime.precision", "way", "shot", "query")

TABLE = {
    stage.name: stage
    for stage in (
        Stage(
            name="pretrain",
            about="learn a representation without labels",
            accepts=("pretrain",),
            then="transfer init_from",
            memory=("batch_size", "runtime.precision"),
            fixed=_FIXED | {"model"},
            examples=("mlx pretrain model=gan", "mlx pretrain data=omniglot steps=2000 optimizer.lr=0.0005"),
        ),
        Stage(
            name="transfer",
            about="carry it over to a related labelled task",
            accepts=("pretrain", "transfer"),
            then="meta-train init_from",
            memory=("batch_size", "runtime.precision"),
            fixed=_FIXED | {"method", "teacher", "also"},
            examples=(
                "mlx transfer init_from=latest:pretrain",
                "mlx transfer init_from=null method.blocks=2",
            ),
        ),
        Stage(
            name="meta-train",
            about="learn to learn over many few-shot tasks",
            accepts=("pretrain", "transfer", "meta-train"),
            then="evaluate ckpt",
            memory=("tasks", *_OF_EPISODES, "train_way", "train_shot", "train_query"),
            fixed=_FIXED | {"algorithm"},
            examples=(
                "mlx meta-train algorithm=maml algorithm.inner_steps=5",
                "mlx -m meta-train algorithm=maml,protonet seed=1,2",
            ),
        ),
        Stage(
            name="evaluate",
            about="accuracy on unseen classes, with a 95 % interval",
            accepts=("pretrain", "transfer", "meta-train"),
            then="",
            memory=_OF_EPISODES,
            fixed=frozenset(),
            examples=(
                "mlx evaluate ckpt=latest:meta-train",
                "mlx evaluate ckpt=null backbone=conv4 data=glyphs way=20",
            ),
        ),
    )
}
"""All stages, in the order of the chain."""

TRAINING = tuple(name for name in TABLE if name != "evaluate")
"""The stages that train, in the order of the chain."""

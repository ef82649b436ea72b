"""`mlx compress`: a smaller network in place of a trained one, trained further by its own stage, and what that costs.

A pruned network is written as a run of its own, an ordinary checkpoint of the same stage; a distilled one is a run of
transfer with the method `distill`. Then the stage that trained the checkpoint trains the smaller network, with the same
settings. Runs that are there already are not done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from metalearn_cli import stages
from metalearn_cli.backbones.common.weights import without_weights
from metalearn_cli.core.check import counted
from metalearn_cli.core.config import STAGES, EvaluateConfig, Training, TransferConfig, digest, parse, plain
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import each
from metalearn_cli.core.machine import median_seconds
from metalearn_cli.core.metric import ACCURACY
from metalearn_cli.core.network import BACKBONE
from metalearn_cli.core.types import Reporter
from metalearn_cli.deploy.folding import folded, statistics_of
from metalearn_cli.deploy.pruning import DISTIL, narrower, pruned
from metalearn_cli.deploy.trained import REFERENCE, backbone_of, data_of, facts_of_checkpoint
from metalearn_cli.engine.stepper import Memory
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import Checkpoint, Checkpoints, open_checkpoint, read_classes
from metalearn_cli.records.log import working_on
from metalearn_cli.stages.learner import fresh_backbone
from metalearn_cli.stages.scores import Scores, gain_of

FILE = "compress.json"


class Asked(NamedTuple):
    """What is to be done.

    Attributes:
        checkpoint: what is made smaller.
        amount: the share of the channels that is taken away, in (0, 1).
        changes: changes of the settings of its stage, by dotted keys.
        evaluate: the settings of the evaluations.
        given: settings of their learner, see `stages.run`.
        transfer: to distil, the settings of `mlx transfer`; None to prune.
        student: to distil, the settings of the smaller network; None for a narrower one of the same kind.
        runs_dir: the folder of all runs.
    """

    checkpoint: Checkpoint
    amount: float
    changes: Mapping[str, Any]
    evaluate: EvaluateConfig
    given: Mapping[str, Any] | None
    transfer: Mapping[str, Any] | None
    student: Mapping[str, Any] | None
    runs_dir: str

    @property
    def stage(self) -> str:
        """The stage that has trained the checkpoint."""
        return str(self.checkpoint.manifest["stage"])

    @property
    def backbone(self) -> dict[str, Any]:
        """The settings of the smaller network.

        Raises:
            UserError: if there is none.
        """
        own = without_weights(self.checkpoint.manifest["model"]["backbone"])
        learning = {"train": "all"} if "train" in own else {}
        return dict(self.student or narrower(own | learning, self.amount))

    def config(self, start: str) -> Training:
        """Return the settings with which the stage trains the smaller network.

        Args:
            start: the checkpoint that it starts from.

        Raises:
            UserError: if the settings of its run are gone, or cannot be changed so.
        """
        folder = self.checkpoint.folder.parent.parent
        if not (folder / "config.json").is_file():
            told = f"{self.checkpoint.folder} is not in the folder of its run, which has the settings of its training"
            raise UserError(f"{told}; name the run")
        values = stages.recorded_settings(folder, self.stage)
        stages.change(values, self.changes)
        own = {"backbone": self.backbone, "init_from": start, "reinit": [], "runs_dir": self.runs_dir}
        config: Any = parse(STAGES[self.stage], values | own)
        return cast(Training, config)


def compress(asked: Asked, reporter: Reporter) -> dict[str, Any]:
    """Make a network smaller, train it, and evaluate it before and after on the same test episodes.

    Args:
        asked: what is to be done.
        reporter: gets progress and notes.

    Returns:
        The record, which is also written as compress.json into the folder of the last run: `networks`, before and
        after, each with its `checkpoint` and `run`, the `parameters` of its backbone, the `bytes` of its tensors, the
        `seconds` of its backbone for one item on this machine, and the `results` of its evaluation; and `changes`, what
        is gained under each protocol, see `stages.scores.gain_of`.

    Raises:
        UserError: if the network cannot be made smaller, or cannot be trained.
        Stopped: after a signal.
    """
    if facts_of_checkpoint(asked.checkpoint).regression:
        raise UserError(f"{asked.checkpoint.folder} predicts numbers; only networks of classifiers can be made smaller")
    if asked.transfer is None:
        start = _pruned(asked, reporter)
    else:
        start = _distilled(asked, asked.transfer, reporter)
    last = start
    if asked.transfer is None or asked.stage == "meta-train":
        last = stages.run(asked.stage, asked.config(start), reporter, again=True)["checkpoint"]
    folders = {"trained": asked.checkpoint.folder, "smaller": Path(last)}
    scored = {}
    for name, folder in folders.items():
        config = replace(asked.evaluate, ckpt=str(folder), runs_dir=asked.runs_dir)
        scored[name] = stages.run("evaluate", config, reporter, asked.given, again=True)
    networks = [
        {"name": name, **_measured(open_checkpoint(folder)), "results": scored[name]["results"]}
        for name, folder in folders.items()
    ]
    record = {
        "method": "prune" if asked.transfer is None else "distill",
        "amount": None if asked.student else asked.amount,
        "data": {key: scored["smaller"]["data"].get(key) for key in ("name", "protocol", "fingerprint")},
        "networks": networks,
        "changes": _changes(*scored.values()),
        "run": folders["smaller"].parent.parent.name,
    }
    runs.write_json(folders["smaller"].parent.parent / FILE, record)
    return {**record, "checkpoint": last}


def _pruned(asked: Asked, reporter: Reporter) -> str:
    """Return the folder of the pruned checkpoint: that of an earlier command, or a new one.

    Raises:
        UserError: if the network cannot be pruned.
    """
    checkpoint, manifest, spec = asked.checkpoint, asked.checkpoint.manifest, asked.backbone
    if (learning := manifest["model"]["backbone"].get("train", "all")) != "all":
        raise UserError(
            f"the backbone is frozen (backbone.train={learning}), so that pruning cannot be repaired; {DISTIL}"
        )
    config = asked.config(str(checkpoint.folder))
    narrow = fresh_backbone(spec, facts_of_checkpoint(checkpoint), seed=0)
    tensors = {BACKBONE + name: t for name, t in pruned(backbone_of(checkpoint), narrow).items()}
    key = digest(["compress", spec, checkpoint.sha256])
    done = (run for run in runs.list_runs(asked.runs_dir) if run.get("key") == key and run["status"] == "completed")
    if same := next(done, None):
        reporter.note(f"prune: already done in {same['folder']}, skipped")
        return f"{same['folder']}/checkpoints/{same['best']}"
    facts = {"parent": checkpoint.parent_entry, "data": manifest["data"]}
    run = runs.create(asked.runs_dir, asked.stage, plain(config), key=key, steps=0, **facts)
    with working_on(run):
        model = {key: manifest["model"].get(key) for key in ("shape", "facts")} | {"backbone": spec}
        own = {"run": run.info["id"], "stage": asked.stage, "model": model, **facts, "config_hash": key}
        saved = Checkpoints(run.folder, 1, ACCURACY, own, read_classes(checkpoint))
        saved.save(0, tensors, {"optimizer": {}, "memory": asdict(Memory())}, {})
        run.update(status="completed", finished_at=runs.now(), seconds=0.0, **saved.summary(0))
    before = manifest["model"]["backbone"]["hidden"]
    reporter.note(f"prune: {before} -> {counted(spec['hidden'], 'channel')}, in {run.folder}")
    return str(run.folder / "checkpoints" / run.info["best"])


def _distilled(asked: Asked, transfer: Mapping[str, Any], reporter: Reporter) -> str:
    """Return the folder of the checkpoint of a student, which transfer has trained.

    Raises:
        UserError: if it cannot.
    """
    teacher = asked.checkpoint
    own = {"data": teacher.manifest["data"]["spec"], "backbone": asked.backbone, "init_from": None}
    config = parse(TransferConfig, {**transfer, **own, "teacher": str(teacher.folder), "runs_dir": asked.runs_dir})
    if asked.stage == "meta-train":
        asked.config(str(teacher.folder))  # what is wrong with it is told before transfer has run
    return str(stages.run("transfer", config, reporter, again=True)["checkpoint"])


def _measured(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the size of a checkpoint's backbone, and how long it takes for one item."""
    backbone, files = backbone_of(checkpoint), checkpoint.manifest["files"]
    x, _ = data_of(checkpoint).batch("train", "all", REFERENCE, seed=0, step=0)
    encoder = folded(backbone, statistics_of(backbone, x) if backbone.batch_statistics else {})
    one = each(lambda part: part[:1], x)
    with torch.no_grad():
        seconds = median_seconds(lambda: encoder(one))
    return {
        "checkpoint": str(checkpoint.folder),
        "run": checkpoint.manifest["run"],
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "bytes": sum(file.get("bytes", 0) for name, file in files.items() if name.endswith(".safetensors")),
        "seconds": seconds,
    }


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the second of two evaluations on the same episodes has gained, under each protocol."""
    count = before["results"][0]["over"]["episodes"]
    first, second = (Scores.read(Path(run["folder"]), count) for run in (before, after))
    names = second.protocols if "none" in first.protocols else first.protocols  # "none" goes with each
    return [
        {"normalisation": name, **gain_of((second.under(name) - first.under(name))[None], first.classes)}
        for name in names
    ]

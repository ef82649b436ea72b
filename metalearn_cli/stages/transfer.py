"""Transfer: adapt a pretrained backbone to a labelled task, the classification of the training classes.

The last fifth of each class's items is held out; the accuracy on it (label_accuracy) is reported, and the few-shot
accuracy on validation classes (accuracy). The latter selects the best checkpoint, because the next stage needs
features, not this classifier. What transfer starts from competes as step 0: where it is better, it is handed on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.common.weights import without_weights
from metalearn_cli.core.build import Spec, build, problems_of
from metalearn_cli.core.check import in_shell
from metalearn_cli.core.config import TransferConfig
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.learning import score, task_loss
from metalearn_cli.core.metric import ACCURACY, LABEL_ACCURACY
from metalearn_cli.core.network import BACKBONE, HEAD, Network, Params, dealt, network
from metalearn_cli.core.random import derive_seed, seeded
from metalearn_cli.core.types import Dataset, Method
from metalearn_cli.engine.loop import Job
from metalearn_cli.engine.runtime import Runtime
from metalearn_cli.records.checkpoint import Checkpoint, load_into, read_classes
from metalearn_cli.records.names import name_of
from metalearn_cli.stages.frozen import on_features
from metalearn_cli.stages.learner import fresh_backbone
from metalearn_cli.stages.preparing import (
    INSTEAD,
    check_dealt,
    check_folds,
    describe_data,
    few_shot_probe,
    named_checkpoint,
    of_another_fold,
    probe_protocol,
)
from metalearn_cli.stages.session import Session

TAUGHT, TAUGHT_FEATURES = "taught", "taught_features"
"""The entries of a batch that hold the teacher's logits [B, K] and features [B, E]."""

ALSO = "also"
"""The entry of a batch that holds items and labels of each data set that the method does not name, by their names."""

OWN = "method."
"""Prefix of the names of a method's own tensors."""

_CHUNK = 500  # most items per forward pass when all held-out items are scored; equal parts, for batch statistics


def transfer(config: TransferConfig, session: Session) -> Job:
    """Train a linear classifier, and the tensors of the backbone that the method chooses, on labelled items."""
    runtime = session.runtime(config.runtime)
    data = session.data(config.data, runtime)
    if data.facts.regression:
        raise ConfigError([Problem("data", f"{data.name} has no classes, which transfer learns; {INSTEAD}")])
    backbone = fresh_backbone(config.backbone, data.facts, config.seed)
    net = network(backbone, data.facts.classes, runtime.under_precision)
    method: Method = build(config.method, "method")
    try:
        rates = _at(method, 1.0).rates(net)
    except ValueError as error:
        raise ConfigError([Problem(f"method.{str(error).split(' ', 1)[0]}", str(error))]) from error
    learns = any(name.startswith(BACKBONE) for name in rates)
    check_dealt("method", method, backbone if learns else nn.Identity(), config, config.batch_size)
    ranks = runtime.ranks
    total = ranks.total(config.batch_size) if ranks.world > 1 else None
    more = {name: session.data(spec, runtime) for name, spec in config.also.items()}
    teacher = named_checkpoint("transfer", "teacher", config, session)
    _check(config, method, data, more)
    asks = getattr(method, "asks", ())
    taught = teacher and _network_of(teacher, net if TAUGHT in asks else None, data, config.data, runtime)
    sizes = {name: other.facts.classes for name, other in more.items() if name not in asks}
    if taught:
        sizes[TAUGHT_FEATURES] = taught.out_dim
    with seeded(config.seed, "method"):
        own = method.init(net, sizes) if hasattr(method, "init") else {}
    own = {OWN + name: tensor.detach().requires_grad_() for name, tensor in own.items()}
    start: Params = {}

    def begin(params: Params) -> None:
        # copies: training changes the tensors in place
        start.update({name: params[name].detach().clone() for name in net.params})

    def computed(net: Network, data: Dataset) -> dict[str, Any]:
        """Return the entries of the job that compute."""
        probe = few_shot_probe(net, data, config, runtime)

        def batches(step: int) -> dict[str, Any]:
            x, y = data.batch("train", "fit", config.batch_size, config.seed, step, ranks.share)
            drawn = {  # each with its own seed, so that the same data set gives other items
                name: other.batch("train", "all", config.batch_size, derive_seed(config.seed, name), step, ranks.share)
                for name, other in more.items()
            }
            named = {name: items for name, (items, _) in drawn.items() if name in asks}
            others = {name: pair for name, pair in drawn.items() if name not in asks}
            return runtime.cast({"x": x, "y": y, **named, **({ALSO: others} if others else {})})

        def gradients(params: Params, batch: dict[str, Any], step: int) -> Mapping[str, Tensor]:
            if taught:
                with torch.no_grad(), dealt(total):
                    z = taught.features(taught.params, batch["x"])
                    batch = {**batch, TAUGHT_FEATURES: z}
                    if TAUGHT in asks:
                        batch[TAUGHT] = taught.head(taught.params, z)
            with dealt(total):
                loss, logits = method_loss(_at(method, step / config.steps), net, params, start, batch)
            runtime.backward(loss)
            return {"loss": loss.detach(), LABEL_ACCURACY.name: score(logits, batch["y"])}

        def evaluate(params: Params) -> dict[str, float]:
            params = merged(method, net, params)
            run = net.of(params)
            with torch.no_grad():
                held_out = map(runtime.cast, data.all("train", "held_out", _CHUNK))
                parts = [(run.output(run.params, x), y) for x, y in held_out]
            logits, labels = map(torch.cat, zip(*parts, strict=True))
            return {f"val/{LABEL_ACCURACY.name}": score(logits, labels).item(), **probe(params)}

        return {"batches": batches, "gradients": gradients, "evaluate": evaluate}

    described = describe_data(data, config.data)
    if teacher:
        check_folds("teacher", teacher, described)
    if more:
        described["also"] = {name: describe_data(other, config.also[name]) for name, other in more.items()}
        _check_folds_of_also(described)
    job = Job(
        params=net.params | net.constants | own,
        rates=rates | dict.fromkeys(own, 1.0),
        **computed(net, data),
        metric=ACCURACY,
        model={
            "backbone": without_weights(config.backbone),
            "shape": data.facts.plain_shape,
            "facts": data.facts.record,
            "method": dict(config.method),
        },
        data=described,
        teacher=teacher.parent_entry if teacher else None,
        notes=(*_told(config, teacher, data), *_repeated(config, data, more)),
        keeps_start=getattr(method, "keeps_start", False),
        buffers=tuple(net.constants),
        merged=partial(merged, method, net),
        begin=begin if hasattr(method, "loss") else None,
        learns_from=("items", config.batch_size),
        normalisation=probe_protocol(net),
        baseline=True,
    )
    if hasattr(method, "loss") or taught or more:  # these need the items
        return job
    return on_features(job, computed, net, data, config.backbone, runtime)


def _check_folds_of_also(data: Mapping[str, Any]) -> None:
    """Check that no further data set is of another fold of the same data; `data` is the record of all of them.

    Raises:
        ConfigError: if one is.
    """
    for name, other in data["also"].items():
        if of_another_fold(other, data):
            told = f"is {other['name']} ({other['protocol']}), which trains on test classes of {data['protocol']}"
            fold = data["spec"].get("fold") or "null"
            raise ConfigError([Problem(f"also.{name}", f"{told}; type also.{name}.fold={fold}")])


def _told(config: TransferConfig, teacher: Checkpoint | None, data: Dataset) -> tuple[str, ...]:
    """Return a line on the teacher for the user."""
    if teacher is None:
        return ()
    recorded, other = teacher.manifest["data"], ""
    if recorded.get("fingerprint") != data.fingerprint:
        name = recorded.get("name")
        whose = (
            "other data of this name (another split or other settings)"
            if name == data.name
            else f"{name}, not on this data"
        )
        other = f"; it was trained on {whose}"
    named = f" -> {teacher.folder}" * (config.teacher != str(teacher.folder))
    return (f"teacher {config.teacher}{named}{other}",)


def _repeated(config: TransferConfig, data: Dataset, more: Mapping[str, Dataset]) -> Iterator[str]:
    """Yield a warning for each further data set that is the same as one before it."""
    method, before = name_of("method", config.method), {data.fingerprint: "data"}
    for name, other in more.items():
        if same := before.get(other.fingerprint):
            told = f"also.{name} is the same data as {same}, so that {method} learns nothing new from it"
            yield f"warning: {told}; choose other data with data@also.{name}=NAME"
        before.setdefault(other.fingerprint, f"also.{name}")


def _check(config: TransferConfig, method: Method, data: Dataset, more: Mapping[str, Dataset]) -> None:
    """Check that data and teacher are given if the method asks for them, and only then.

    Raises:
        ConfigError: with all that are missing or unused.
    """
    name, asked = type(method).__name__, getattr(method, "asks", ())
    if not isinstance(asked, tuple) or {"x", "y"} & set(asked):
        raise ConfigError(
            [Problem("method", f'{name}.asks must be a tuple of names other than "x" and "y", got {asked!r}')]
        )
    asks = set(asked)
    named, teaching = asks - {TAUGHT, TAUGHT_FEATURES, ALSO}, asks & {TAUGHT, TAUGHT_FEATURES}
    problems = []
    for wanted in sorted(named - more.keys()):
        problems.append(Problem(f"also.{wanted}", f"{name} needs more data; choose it with data@also.{wanted}=NAME"))
    if ALSO in asks and not more.keys() - named:
        message = f"{name} needs one or more labelled data sets; choose each with data@also.ANY_WORD=NAME"
        problems.append(Problem("also", message))
    for spare in sorted(more.keys() - named if ALSO not in asks else ()):
        problems.append(Problem(f"also.{spare}", f"has no effect: {name} does not ask for it"))
    for given, other in more.items():
        if other.facts.regression:
            problems.append(Problem(f"also.{given}", f"{other.name} is a regression; choose data with classes"))
        elif other.facts.shape != data.facts.shape:
            message = f"{other.name} must have items of the same shape as {data.name}, {data.facts.plain_shape}"
            problems.append(Problem(f"also.{given}", message))
        elif data.facts.vocabulary and other.preprocessing != data.preprocessing:
            message = f"{other.name} must have the ids of {data.name}; choose tokenizer=bytes and one length for both"
            problems.append(Problem(f"also.{given}", message))
    if teaching and config.teacher is None:
        problems.append(Problem("teacher", f"{name} learns from a second checkpoint; name it with teacher=RUN"))
    if not teaching and config.teacher is not None:
        problems.append(Problem("teacher", f"has no effect: {name} does not ask for one"))
    if problems:
        raise ConfigError(problems)


def _network_of(teacher: Checkpoint, like: Network | None, data: Dataset, data_spec: Spec, runtime: Runtime) -> Network:
    """Return the network of a teacher: its own backbone, and its classifier unless `like` is None.

    Raises:
        ConfigError: if it is for other items, or has no classifier of the data's classes, those of the network `like`.
    """
    model, recorded = teacher.manifest["model"], teacher.manifest["data"]
    spec = model.get("backbone")
    if problems_of(spec, "backbone") or model.get("shape") != data.facts.plain_shape:
        message = f"{teacher.folder} has no backbone for items of the shape of {data.name}; name another run"
        raise ConfigError([Problem("teacher", message)])
    # that of a learner is for the classes of an episode
    if like and (teacher.manifest["stage"] != "transfer" or f"{HEAD}weight" not in teacher.manifest["signature"]):
        message = f"{teacher.folder} has no classifier; name a run of transfer"
        raise ConfigError([Problem("teacher", message)])
    if like and recorded.get("name") != data.name:
        message = f"{teacher.folder} is a classifier of {recorded.get('name')}, not of {data.name}; name another run"
        raise ConfigError([Problem("teacher", message)])
    if like and (message := _other_classes(teacher, data, data_spec)):
        raise ConfigError([Problem("teacher", message)])
    if like and teacher.manifest["step"] == 0:
        message = f"{teacher.folder} has an untrained classifier, as transfer brought no improvement{_later(teacher)}"
        raise ConfigError([Problem("teacher", message)])
    outputs = len(like.params[f"{HEAD}bias"]) if like else None
    net = network(fresh_backbone(cast(Spec, spec), data.facts, 0), outputs, runtime.under_precision)
    parts = (BACKBONE, HEAD) if like else (BACKBONE,)
    tensors, _ = load_into(net.params | net.constants, teacher, parts, setting="teacher")
    return net.of({name: p.detach() for name, p in runtime.place(tensors).items()})


def _other_classes(teacher: Checkpoint, data: Dataset, data_spec: Spec) -> str:
    """Return why the answers of a teacher are not about the classes of data, and what to type, or "".

    The same names tell of the same classes only where data is read from files; another seed generates others.
    """
    recorded = teacher.manifest["data"]
    if recorded.get("fingerprint") == data.fingerprint:
        return ""
    records = [record for record in read_classes(teacher) if record["stage"] == "transfer"]
    if data_spec.get("root") and records and records[-1]["classes"] == list(data.splits["train"].names):
        return ""
    theirs = recorded.get("spec") or {}
    changed = [f"data.{key}={_typed(value)}" for key, value in theirs.items() if data_spec.get(key) != value]
    same = theirs.get("_target_") == data_spec["_target_"]
    told = f"{teacher.folder} is a classifier of other classes than those that this {data.name} trains on"
    advice = f"type {' '.join(map(in_shell, changed))}, or " if same and changed else ""
    return f"{told}; {advice}name a run of transfer on this data"


def _typed(value: Any) -> str:
    """Return a value as it is typed in a setting."""
    return value if isinstance(value, str) else json.dumps(value)


def _later(teacher: Checkpoint) -> str:
    """Return how to name the last checkpoint of a teacher's run, as the end of a sentence, or ""."""
    folder = teacher.folder.parent
    last = max((path for path in folder.glob("step-*") if path != teacher.folder), default=None)
    return f"; name a later one, as in {in_shell(f'teacher={last}')}" if last else "; name another run"


def method_loss(
    method: Method, net: Network, tensors: Params, start: Params, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the loss [] of a batch and its logits [B, K]: the method's own, or the merged network's cross-entropy.

    Blocks without a learning tensor run in eval mode, and their tensors get no gradient.

    Args:
        method: the method at this step.
        net: the network.
        tensors: all current tensors.
        start: the network's tensors at the beginning of transfer.
        batch: "x", "y" and the entries that the method asks for.
    """
    learning = method.rates(net)
    now = net.of({n: tensors[n] if n in learning else tensors[n].detach() for n in (*net.params, *net.constants)})
    now = now.training(learning)
    own = _own(tensors)
    if hasattr(method, "loss"):
        found: tuple[Tensor, Tensor] = method.loss(now, own, start, batch)
        return found
    params = method.merged(now, own) if hasattr(method, "merged") else now.params
    logits = now.output(params, batch["x"])
    return task_loss(logits, batch["y"]), logits


def merged(method: Method, net: Network, tensors: Params) -> Params:
    """Return all tensors, those of the network merged by the method."""
    if not hasattr(method, "merged"):
        return tensors
    with torch.no_grad():
        return tensors | method.merged(net.of(tensors), _own(tensors))


def _own(tensors: Params) -> Params:
    return {name.removeprefix(OWN): tensor for name, tensor in tensors.items() if name.startswith(OWN)}


def _at(method: Method, progress: float) -> Method:
    now: Method = method.at(progress) if hasattr(method, "at") else method
    return now

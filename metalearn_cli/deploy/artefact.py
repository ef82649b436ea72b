"""Writes and reads the learner of an artefact, see `folder`; a changed one is a whole new folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_cli import __version__
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.network import Params
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.deploy.calibrating import of_record
from metalearn_cli.deploy.card import card
from metalearn_cli.deploy.deployed import Deployed, Support, deployed
from metalearn_cli.deploy.exporting import CLOSE, SIZES, graph_of
from metalearn_cli.deploy.folder import (
    ABOUT,
    CARD,
    CLASSES,
    ENCODER,
    FORMAT,
    LEARNER,
    PROGRAM,
    SUPPORT,
    aside,
    read_about,
    seal_of,
)
from metalearn_cli.deploy.trained import Trained, facts_of, random_items
from metalearn_cli.records.checkpoint import packed, tensors_in
from metalearn_cli.records.runs import as_json, flush, write_bytes
from metalearn_cli.records.shapes import FACTS

_STATISTICS = "statistics."
"""Prefix of the names of the fixed statistics of training items, among the tensors of a learner."""


def items_to_try(learner: Deployed) -> Tensor:
    """Return random items to compare the graph with torch on.

    Raises:
        UserError: if items are made of parts.
    """
    if not isinstance(items := random_items(learner.trained.facts, max(SIZES)), Tensor):
        raise UserError("items of several parts cannot be exported yet")
    return items


def write_artefact(
    folder: Path, learner: Deployed, record: Mapping[str, Any], graph: bytes | None = None
) -> dict[str, Any]:
    """Write an artefact; if one is there, it stays until the new one is complete.

    Args:
        folder: where it goes.
        learner: the learner with its support set.
        record: what else is known of it: `result`, that of its evaluation or None; `lineage`, its ancestors; and
            `quantize`, if the graph is in integers, see `quantizing.Quantized`.
        graph: the learner's graph; None makes it.

    Returns:
        the contents of artefact.json.

    Raises:
        UserError: if the learner cannot be exported.
    """
    trained, facts, support = learner.trained, learner.trained.facts, learner.support
    program = "texts" if facts.kind == "text" else "pictures"
    graph = graph or graph_of(learner.enrolled, items_to_try(learner))
    about: dict[str, Any] = {
        "format": FORMAT,
        "metalearn-cli": __version__,
        "name": folder.name,
        "classes": list(learner.classes),
        "examples": [{"name": n, "class": c} for n, c in zip(support.names, support.labels, strict=True)],
        "input": {**facts.record, "shape": facts.plain_shape, "dtype": "int64" if facts.values == "ids" else "float32"},
        "preprocessing": trained.preprocessing,
        "tokenizer": trained.tokenizer,
        "statistics": statistics_named(learner),
        "calibration": learner.calibration and learner.calibration._asdict(),
        "learner": {"backbone": trained.backbone, "algorithm": trained.algorithm, "way": trained.way},
        "data": trained.data,
        "source": trained.source,
        "quantize": None,
        **record,
        "checked": {"items": list(SIZES), "within": CLOSE},
    }
    learnt = {f"state.{n}": t for n, t in learner.enrolled.state.items()}
    learnt["embeddings"] = learner.enrolled.embedded.flatten(1)
    files = {
        ENCODER: graph,
        CLASSES: packed({name: t.clone() for name, t in learnt.items()}),  # safetensors takes no views of each other
        LEARNER: packed({**trained.tensors, **{_STATISTICS + n: t for n, t in trained.statistics.items()}}),
        SUPPORT: packed(_stored(support, facts.values)),
        CARD: card(about).encode(),
        PROGRAM: Path(__file__).with_name(f"standalone_{program}.py").read_bytes(),
    }
    about["files"] = {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in files.items()}
    about["sha256"] = seal_of(about)
    _put(folder, {**files, ABOUT: (as_json(about, indent=2) + "\n").encode()})
    return about


def read_artefact(folder: Path) -> tuple[Deployed, dict[str, Any]]:
    """Read an artefact, and check the sha256 of every file.

    Returns:
        the learner with its support set, and the contents of artefact.json.

    Raises:
        UserError: if it is none, is damaged, or is of another version.
    """
    about = read_about(folder)
    spec, found = about["learner"], tensors_in(folder / LEARNER)
    trained = Trained(
        backbone=spec["backbone"],
        algorithm=spec["algorithm"],
        way=spec.get("way"),
        facts=facts_of({name: about["input"][name] for name in ("shape", *FACTS)}),
        tensors={name: t for name, t in found.items() if not name.startswith(_STATISTICS)},
        statistics={n.removeprefix(_STATISTICS): t for n, t in found.items() if n.startswith(_STATISTICS)},
        preprocessing=about["preprocessing"],
        tokenizer=about["tokenizer"],
        data=about["data"],
        source=about["source"],
    )
    stored = tensors_in(folder / SUPPORT)
    embedded = "embeddings" in stored
    if not embedded and "items" not in stored:
        raise UserError(f"{folder / SUPPORT} is damaged: it has no examples")
    x = stored["embeddings" if embedded else "items"]
    x = x.float() / ONE if x.dtype == torch.uint8 else x
    names, labels = (tuple(example[key] for example in about["examples"]) for key in ("name", "class"))
    if len(names) != len(x):
        named = counted(len(names), "example")
        raise UserError(f"{folder / ABOUT} is damaged: it names {named}, and there are {len(x)}")
    if len(set(labels)) < 2 or about["classes"] != sorted(set(labels)):
        raise UserError(f"{folder / ABOUT} is damaged: its classes are not those of its examples")
    support = Support(names, labels, x, embedded, stored.get("looks"), stored.get("pictures"))
    try:
        learner = deployed(trained, support, of_record(about.get("calibration")))
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # whatever the tensors' shapes lead to
        raise UserError(f"the parts of {folder} do not fit each other: {str(error).partition(chr(10))[0]}") from error
    integers = (folder / ENCODER).read_bytes() if about.get("quantize") else None
    return learner._replace(integers=integers), about


def statistics_named(learner: Deployed) -> str:
    """Return which items give the batch statistics: support, train, or none for a network without them."""
    if learner.trained.statistics:
        return "train"
    return "support" if learner.enrolled.learner.net.batch_statistics else "none"


def _stored(support: Support, values: Any) -> Params:
    """Return the examples as they are stored: pictures as bytes."""
    looks = {} if support.looks is None else {"looks": support.looks}
    if support.embedded:
        pictures = {} if support.pictures is None else {"pictures": support.pictures}
        return {"embeddings": support.x, **looks, **pictures}
    rounded = (support.x * ONE).round().byte() if values == "unit" else support.x
    return {"items": rounded if torch.equal(rounded.float() / ONE, support.x) else support.x, **looks}


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder, and put it in the place of the old one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = aside(folder, "new"), aside(folder, "old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        for name, content in files.items():
            write_bytes(new / name, content)
        if folder.exists():
            _copy_others(folder, new, files)
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        flush(folder.parent)
    except BaseException:
        if not folder.exists() and old.exists():
            old.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _copy_others(folder: Path, new: Path, files: Mapping[str, bytes]) -> None:
    """Copy what else lies in a folder, such as a user's notes, into the new one."""
    for path in folder.iterdir():
        if path.name in files:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)

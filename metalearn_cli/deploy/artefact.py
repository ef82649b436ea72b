"""An artefact: a folder with a learner, its support set, and all that a program elsewhere needs to use it.

    artefact.json         what it is: classes, preprocessing, result, where it comes from, sha256 of the other files
    encoder.onnx          from items to embeddings and logits
    classes.safetensors   what the learner has learnt of the classes, and the embeddings of their examples
    learner.safetensors   the tensors of the trained learner, to learn further classes
    support.safetensors   the examples, or their embeddings where these are enough
    README.md             a page for people
    predict.py            a program that uses it, without this package

A changed artefact is a whole new folder, which then takes the place of the old one; other files in it stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_cli import __version__
from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import InUseError, UserError
from metalearn_cli.core.network import Params
from metalearn_cli.data.common.splits import ONE
from metalearn_cli.deploy.calibrating import of_record
from metalearn_cli.deploy.card import card
from metalearn_cli.deploy.deployed import Deployed, Support, deployed
from metalearn_cli.deploy.exporting import CLOSE, SIZES, graph_of
from metalearn_cli.deploy.trained import Trained, facts_of, random_items
from metalearn_cli.records.checkpoint import packed, tensors_in
from metalearn_cli.records.runs import LACKING, as_json, flush, read_json, sha256_of, write_bytes
from metalearn_cli.records.shapes import ARTEFACT, FACTS, misshapen

FORMAT = 1
ABOUT = "artefact.json"
_ENCODER, _CARD, _PROGRAM = "encoder.onnx", "README.md", "predict.py"
_CLASSES, _LEARNER, _SUPPORT = (f"{name}.safetensors" for name in ("classes", "learner", "support"))
_STATISTICS = "statistics."
"""Prefix of the names of the fixed statistics of training items, among the tensors of a learner."""


def is_artefact(path: Path) -> bool:
    """Whether a folder is an artefact."""
    return (path / ABOUT).is_file()


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
        _ENCODER: graph,
        _CLASSES: packed({name: t.clone() for name, t in learnt.items()}),  # safetensors takes no views of each other
        _LEARNER: packed({**trained.tensors, **{_STATISTICS + n: t for n, t in trained.statistics.items()}}),
        _SUPPORT: packed(_stored(support, facts.values)),
        _CARD: card(about).encode(),
        _PROGRAM: Path(__file__).with_name(f"standalone_{program}.py").read_bytes(),
    }
    about["files"] = {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in files.items()}
    about["sha256"] = _hash(about)
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
    spec, found = about["learner"], tensors_in(folder / _LEARNER)
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
    stored = tensors_in(folder / _SUPPORT)
    embedded = "embeddings" in stored
    if not embedded and "items" not in stored:
        raise UserError(f"{folder / _SUPPORT} is damaged: it has no examples")
    x = stored["embeddings" if embedded else "items"]
    x = x.float() / ONE if x.dtype == torch.uint8 else x
    names, labels = (tuple(example[key] for example in about["examples"]) for key in ("name", "class"))
    if len(names) != len(x):
        raise UserError(f"{folder / ABOUT} is damaged: it names {len(names)} examples, and there are {len(x)}")
    if len(set(labels)) < 2 or about["classes"] != sorted(set(labels)):
        raise UserError(f"{folder / ABOUT} is damaged: its classes are not those of its examples")
    support = Support(names, labels, x, embedded, stored.get("looks"))
    try:
        learner = deployed(trained, support, of_record(about.get("calibration")))
    except (RuntimeError, ValueError, TypeError, LookupError) as error:  # whatever the tensors' shapes lead to
        raise UserError(f"the parts of {folder} do not fit each other: {str(error).partition(chr(10))[0]}") from error
    integers = (folder / _ENCODER).read_bytes() if about.get("quantize") else None
    return learner._replace(integers=integers), about


def read_about(folder: Path) -> dict[str, Any]:
    """Read artefact.json, and check the other files.

    Raises:
        UserError: see `read_artefact`.
    """
    before = _aside(folder, "old")
    if not folder.exists() and before.exists():  # a change was killed between its last two steps
        before.rename(folder.resolve())
    if not is_artefact(folder):
        raise UserError(f"{folder} is no artefact: it has no {ABOUT}; make one with: mlx export support=EXAMPLES")
    about = read_json(folder / ABOUT)
    if about.get("format") != FORMAT:
        told = f"format {shown(about.get('format'))}; it reads format {FORMAT}"
        raise UserError(f"{folder / ABOUT} has a format that this version does not read ({told}); export it again")
    if wrong := misshapen(about, ARTEFACT):
        raise UserError(f"{folder / ABOUT} is damaged: {wrong}")
    if about["sha256"] != _hash(about):
        raise UserError(f"{folder / ABOUT} was changed after it was written; export it again")
    for name in (_ENCODER, _CLASSES, _LEARNER, _SUPPORT):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing")
        if sha256_of(path) != about["files"].get(name, {}).get("sha256"):
            raise UserError(f"{path} is damaged: its sha256 is not the one in {ABOUT}")
    return about


def _hash(about: Mapping[str, Any]) -> str:
    """Return the sha256 of the contents of artefact.json, without the entry that holds it."""
    rest = {name: value for name, value in about.items() if name != "sha256"}
    return hashlib.sha256(as_json(rest).encode()).hexdigest()


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Within a block, keep other processes from changing the artefacts of a folder; without locks, they are not kept.

    Raises:
        UserError: if the folder above the artefact does not exist, or this process is in the artefact.
        InUseError: if another process changes one.
    """
    if not folder.absolute().parent.is_dir():
        raise UserError(f"there is no folder {folder}")
    if Path.cwd().is_relative_to(folder.resolve()):  # the shell would stay in the old folder, which is removed
        above = folder.resolve().parent
        raise UserError(f"a change replaces the folder that you are in; go to the one above it first: cd {above}")
    descriptor = os.open(folder.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InUseError(
            f"an artefact in {folder.parent} is being changed by another mlx process; try again"
        ) from error
    except OSError as error:
        if error.errno not in LACKING:
            os.close(descriptor)
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def statistics_named(learner: Deployed) -> str:
    """Return which items give the batch statistics: support, train, or none for a network without them."""
    if learner.trained.statistics:
        return "train"
    return "support" if learner.enrolled.learner.net.batch_statistics else "none"


def _stored(support: Support, values: Any) -> Params:
    """Return the examples as they are stored: pictures as bytes."""
    looks = {} if support.looks is None else {"looks": support.looks}
    if support.embedded:
        return {"embeddings": support.x, **looks}
    rounded = (support.x * ONE).round().byte() if values == "unit" else support.x
    return {"items": rounded if torch.equal(rounded.float() / ONE, support.x) else support.x, **looks}


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a new folder, and put it in the place of the old one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = _aside(folder, "new"), _aside(folder, "old")
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


def _aside(folder: Path, what: str) -> Path:
    """Return the name of a folder beside an artefact."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.{what}")

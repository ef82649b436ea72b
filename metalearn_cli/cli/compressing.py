"""`mlx compress`: its words, as settings of the trainings and evaluations that it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.cli.composing import Composer, Composition, changes
from metalearn_cli.cli.faults import check
from metalearn_cli.cli.words import DEPLOYING, Words, meant
from metalearn_cli.core.config import STAGES
from metalearn_cli.core.errors import InUseError, Stopped, UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.records.runs import TO_WAIT, find_checkpoint

_OWN = ("ckpt", "method", "amount")
_FIXED = ("data", "also", "init_from", "reinit", "teacher")
_SECTIONS = {row.section for row in TABLE.values()}
_LEARNT = ("method.weight", "method.features")


def compress(words: Words, runs_dir: str) -> dict[str, Any]:
    """Make a network smaller, see `deploy.compressing.compress`.

    Args:
        words: the command line.
        runs_dir: the folder of all runs.

    Raises:
        UserError: if the command line is wrong, or the network cannot be made smaller or trained.
        Stopped: after a signal; its message says how to resume.
        InUseError: if another process trains the network.
    """
    own, others = _read(words.rest)
    amount, method = _amount(own.get("amount", "0.5")), own.get("method", "prune")
    if method not in ("prune", "distill"):
        raise UserError(f"method must be prune or distill, got {method!r}")
    with importing():
        from metalearn_cli.deploy import compressing
        from metalearn_cli.records.checkpoint import open_checkpoint
    with telling.reporting() as reporter:
        folder = find_checkpoint(expanded(own.get("ckpt", "latest")), runs_dir, TABLE["evaluate"].accepts, "ckpt")
        checkpoint = open_checkpoint(folder.resolve())
        stage, distil = checkpoint.manifest["stage"], method == "distill"
        parts = _parts(others, [stage, "evaluate", *["transfer"] * distil], distil)
        evaluate = _composed("evaluate", parts["evaluate"])
        transfer = _composed("transfer", _of_distil(parts["transfer"], stage)) if distil else None
        chosen = any(re.match("backbone[.=]", word) for word in others)
        asked = compressing.Asked(
            checkpoint=checkpoint,
            amount=amount,
            changes=changes(parts[stage]) if stage == "meta-train" or not distil else {},
            evaluate=evaluate.settings,
            given=evaluate.given,
            transfer=transfer.values if transfer else None,
            student=transfer.values["backbone"] if transfer and chosen else None,
            runs_dir=runs_dir,
        )
        try:
            return compressing.compress(asked, reporter)
        except Stopped as stop:
            rest = [word for word in words.rest if not word.startswith("ckpt=")]
            there = ["--runs-dir", runs_dir] * (runs_dir != "runs")
            again = shlex.join(["mlx", "compress", f"ckpt={folder}", *rest, *there])
            raise Stopped(stop.number, f"resume with: {again}") from stop  # latest is another by now
        except InUseError as error:
            told = str(error).removesuffix(TO_WAIT)  # which is no setting of this command
            raise InUseError(f"{told}; type the same again when it has ended") from error


def _read(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the settings of the command itself, and the words for what it runs.

    Raises:
        UserError: if a word is no setting.
    """
    own, others = dict[str, str](), list[str]()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"mlx compress takes settings, KEY=VALUE, got {word!r}; see: mlx compress --help")
        if key in _OWN:
            own[key] = value
        else:
            others.append(word)
    return own, others


def _amount(text: str) -> float:
    """Return the share of channels that is taken away.

    Raises:
        UserError: if it is no such share.
    """
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 1:
        raise UserError(f"amount must be a number between 0 and 1, got {text!r}")
    return amount


def _parts(words: Sequence[str], stages: Sequence[str], distil: bool) -> Mapping[str, list[str]]:
    """Return the words for each stage that has their setting; `evaluate.seed=1` is for one, `seed=1` for all.

    Raises:
        UserError: if one is for none of them, or would change what is compared.
    """
    known = {stage: {field.name for field in fields(STAGES[stage])} for stage in stages}
    sections = {TABLE[stage].section: stage for stage in stages}
    found: dict[str, list[str]] = {stage: [] for stage in TABLE}
    for typed in words:
        section, dot, word = typed.partition(".")
        if dot and section in _SECTIONS and section not in sections:
            raise UserError(f"mlx compress runs {' and '.join(stages)} here, not {section}; leave {typed} out")
        if not dot or section not in sections:
            section, word = "", typed
        root = re.split(r"[.=@]", word.lstrip("+"), maxsplit=1)[0]
        if root in _FIXED:
            raise UserError(f"{root} is that of the checkpoint, and cannot be changed by mlx compress")
        if root == "backbone" and not distil:
            raise UserError("backbone is for method=distill; a pruned network has fewer channels, see amount")
        of = [sections[section]] if section else ["transfer"] if root == "backbone" else stages
        takers = [stage for stage in of if root in known[stage]]
        if not takers:
            there = {*DEPLOYING["compress"], *(name for names in known.values() for name in names)}
            raise UserError(f"mlx compress has no setting {root}{meant(root, there)}; see: mlx compress --help")
        for stage in dict.fromkeys(takers):
            found[stage].append(word)
    return found


def _of_distil(words: Sequence[str], stage: str) -> list[str]:
    """Return the words of `mlx transfer` that distil a checkpoint of a stage: one without a classifier has features."""
    given = any(word.partition("=")[0] in _LEARNT for word in words)
    features = [] if given or stage == "transfer" else ["method.weight=0", "method.features=1"]
    return ["method=distill", "init_from=null", *features, *words]  # it starts from nothing, and has its teacher


def _composed(stage: str, words: Sequence[str]) -> Composition:
    """Return the settings of a stage.

    Raises:
        SettingsError: if they are wrong.
    """
    (job,) = check(Composer(stage), words, multirun=False)
    return job

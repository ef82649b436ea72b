"""What a command line that uses a trained learner asks for: its settings, its learner, and its files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalearn_cli.cli.words import ANSWERING, DEPLOYING, NAMING, Words, behind, meant
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError, gathered, raise_all
from metalearn_cli.core.importing import importing
from metalearn_cli.core.machine import too_many_threads
from metalearn_cli.core.places import expanded

if TYPE_CHECKING:
    from metalearn_cli.core.types import Reporter

SUPPORT = "support=FOLDER, a folder with a folder of examples for each class"

_COLUMN = "column."
_EPISODES = "a whole number of validation episodes, 2 or more, or 0 for none"


def read(words: Words) -> tuple[dict[str, str], list[str]]:
    """Return the settings of a command line and its other words: names of files, and what is behind --.

    Raises:
        UserError: for a setting that the command does not have.
    """
    listed = DEPLOYING[words.command]
    known = dict.fromkeys([*listed, *(f"{_COLUMN}{role}" for role in ("path", "text"))])
    settings, others = dict[str, str](), list[str]()
    for word in words.rest[: len(words.rest) - len(words.names)]:
        key, equals, value = word.partition("=")
        if equals and key in known:
            settings[key] = value
        elif equals and key.replace(".", "").replace("_", "").isalnum() and not Path(word).exists():
            told = f"mlx {words.command} has no setting {key}{meant(key, known)}; it has {', '.join(known)}"
            raise UserError(f"{told}; {behind(words.command, word)}" if words.command in NAMING else told)
        else:
            others.append(word)
    return settings, [*others, *words.names]


def command_line(words: Words) -> str:
    """Return a command line as it is typed in a shell."""
    return shlex.join(["mlx", words.command, *words.rest])


def columns(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that settings name, by role."""
    return {key.removeprefix(_COLUMN): value for key, value in settings.items() if key.startswith(_COLUMN)}


def calibration(settings: Mapping[str, str], usual: int) -> tuple[int, float]:
    """Return the settings of the calibration: how many episodes, and the share of items that stay known.

    Raises:
        UserError: if they are no such numbers.
    """
    episodes = whole(settings, "calibration", str(usual), _EPISODES)
    if episodes == 1:
        raise UserError(f"calibration must be {_EPISODES}, got '1'")
    return episodes, share(settings, "unknown.keep", "0.95")


def share(settings: Mapping[str, str], key: str, usual: str) -> float:
    """Return a setting that is a number between 0 and 1.

    Raises:
        UserError: if it is none.
    """
    typed = settings.get(key, usual)
    if not re.fullmatch(r"0?\.\d*[1-9]\d*", typed):
        raise UserError(f"{key} must be a number between 0 and 1, got {typed!r}")
    return float(typed)


def whole(settings: Mapping[str, str], key: str, usual: str, what: str, least: int = 0) -> int:
    """Return a setting that is a whole number.

    Args:
        settings: all of them.
        key: its name.
        usual: its value if it is not among them.
        what: what it must be, in words.
        least: the smallest value.

    Raises:
        UserError: if it is none, or too small.
    """
    typed = settings.get(key, usual)
    if not typed.isdecimal() or int(typed) < least:
        raise UserError(f"{key} must be {what}, got {typed!r}")
    return int(typed)


def whole_in(settings: Mapping[str, str], key: str, usual: int, allowed: range) -> int:
    """Return a setting that is a whole number of a range.

    Raises:
        UserError: if it is none, or too small or too large.
    """
    value = settings.get(key, str(usual))
    if not re.fullmatch("[0-9]{1,9}", value) or int(value) not in allowed:
        raise UserError(f"{key} must be a whole number from {allowed[0]} to {allowed[-1]}, got {value!r}")
    return int(value)


def chosen(settings: Mapping[str, str], key: str, usual: str, other: str) -> bool:
    """Return whether the second of two values was chosen.

    Raises:
        UserError: if neither was.
    """
    typed = settings.get(key, usual)
    if typed not in (usual, other):
        raise UserError(f"{key} must be {other} or {usual}, got {typed!r}")
    return typed == other


def is_artefact(name: str) -> bool:
    """Whether a name is that of the folder of an artefact."""
    from metalearn_cli.deploy import folder

    return bool(name) and folder.is_artefact(Path(expanded(name)))


def asked(
    words: Words,
    settings: Mapping[str, str],
    sources: Sequence[str],
    runs_dir: str,
    reporter: Reporter,
    few: bool = False,
) -> tuple[Any, Any]:
    """Return the learner that a command line names, a checkpoint's or an artefact's, and the items of its files.

    Args:
        words: the command line.
        settings: those of it.
        sources: its other words.
        runs_dir: the folder of all runs.
        reporter: gets a line on what is used.
        few: whether there may be no files; the items are then None.

    Raises:
        UserError: if something cannot be used.
    """
    exported = bool(sources) and is_artefact(sources[0])
    if not exported and "support" not in settings:
        absent = f"{sources[0]} is no artefact, and " if sources else ""
        raise UserError(f"{absent}support is missing: {SUPPORT}")
    if not exported and is_artefact(support := settings["support"]):
        raise UserError(f"{support} is an artefact, which has its own examples: mlx {words.command} {support} FILE")
    if len(sources) == exported and not few:
        raise UserError(f"there is nothing to {words.command}: {command_line(words)} FILE|FOLDER|TABLE")
    if exported and (extra := sorted(settings.keys() & ANSWERING)):
        raise UserError(f"{', '.join(extra)} is not for an artefact, which has its own: {sources[0]}")
    use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, deployed
    if exported:
        name, *sources = sources
        learner, _ = artefact.read_artefact(Path(expanded(name)))
        reader = deployed.reader_of(learner.trained, columns(settings))
        queries = reader.queries(sources) if sources else None
    else:
        learner, queries = learnt(settings, runs_dir, sources)
        name = f"{settings.get('ckpt', 'latest')} -> {learner.trained.source['checkpoint']}"
    sizes = learner.support.sizes
    told = ", ".join(f"{own} {number}" for own, number in sizes.items())
    reporter.note(f"{words.command}: {name}; {counted(len(sizes), 'class')}: {told}")
    return learner, queries


def learnt(settings: Mapping[str, str], runs_dir: str, sources: Sequence[str] = ()) -> tuple[Any, Any]:
    """Return the learner of a checkpoint with the examples that settings name, and the items of other files.

    Raises:
        UserError: with what is wrong with the examples and with the files.
    """
    from metalearn_cli.deploy.deployed import Support, deployed, named, reader_of

    statistics: Any = settings.get("statistics", "support")
    trained = named(settings.get("ckpt", "latest"), runs_dir, statistics)
    reader, found, problems = reader_of(trained, columns(settings)), list[Any](), list[UserError]()
    with gathered(problems):
        found.append(reader.support(settings["support"]))
    with gathered(problems):
        found.append(reader.queries(sources) if sources else None)
    raise_all(problems)
    support, queries = found
    return deployed(trained, Support(support.names, support.labels, support.items, looks=support.looks)), queries


def alone(settings: Mapping[str, str], sources: Sequence[str], runs_dir: str) -> Any:
    """Return what was trained, for what needs neither examples nor files.

    Raises:
        UserError: if something else is named.
    """
    exported = bool(sources) and is_artefact(sources[0])
    if others := [*sources[exported:], *(f"{key}=" for key in ("support", "statistics") if key in settings)]:
        method = f"method={settings['method']}"
        own = sources[0] if exported else f"ckpt={settings.get('ckpt', 'latest')}"
        raise UserError(f"{method} takes no {others[0]}; type: {shlex.join(['mlx', 'explain', own, method])}")
    if exported and "ckpt" in settings:
        raise UserError(f"ckpt is not for an artefact, which has its own: {sources[0]}")
    use_threads(settings)
    with importing():
        from metalearn_cli.deploy import artefact, deployed
    if exported:
        return artefact.read_artefact(Path(expanded(sources[0])))[0].trained
    return deployed.named(settings.get("ckpt", "latest"), runs_dir, "support")


def use_threads(settings: Mapping[str, str]) -> None:
    """Compute with as many threads as the settings name, or as many as a training has.

    Raises:
        UserError: if they name no such number.
    """
    named = settings.get("runtime.threads", "null") != "null"
    number = whole(settings, "runtime.threads", "", "a number of threads, 1 or more, or null", 1) if named else None
    for problem in too_many_threads(number):
        raise UserError(f"{problem.key}: {problem.message}")
    with importing():
        import torch

        from metalearn_cli.engine.runtime import usual_threads
    torch.set_num_threads(number or usual_threads()[0])

"""Run a stage, or what else has settings."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from metalearn_cli.cli import errors, telling
from metalearn_cli.cli.composing import HYDRA_ERRORS, OF_PLACES, Composer, Composition
from metalearn_cli.cli.faults import check, originating
from metalearn_cli.cli.planning import check_sweep
from metalearn_cli.core import plugins
from metalearn_cli.core.check import as_typed
from metalearn_cli.core.errors import ConfigError, Problem, Stopped, UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.places import config_dir
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.data.common.sources import recognised
from metalearn_cli.records.sweeps import OF_JOB

COLUMN = "data.column."
"""What the settings that name the columns of a table begin with."""


class Attempt(NamedTuple):
    """What came of running a stage.

    Attributes:
        run: its run.json, or None if it was not completed.
        failure: why it was not completed, or None.
        folder: that of its run, or "" if it had none yet.
    """

    run: dict[str, Any] | None
    failure: errors.Failure | None = None
    folder: str = ""


def run(stage: str, words: Sequence[str], extra: str) -> Attempt:
    """Check a command line and run it: a job of a sweep, if another process says so.

    Raises:
        SettingsError: with everything that is wrong with it; nothing is written.
        Stopped: after a signal; its message says how to resume.
    """
    with telling.reporting():
        (job,) = check(Composer(stage, extra), words, multirun=False)
    sweep, name = map(os.environ.get, OF_JOB)
    return attempt(job, **({"sweep": sweep, "job": name} if sweep else {}))


def verify(words: Sequence[str], extra: str) -> dict[str, Any]:
    """Run an experiment and compare its results with its claims, see `studies.verify`.

    Args:
        words: the experiment, its tier, and where things are.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if the command line is wrong, or the experiment claims nothing in this tier.
        Stopped: after a signal; its message says how to resume.
    """
    others = [word for word in words if not (word.startswith("experiment=") or OF_PLACES.match(word))]
    if others:
        message = "is not for mlx verify, which runs an experiment as its file has it; try other settings with mlx run"
        raise ConfigError([Problem(word.partition("=")[0], message) for word in others])
    names = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    if len(names) != 1 or names[0].startswith("["):
        raise UserError("mlx verify needs one experiment: mlx verify experiment=NAME; see: mlx ls experiment")
    with telling.reporting():
        (job,) = check(Composer("run", extra), words, multirun=False)
    if job.tier is None:
        raise UserError(f"experiment {names[0]} claims nothing: its file has no tiers")
    with importing():
        from metalearn_cli.studies.verify import verify as verify_it
    with originating(job), telling.reporting() as reporter:
        try:
            return verify_it(job.settings, names[0], job.values["tier"], job.tier, reporter)
        except Stopped as stop:
            raise Stopped(stop.number, _advice("verify", reporter.folder)) from stop


def ablate(words: Sequence[str], extra: str) -> dict[str, Any]:
    """Run the chain with and without its stages and say what each is worth, see `studies.ablate`.

    Args:
        words: the settings, those of `mlx run`.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if the command line is wrong, or the chain cannot run.
        Stopped: after a signal; its message says how to resume.
    """
    with telling.reporting():
        (job,) = check(Composer("run", extra), words, multirun=False)
    with importing():
        from metalearn_cli.studies.ablate import ablate as ablate_it
    with originating(job), telling.reporting() as reporter:
        try:
            return ablate_it(job.settings, reporter)
        except Stopped as stop:
            raise Stopped(stop.number, _advice("ablate", reporter.folder)) from stop


def inspect(stage: str, options: Mapping[str, str], words: Sequence[str]) -> str:
    """Return what Hydra prints: the settings, or how they were composed.

    Raises:
        UserError: if they are wrong.
    """
    if "--multirun" in options:
        raise UserError("-m runs jobs, --cfg and --info only show settings; leave one of them out")
    flags = [part for name, value in options.items() for part in (name, value) if part]
    composer = Composer(stage, options.get("--config-dir", ""))
    try:
        overrides = [composer.read(word) for word in words]
        free = [o for o in overrides if composer.is_choice(o) or "select" in o.key_or_group.split(".")]
        words = [composer.forced(o) if o in free else str(o.input_line) for o in overrides]
        words = composer.whole(composer.compose(words).words)  # vets the user's own files
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as told:
            app(stage, [*flags, *words])
    except SystemExit as stop:  # Hydra's help, too, ends with it
        if stop.code:
            raise UserError(told.getvalue().strip()) from stop
    except HYDRA_ERRORS as error:
        check(composer, words, multirun=False)
        raise UserError(str(error)) from error
    return printed.getvalue()


def read(printed: str) -> Any:
    """Return the plain values of the settings that `inspect` returned for --cfg."""
    return OmegaConf.to_container(OmegaConf.create(printed), resolve=False)


def app(stage: str, argv: Sequence[str]) -> None:
    """Run a stage's Hydra app, only to print settings, help or completions."""
    before = sys.argv
    folders = (str(folder).replace("\\", r"\\").replace("'", r"\'") for folder in plugins.config_dirs())
    own = ",".join(f"'file://{folder}'" for folder in folders)
    sys.argv = [f"mlx {stage}", *argv, *([f"hydra.searchpath=[{own}]"] if own else [])]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors through to us instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=stage)(_run_nothing)()
    finally:
        sys.argv = before


def _run_nothing(config: DictConfig) -> None:
    """Do nothing: Hydra needs a function, but only prints here."""


def attempt(composition: Composition, **facts: Any) -> Attempt:
    """Run a stage with composed settings; report its errors, so that the other jobs of a sweep still run.

    Args:
        composition: the settings.
        facts: the `sweep` and the `job` that it is, if it is one.

    Raises:
        Stopped: after a signal; its message says how to resume.
    """
    with importing():
        from metalearn_cli import stages

    stage = composition.composer.stage
    try:
        with originating(composition), telling.reporting() as reporter:
            given: dict[str, Any] = {} if composition.given is None else {"given": composition.given}
            typed: dict[str, Any] = {"typed": _typed(composition)} if stage == "run" else {}
            found = stages.run(stage, composition.settings, reporter, **given, **typed, **facts)
            return Attempt(found, folder=str(found.get("folder") or ""))
    except Stopped as stop:
        raise Stopped(stop.number, _advice(stage, reporter.folder)) from stop
    except Exception as error:
        failure = errors.explain(error)
        if failure.code == errors.REFUSED and reporter.folder:
            reporter.note(f"once that is fixed, {_advice(stage, reporter.folder)}")
        if failure.code == errors.DIVERGED and stage in TRAINING:
            lower = composition.settings.optimizer["lr"] / 10
            reporter.note(f"to try a lower rate: mlx resume {shlex.quote(reporter.folder)} optimizer.lr={lower:.4g}")
        return Attempt(None, failure, reporter.folder)


def _typed(composition: Composition) -> list[str]:
    """Return the words after `mlx run` that run a job again; a chain's own settings do not say how they were typed."""
    extra = composition.composer.extra
    return [*(word.lstrip("+") for word in composition.words), *(["--config-dir", extra] if extra else [])]


def _advice(stage: str, folder: str) -> str:
    """Return how to resume what stopped in a run folder, or "" if it had none yet."""
    # a chain and an evaluation are started again; they skip what is done
    again = f"mlx resume {shlex.quote(folder)}" if stage in TRAINING else "the same command"
    return f"resume with: {again}" if folder else ""


def with_source(words: Sequence[str]) -> list[str]:
    """Return words of `mlx data` with the settings that read a file or folder in place of its name.

    Raises:
        UserError: if it is of no known kind.
    """
    if not words or "=" in words[0]:
        return list(words)
    source, *settings = words
    roles = [word.partition("=")[0].removeprefix(COLUMN) for word in settings if word.startswith(COLUMN)]
    chosen = [word for word in settings if word.startswith("data=")] or [f"data={recognised(source, roles)}"]
    return [
        *chosen,
        f"data.root={as_typed(source)}",
        *(w for w in settings if w not in chosen),
    ]


def say_guess(words: Sequence[str], typed: Sequence[str]) -> None:
    """Say that a file was taken for a table of numbers and categories, if it was, and how sentences are read.

    Args:
        words: the words of `mlx data`.
        typed: what `with_source` returned for them.
    """
    if "data=table" in typed and not any(word.startswith((COLUMN, "data=")) for word in words):
        command = shlex.join(["mlx", "data", "make", words[0], "data=text"])
        with telling.reporting() as reporter:
            reporter.note(
                f"{words[0]} was taken for data=table, numbers and categories; if it has sentences, type:"
                f" {command} data.column.text=NAME data.column.label=NAME"
            )


def words_of_run(words: Sequence[str], data: Mapping[str, Any], extra: str) -> list[str]:
    """Return the settings of the `mlx run` that trains on data.

    Args:
        words: the settings that name the data.
        data: what `check_data` says of it.
        extra: the user's own folder of configs, or "".
    """
    if data["regression"]:
        return [*words, "stages=[meta-train]", "algorithm=maml"]
    usual = next((w for w in Composer("run", extra).completed(words) if w.startswith("backbone=")), "backbone=conv4")
    suited = f"backbone={data['backbone']}"
    several = ["model=classifier"] * (data["kind"] == "mixed")  # no other model takes items of several parts
    return [*words, *[suited] * (suited != usual), *several]


def show_data(words: Sequence[str], extra: str) -> dict[str, Any]:
    """Return the result of `stages.data.show_data`; a picture goes into the current folder.

    Raises:
        UserError: if the command line is wrong, or the data cannot be used.
    """
    (job,) = check(Composer("data show", extra), words, multirun=False)
    with importing():
        from metalearn_cli.stages.data import show_data as show_it
    with originating(job), telling.reporting():
        return show_it(job.settings, Path())


def check_data(kind: str, words: Sequence[str], extra: str) -> dict[str, Any]:
    """Return the result of `stages.data.check_data` for the data set of a command line.

    Args:
        kind: which `mlx data` this is, "make" or "check".
        words: its settings.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if the command line is wrong.
    """
    (job,) = check(Composer(f"data {kind}", extra), words, multirun=False)
    with importing():
        from metalearn_cli.stages.data import check_data as check_it
    with originating(job), telling.reporting():
        return check_it(job.settings)


def validate(stage: str, words: Sequence[str], extra: str, multirun: bool) -> list[str]:
    """Check a command line, and that everything in it can be built, without running it.

    Returns:
        Lines for the user.

    Raises:
        UserError: with every problem.
    """
    with telling.reporting():
        jobs = check_sweep(stage, words, extra).jobs if multirun else check(Composer(stage, extra), words, False)
    with importing():
        from metalearn_cli import stages
    notes: list[str] = []
    for job in jobs:
        with originating(job):
            given = {} if job.given is None else {"given": job.given}
            notes += stages.check(stage, job.settings, **given)
    return notes

"""Running a stage, once or, with -m, as a sweep of several jobs; and what becomes of them."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from metalearn_cli.cli import errors, telling
from metalearn_cli.cli.choices import config_dir
from metalearn_cli.cli.composing import HYDRA_ERRORS, Composer, Composition
from metalearn_cli.cli.faults import check, originating
from metalearn_cli.core import plugins
from metalearn_cli.core.config import digest
from metalearn_cli.core.errors import Stopped, UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.engine.signals import first_signal, stop


class Outcome(NamedTuple):
    """What became of one job.

    Attributes:
        words: its settings, as Hydra had them.
        run: its run.json, or None if it did not get to its end.
        failure: why it did not, or None if it did.
    """

    words: list[str]
    run: dict[str, Any] | None
    failure: errors.Failure | None = None

    @property
    def status(self) -> str:
        """Say what became of it in a word."""
        if self.failure and not self.failure.message:
            return "not begun"
        return self.failure.kind if self.failure else "completed"

    @property
    def error(self) -> str:
        """Say why it failed, in one line."""
        return self.failure.message if self.failure else ""


def run(stage: str, words: Sequence[str], extra: str, multirun: bool) -> list[Outcome]:
    """Check a command line and run what it asks for.

    Raises:
        SettingsError: with everything that is wrong with it; nothing has been written then.
    """
    jobs = check(Composer(stage, extra), words, multirun)
    return _sweep(stage, jobs) if multirun else [_attempt(jobs[0], sweep=None)]


def _sweep(stage: str, jobs: Sequence[Composition]) -> list[Outcome]:
    """Run jobs one after the other; a signal ends the sweep, and the jobs that it left out are told, too.

    What identifies a sweep is what it is asked for, so that the same command finds the runs of before.
    """
    os.environ["MLX_SWEEP_ID"] = sweep = digest([stage, *(job.words for job in jobs)])[:8]
    outcomes: list[Outcome] = []
    try:
        with first_signal((), stop):
            for job in jobs:
                outcomes.append(_attempt(job, sweep))
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        done = f"{len(outcomes)} of {len(jobs)} jobs were done; resume with: the same command"
        code = errors.explain(Stopped(number, done)).code
        left = jobs[len(outcomes) :]
        told = [str(Stopped(number)), *[""] * (len(left) - 1)]
        outcomes += [Outcome(job.words, None, errors.Failure(code, text)) for job, text in zip(left, told, strict=True)]
    return outcomes


def inspect(stage: str, options: Mapping[str, str], words: Sequence[str]) -> str:
    """Return what Hydra prints of the settings, or of how they came about.

    Raises:
        UserError: if they are wrong.
    """
    if "--multirun" in options:
        raise UserError("-m runs jobs, --cfg and --info only show settings; leave one of them out")
    flags = [part for name, value in options.items() for part in (name, value) if part]
    composer = Composer(stage, options.get("--config-dir", ""))
    try:
        words = [str(composer.read(word).input_line) for word in words]
        composer.compose(words)  # vets the user's own files
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as told:
            app(stage, [*flags, *words])
    except SystemExit as stop:  # so it ends its help, too
        if stop.code:
            raise UserError(told.getvalue().strip()) from stop
    except HYDRA_ERRORS as error:
        check(composer, words, multirun=False)
        raise UserError(str(error)) from error
    return printed.getvalue()


def read(printed: str) -> Any:
    """Return the plain values of the settings that `inspect` gave with --cfg."""
    return OmegaConf.to_container(OmegaConf.create(printed), resolve=False)


def app(stage: str, argv: Sequence[str]) -> None:
    """Enter a stage's Hydra app, for what Hydra shows of it."""
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
    """Be what a Hydra app runs; it is only asked to show."""


def _attempt(composition: Composition, sweep: str | None) -> Outcome:
    """Run one job; what goes wrong is told, and the other jobs of a sweep go on.

    Raises:
        Stopped: after a signal, saying how to go on.
    """
    with importing():
        from metalearn_cli import stages

    stage, words = composition.composer.stage, composition.words
    try:
        with originating(composition), telling.reporting() as reporter:
            given = {} if composition.given is None else {"given": composition.given}
            return Outcome(words, stages.run(stage, composition.settings, reporter, sweep=sweep, **given))
    except Stopped as stop:
        raise Stopped(stop.number, _advice(stage, reporter.folder)) from stop
    except Exception as error:
        failure = errors.explain(error)
        if failure.code in (errors.REFUSED, errors.DIVERGED) and reporter.folder:
            reporter.note(f"once that is mended, {_advice(stage, reporter.folder)}")
        return Outcome(words, None, failure)


def _advice(stage: str, folder: str) -> str:
    """Say how to go on with what stopped in a run folder, or "" if it had none yet."""
    # a chain and an evaluation are started again; what is done already they skip
    again = f"mlx resume {shlex.quote(folder)}" if stage in TRAINING else "the same command"
    return f"go on with: {again}" if folder else ""


def check_data(words: Sequence[str], extra: str) -> dict[str, Any]:
    """Return what `stages.data.check_data` finds in the data set that a command line describes.

    Raises:
        UserError: with what is wrong with the command line.
    """
    (job,) = check(Composer("data check", extra), words, multirun=False)
    with importing():
        from metalearn_cli.stages.data import check_data as check_it
    with originating(job):
        return check_it(job.settings)


def validate(stage: str, words: Sequence[str], extra: str, multirun: bool) -> list[str]:
    """Check a command line, and that everything it asks for can be built, without running it.

    Returns:
        lines worth saying.

    Raises:
        UserError: with what is wrong.
    """
    jobs = check(Composer(stage, extra), words, multirun)
    with importing():
        from metalearn_cli import stages
    notes: list[str] = []
    for job in jobs:
        with originating(job):
            given = {} if job.given is None else {"given": job.given}
            notes += stages.check(stage, job.settings, **given)
    return notes

"""`mlx -m`: from a command line to the jobs of a sweep, and to what came of them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.cli import errors, launch, telling
from metalearn_cli.cli.composing import Composer, Composition
from metalearn_cli.cli.faults import originating
from metalearn_cli.cli.planning import ELSEWHERE, Plan, as_words, check_sweep
from metalearn_cli.core.check import as_typed
from metalearn_cli.core.config import STAGES, digest
from metalearn_cli.core.config import Search as SearchConfig
from metalearn_cli.core.config import Sweep as SweepSettings
from metalearn_cli.core.errors import ConfigError, Problem, Stopped, UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.nested import leaves
from metalearn_cli.core.stages import TABLE
from metalearn_cli.engine.launched import launched
from metalearn_cli.records.runs import find_checkpoint, sha256_of
from metalearn_cli.records.sweeps import OF_JOB, Outcome, folder_of
from metalearn_cli.studies import sweep as studies
from metalearn_cli.studies.processes import Processes
from metalearn_cli.studies.ray import Ray
from metalearn_cli.studies.search import Search, needs_optuna
from metalearn_cli.studies.slots import slots_of
from metalearn_cli.studies.slurm import Slurm
from metalearn_cli.studies.sweep import Engine, Job

COMMAND = (sys.executable, "-m", "metalearn_cli.cli.main")
"""What begins the command line of a job's process."""

WEEK = 7 * 24 * 3600
"""Seconds for which a chain waits for a stage that it has in common with another one of the sweep."""

_ON_DISK = ("root", "path", "weights")
"""Settings of data and backbones that name files."""


class Found(NamedTuple):
    """What came of a sweep: its id, its folder, and the outcome of each job."""

    name: str
    folder: Path
    outcomes: list[Outcome]


def run(stage: str, words: Sequence[str], extra: str) -> Found:
    """Run the jobs of a sweep.

    Args:
        stage: the command of each job.
        words: the words of its settings, and of the sweep's.
        extra: the user's own folder of configs, or "".

    Raises:
        SettingsError: with everything that is wrong; nothing is written.
        InUseError: if another process runs this sweep.
    """
    with telling.reporting():
        plan = check_sweep(stage, words, extra)
        config, search = plan.config.sweep, plan.config.search
        if search:
            needs_optuna()
        with _blamed(stage):
            _started_alone(plan)
            engine = _engine(plan)
    identities = _identities(plan.jobs)
    name = digest([stage, plan.space, search.objective, identities[0]] if search else [stage, sorted(identities)])[:8]
    with _environment(name):
        own = {} if search else _pinned(plan.jobs)
        jobs = _search(plan, search) if search else _jobs(own, extra)
        known, number = ([], lambda: jobs.number) if isinstance(jobs, Search) else (jobs, None)
        watcher = telling.Jobs(known, live=engine is not None, latest=studies.last_line, number=number)
        command = shlex.join(["mlx", "-m", stage, *words, *_options(extra)])
        folder = folder_of(plan.jobs[0].values["runs_dir"], name)
        sweep = studies.Sweep(folder, jobs, {"stage": stage, "command": command}, watcher)
        try:
            with _blamed(stage), closing(watcher), sweep.open():
                if engine:
                    studies.at_once(sweep, engine, config.fail_fast)
                    if isinstance(jobs, Search) and jobs.repeated:
                        watcher.note(f"{jobs.repeated} of the trials drew a point again, which has its result already")
                else:
                    studies.in_turn(sweep, lambda job: _attempt(job, own[job.id], name), config.fail_fast)
        except Stopped as stop:
            errors.explain(stop)
    return Found(name, sweep.folder, sweep.outcomes())


def _started_alone(plan: Plan) -> None:
    """Check that no launcher has started this command once for each rank of its jobs, which they start themselves.

    Raises:
        ConfigError: if one has.
    """
    if (launch := launched()) and any(one.values["runtime"]["devices"] != 1 for one in plan.jobs):
        told = f"{launch.by} starts one command on several ranks; for a sweep start mlx -m alone, which starts them"
        raise ConfigError([Problem("runtime.devices", told)])


def _engine(plan: Plan) -> Engine | None:
    """Return what starts the jobs of a sweep; None if they can run in this process.

    Raises:
        ConfigError: if so many at once are not possible.
        UserError: if something that it needs is not there.
    """
    config, search, slurm, ray = plan.config.sweep, plan.config.search, plan.config.slurm, plan.config.ray
    runtimes = [one.values["runtime"] for one in plan.jobs]
    if search:
        runtimes = runtimes[:1] * search.trials
    if slurm and ray:
        raise ConfigError([Problem("sweep", "must be slurm or ray, not both")])
    if slurm and config.slots_per_gpu > 1:
        told = "must be 1, because SLURM gives each job its GPU; got"
        raise ConfigError([Problem("sweep.slots_per_gpu", f"{told} {config.slots_per_gpu}", "1")])
    if slurm:
        return Slurm(slurm, _in_queue(config, len(runtimes), search is not None), COMMAND)
    if ray:
        return Ray(ray, _in_queue(config, len(runtimes), search is not None), config.slots_per_gpu, COMMAND)
    slots = slots_of(config, runtimes, apart=search is not None)
    return Processes(slots, COMMAND) if slots else None


def _in_queue(config: SweepSettings, number: int, search: bool) -> int:
    """Return how many of all jobs are in the queue of a cluster at once.

    Raises:
        ConfigError: if that is not said.
    """
    if config.slots == "auto" and search:
        told = "must be a number, because the trials of a search learn from those before; got auto"
        raise ConfigError([Problem("sweep.slots", told, "4")])
    return number if config.slots == "auto" else config.slots


def _jobs(compositions: Mapping[str, Composition], extra: str) -> list[Job]:
    """Return jobs from their settings, which are given by the jobs' ids."""
    differing = _differing([one.typed for one in compositions.values()])
    return [_job(name, one, own) for (name, one), own in zip(compositions.items(), differing, strict=True)]


def _job(name: str, composition: Composition, settings: dict[str, str]) -> Job:
    """Return a job; chains in processes of their own wait for the stages that they share."""
    stage, values = composition.composer.stage, composition.values
    waits = [f"++wait={WEEK}"] if stage == "run" and not values["wait"] else []
    options = ["--json", *_options(composition.composer.extra)]
    return Job(name, settings, (stage, *composition.typed, *waits, *options), values["runs_dir"])


def _search(plan: Plan, settings: SearchConfig) -> Search:
    """Return the trials of a search."""
    first = plan.jobs[0]

    def make(point: dict[str, str], pins: Sequence[str]) -> Job:
        composer = first.composer
        words = [*plan.words, *as_words(point)]
        one = _with(composer, [composer.forced(composer.read(word)) for word in words], pins)
        return _job(_identities([one])[0], one, point)

    steps = first.values["every"]["evaluate"], first.values["steps"]
    return Search(settings, plan.space, steps, lambda: _pins(first), make)


def _options(extra: str) -> list[str]:
    return ["--config-dir", extra] if extra else []


def _attempt(job: Job, composition: Composition, sweep: str) -> Outcome:
    """Run a job in this process."""
    found = launch.attempt(composition, sweep=sweep, job=job.id)
    with importing():
        from metalearn_cli.engine.runtime import release
    release()
    if failure := found.failure:
        return Outcome(job.settings, failure.kind, failure.message, failure.code, found.folder)
    return Outcome(job.settings, folder=found.folder, run=found.run)


@contextmanager
def _environment(sweep: str) -> Iterator[None]:
    """Within a block, have the environment name the sweep: no job starts from the `latest` run of another one."""
    before = os.environ.get(OF_JOB[0])
    os.environ[OF_JOB[0]] = sweep
    try:
        yield
    finally:
        del os.environ[OF_JOB[0]]
        if before is not None:
            os.environ[OF_JOB[0]] = before


@contextmanager
def _blamed(stage: str) -> Iterator[None]:
    """Within a block, turn an error of settings into one of a command line."""
    try:
        yield
    except ConfigError as error:
        faults = [errors.Fault(p.key, p.message, hint=f"{p.key}={p.hint}" if p.hint else "") for p in error.problems]
        raise errors.SettingsError(stage, faults) from error


def _pinned(compositions: Sequence[Composition]) -> dict[str, Composition]:
    """Return the settings of jobs by their ids, with the checkpoint that `latest` means now: it is the same for all.

    Raises:
        SettingsError: if there is none.
    """
    pinned = [_with(one.composer, one.typed, pins) if (pins := _pins(one)) else one for one in compositions]
    return dict(zip(_identities(pinned), pinned, strict=True))


def _pins(composition: Composition) -> list[str]:
    """Return words with the checkpoint that `latest` means now, for the settings that name it.

    Raises:
        SettingsError: if there is none.
    """
    stage, values = composition.composer.stage, composition.values
    words = []
    for setting in ("init_from", "ckpt", "teacher") if stage in STAGES else ():
        name = str(values.get(setting))
        if not name.startswith("latest"):
            continue
        with originating(composition):
            try:
                found = find_checkpoint(name, values["runs_dir"], TABLE[stage].accepts, setting)
            except UserError as error:
                raise ConfigError([Problem(setting, str(error).removeprefix(f"{setting}={name}: "))]) from error
        words.append(f"++{setting}={as_typed(str(found))}")
    return words


def _with(composer: Composer, typed: Sequence[str], pins: Sequence[str]) -> Composition:
    """Return the settings of some words with those of `_pins` in place of the ones that they replace."""
    keys = {word.partition("=")[0] for word in pins}
    words = [*(word for word in typed if word.partition("=")[0] not in keys), *pins]
    composition = composer.compose(words)
    composition.typed = words
    return composition


def _identities(compositions: Sequence[Composition]) -> list[str]:
    """Return what identifies each job: a hash of its settings, without those that only say where and how it runs.

    Files that they name count with their place and the time of their last change: if either is another, the job's own
    process finds by their contents whether it is done.
    """
    where = [dict(leaves({key: one.values.get(key) for key in ELSEWHERE})) for one in compositions]
    varied = {key for own in where for key in own if len({json.dumps(other.get(key)) for other in where}) > 1}
    found = []
    for composition, own in zip(compositions, where, strict=True):
        what = {key: value for key, value in composition.values.items() if key not in (*ELSEWHERE, "tiers")}
        for setting in {"init_from", "ckpt", "teacher"} & what.keys():
            manifest = Path(str(what[setting])) / "manifest.json"
            what[setting] = sha256_of(manifest) if manifest.is_file() else what[setting]
        varying = {key: value for key, value in own.items() if key in varied}
        found.append(digest([composition.composer.stage, _stamped(what), varying])[:16])
    return found


def _stamped(values: Any) -> Any:
    """Return settings in which a file or folder also has the time at which it, or something in it, last changed."""
    if isinstance(values, list):
        return [_stamped(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    return {k: _stamp(v) if k in _ON_DISK and isinstance(v, str) else _stamped(v) for k, v in values.items()}


def _stamp(name: str) -> Any:
    path = Path(name).absolute()
    try:
        inside = list(path.iterdir()) if path.is_dir() else []
        return [str(path), max(one.stat().st_mtime_ns for one in (path, *inside))]
    except OSError:  # it is reported by the job
        return str(path)


def _differing(words: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return the settings in which jobs differ, as they are typed."""
    given = [dict(word.lstrip("+").split("=", 1) for word in own if "=" in word) for own in words]
    keys = dict.fromkeys(key for own in given for key in own if len({other.get(key) for other in given}) > 1)
    return [{key: own[key] for key in keys if key in own} for own in given]

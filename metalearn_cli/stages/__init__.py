"""Layer 2: the stages, each a few lines that wire data, network, learner and engine together.

The command line calls only the three functions here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from metalearn_cli.core.check import Range, mismatch
from metalearn_cli.core.config import STAGES, ChainConfig, EvaluateConfig, Runtime, Training, parse, plain
from metalearn_cli.core.errors import ConfigError, LostRankError, NonFiniteError, Problem, Stopped, UserError
from metalearn_cli.core.stages import TABLE
from metalearn_cli.core.types import Reporter
from metalearn_cli.engine.launched import launched, restarted
from metalearn_cli.engine.ranks import Crew
from metalearn_cli.engine.runtime import tune
from metalearn_cli.engine.signals import first_signal, stop
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import saved_steps
from metalearn_cli.records.log import Logged, logging_runs
from metalearn_cli.stages.again import evaluated, trained
from metalearn_cli.stages.chain import check_chain, run_chain
from metalearn_cli.stages.evaluate import evaluate
from metalearn_cli.stages.evaluation import prepare_evaluation
from metalearn_cli.stages.following import JOBS, follow
from metalearn_cli.stages.preparing import identity, prepare
from metalearn_cli.stages.session import Session
from metalearn_cli.stages.training import train

Settings = Training | EvaluateConfig | ChainConfig
"""Of one command."""


def run(
    stage: str,
    config: Settings,
    reporter: Reporter,
    given: Mapping[str, Any] | None = None,
    again: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Run a stage, or the chain.

    Args:
        stage: pretrain, transfer, meta-train, evaluate or run.
        config: its settings, as `core.config.parse` or `parse_chain` returns them.
        reporter: gets reports of progress.
        given: for an evaluation, settings for the checkpoint's own learner, see `prepare_evaluation`.
        again: whether a run of the same work is taken in its place, and an interrupted one resumed.
        facts: more entries for run.json, such as the sweep that the run belongs to.

    Returns:
        The run's run.json, with its `folder` and the final `checkpoint`, if any.

    Raises:
        UserError: if the settings, the inputs or the machine do not allow it.
        Stopped: after a signal; a training stage has then saved a checkpoint.
        SystemExit: in a process that a launcher has started as a rank other than 0, when there is no more work.
    """
    runtime = _runtime_of(config)
    _follow(runtime)
    with _process(runtime), Crew(follow) as crew:
        session, reporter = Session(crew), Logged(reporter)
        if isinstance(config, ChainConfig):
            return run_chain(config, JOBS, session, reporter, **facts)
        # a repeated sweep, and a command that torchrun repeats, resume their existing runs
        again = again or facts.get("sweep") is not None or (runtime.devices != 1 and restarted())
        if isinstance(config, EvaluateConfig):
            return (evaluated if again else evaluate)(prepare_evaluation(config, session, given), reporter, **facts)
        return (trained if again else train)(prepare(stage, config, JOBS[stage], session), session, reporter, **facts)


def check(stage: str, config: Settings, given: Mapping[str, Any] | None = None) -> list[str]:
    """Build and check everything that a run needs, without writing anything; the arguments are those of `run`.

    Returns:
        Lines on the device, the data and the checkpoint that it would use.

    Raises:
        UserError: as `run` would.
    """
    if isinstance(config, ChainConfig):
        return check_chain(config, JOBS, Session())
    if isinstance(config, EvaluateConfig):
        return list(prepare_evaluation(config, Session(), given).notes)
    return list(prepare(stage, config, JOBS[stage], Session()).notes)


def resume(folder: str, reporter: Reporter, changes: Mapping[str, Any], wait: float = 0) -> dict[str, Any]:
    """Resume an interrupted run, in its folder.

    Args:
        folder: the run's folder.
        reporter: gets reports of progress.
        changes: settings that replace those of the run's start, by dotted keys.
        wait: seconds to wait for the run if another process works on it, >= 0.

    Returns:
        As `run`.

    Raises:
        UserError: if there is nothing to resume, or the changes are not possible.
        Stopped: as `run`.
    """
    if wrong := mismatch(wait, Annotated[float, Range(0)]):
        raise ConfigError([Problem("wait", wrong)])
    with first_signal((), stop):
        runs.wait_for(Path(folder), wait)
    info = runs.find_run("", folder)
    stage = info["stage"]
    if stage not in JOBS:
        again = shlex.join(["mlx", stage, *info.get("typed", ())])
        raise UserError(f"{info['id']} is a run of {stage}, which cannot be resumed; run it again: {again}")
    if info.get("steps") == 0:
        ckpt = (info.get("parent") or {}).get("run", "RUN")
        again = f"type the mlx compress that made it again, with ckpt={ckpt}: it skips what is done"
        raise UserError(f"{info['id']} was pruned, and has no training to resume; {again}")
    # settings of data may change, such as its folder: its fingerprint is compared
    free = ("data.", "also.")
    fixed = [key for key in changes if key.split(".")[0] in TABLE[stage].fixed and not key.startswith(free)]
    if fixed:
        message = f"is fixed once a run has begun; begin a new one with: mlx {stage} init_from={info['id']}"
        raise ConfigError([Problem(key, message) for key in fixed])
    values = recorded_settings(Path(folder), stage)
    for setting, entry in {"init_from": info.get("parent"), "teacher": info.get("teacher")}.items():
        if entry and values.get(setting):
            values[setting] = runs.found_again(entry["checkpoint"], runs.beside_of(Path(folder)), values["runs_dir"])
    changed = tuple(
        f"{key}: this run has {before!r}, resuming with {value!r}" for key, before, value in change(values, changes)
    )
    config: Any = parse(STAGES[stage], values)
    _follow(config.runtime)
    with _process(config.runtime), Crew(follow) as crew:
        reporter = Logged(reporter)
        for note in changed:
            reporter.note(note)
        return _resumed(info, config, changes, reporter, Session(crew))


def _resumed(
    info: dict[str, Any], config: Any, changes: Mapping[str, Any], reporter: Reporter, session: Session
) -> dict[str, Any]:
    """Resume a run whose settings are known."""
    stage, folder = info["stage"], Path(info["folder"])
    try:
        known, recorded, _ = info["data"], info["data"]["name"], info["data"]["fingerprint"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'run.json'} is damaged: it has no data, or data without {error}") from error
    done = max(saved_steps(folder), default=0)
    prepared = prepare(stage, config, JOBS[stage], session, info.get("parent") if done else None)
    if info["status"] == "completed" and info.get("stopped_early") and "patience" not in changes:
        message = f"{info['id']} ended early, after step {done}; to resume it anyway, change its patience"
        raise UserError(f"{message} ({config.patience}): mlx resume {info['id']} patience=N, or null for never")
    if info["status"] == "completed" and done >= config.steps:
        raise UserError(f"{info['id']} is complete; to train longer: mlx resume {info['id']} steps=N with N > {done}")
    if done > config.steps:
        raise UserError(f"steps={config.steps}: {info['id']} has done {done} steps already")
    if identity(known) != identity(prepared.job.data):
        moved = ", ".join(f"{key}={value}" for key, value in changes.items() if key.startswith(("data.", "also.")))
        what = f"with {moved}, data {recorded} is not what {info['id']} began with" if moved else ""
        what = what or f"data {recorded} has changed since {info['id']} began"
        new = f"begin a new run with: mlx {stage} init_from={info['id']}"
        raise UserError(f"{what}: its fingerprint is another; {new}")
    for entry, was in ((prepared.parent, info.get("parent")), (prepared.job.teacher, info.get("teacher"))):
        if entry and was and entry["sha256"] != was["sha256"]:
            raise UserError(f"{entry['checkpoint']} has changed since {info['id']} began: its sha256 is another")
    run = runs.reopen(folder, plain(config), key=prepared.key, steps=config.steps, data=prepared.job.data)
    return train(prepared, session, reporter, run)


def _runtime_of(config: Settings) -> Runtime:
    """Return the settings `runtime` of a command; of a chain, those of a stage with several ranks, if there is one."""
    if not isinstance(config, ChainConfig):
        return config.runtime
    found = [*(settings.runtime for settings in config.training.values()), config.evaluate.runtime]
    return next((runtime for runtime in found if runtime.devices not in (1, "auto")), found[-1])


def _follow(runtime: Runtime) -> None:
    """Do what rank 0 says, and exit, if a launcher has started this process as another rank.

    Raises:
        SystemExit: when there is no more work.
    """
    if not isinstance(runtime.devices, int) or runtime.devices == 1:
        return
    if not (launch := launched()) or not launch.rank:
        return
    try:
        follow(runtime)
    except Stopped as stop:
        raise SystemExit(128 + stop.number) from stop
    except (LostRankError, NonFiniteError) as error:  # rank 0 says it
        raise SystemExit(1) from error
    raise SystemExit(0)


@contextmanager
def _process(runtime: Runtime) -> Iterator[None]:
    """Set up this process for a run: allocator and number format for speed, and the signals that stop it."""
    if runtime.tuned:
        tune()
    with first_signal(runtime.stop_on, stop), logging_runs():
        yield


def recorded_settings(folder: Path, stage: str) -> dict[str, Any]:
    """Return the settings that a run of a stage was started with, as plain values.

    Raises:
        UserError: if they are missing, damaged, or not those of this version.
    """
    values = runs.read_config(folder)
    try:
        parse(STAGES[stage], values)
    except ConfigError as error:
        raise UserError(f"{folder / 'config.json'} is damaged, or of another version: {error}") from error
    return values


def change(values: dict[str, Any], changes: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Change recorded settings; `parse` refuses keys that do not exist.

    Args:
        values: the settings of a training stage, which are changed.
        changes: new values, by dotted keys.

    Returns:
        each key, with its old and its new value.

    Raises:
        ConfigError: if a key is within a setting that is no group.
    """
    if "steps" in changes and values["scheduler"].get("T_max") == values["steps"]:
        # configs tie the length of a cosine to that of the stage, but config.json has only the numbers
        changes = {"scheduler.T_max": changes["steps"], **changes}
    return [(key, _change(values, key, value), value) for key, value in changes.items()]


def _change(values: dict[str, Any], key: str, value: Any) -> Any:
    """Set a dotted key and return its old value; `parse` refuses keys that do not exist."""
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise ConfigError([Problem(key, f"no such setting: {group} is {values!r}")])
    before = values.get(name)
    values[name] = value
    return before

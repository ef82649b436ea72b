"""The command `mlx`: its subcommands and its exit code.

Slow imports wait until they are needed: `mlx --help` imports neither torch nor Hydra.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from metalearn_cli import __version__
from metalearn_cli.cli import errors
from metalearn_cli.cli.streams import Unwritable, fitted, patient
from metalearn_cli.cli.words import DATA, REPORT, SHELLS, STAGES, Words, meant, overview, parse
from metalearn_cli.core.errors import Stopped, UserError
from metalearn_cli.core.importing import importing
from metalearn_cli.core.places import current_folder, settle

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "OPENBLAS_NUM_THREADS": "1"}
"""How threads wait for the next operation: they spin for a moment, then sleep. Read when torch and numpy are loaded.

If they sleep at once, pretraining takes a seventh longer; if they spin for long, as is the default, it takes several
times as long on busy cores. The threads of numpy and scipy always spin, so they have one each: with two, a logistic
regression on nine items takes 20 times as long on busy cores.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: its words after `mlx`; None for those of the process.

    Returns:
        The exit code, see `cli.errors`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not WAITING.keys() & os.environ.keys():
        os.environ |= WAITING
    with patient():
        try:
            settle()
            code = _dispatch(words)
            sys.stdout.flush()
            return code
        except (Exception, KeyboardInterrupt) as error:
            return _failed("--json" in words, errors.explain(error))


def _dispatch(argv: list[str]) -> int:
    if any(word in ("-sc", "--shell-completion") for word in argv):
        from metalearn_cli.cli.completion import query

        return query(argv)
    words = parse(argv)
    if "--version" in words.options:
        _show(words, {"version": __version__}, lambda: print(f"mlx {__version__}"))
    elif not words.command:
        _show(words, {"help": overview()}, lambda: print(fitted(overview())))
    elif "--help" in words.options:
        from metalearn_cli.cli.choices import help_text

        text = help_text(words.command, words.options.get("--config-dir", ""))
        _show(words, {"help": text}, lambda: print(fitted(text)))
    else:
        current_folder()
        command = _stage if words.command in STAGES else _COMMANDS[words.command]
        return command(words)
    return errors.DONE


def _stage(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import launch, views

    inspecting = {"--cfg", "--info", "--hydra-help", "--resolve", "--package"} & words.options.keys()
    if inspecting:
        hydra_options = {name: value for name, value in words.options.items() if name != "--json"}
        printed = launch.inspect(words.command, hydra_options, words.rest)
        plain = launch.read(printed) if "--cfg" in inspecting else {"text": printed}
        _show(words, plain, lambda: print(printed, end=""))
        return errors.DONE
    extra = words.options.get("--config-dir", "")
    if "--multirun" in words.options:
        return _sweep(words, extra)
    found = launch.run(words.command, words.rest, extra)
    if run := found.run:
        _show(words, run, lambda: views.result(run, words.rest, extra))
        return errors.DONE
    assert found.failure is not None
    return _failed("--json" in words.options, found.failure)


def _sweep(words: Words, extra: str) -> int:
    with importing():
        from metalearn_cli.cli import study_views, sweeping
    from metalearn_cli.records import sweeps

    found = sweeping.run(words.command, words.rest, extra)
    plain = {
        "sweep": found.name,
        "folder": str(found.folder),
        "runs": [outcome._asdict() for outcome in found.outcomes],
        "table": sweeps.table(found.outcomes),
    }
    _show(words, plain, lambda: study_views.sweep(found.name, found.folder, found.outcomes, words.rest))
    codes = {outcome.code for outcome in found.outcomes if outcome.code}
    order = (*sorted(code for code in codes if code > errors.SIGNALLED), *errors.KINDS)
    return next((code for code in order if code in codes), errors.DONE)


def _verify(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import launch, study_views

    found = launch.verify(words.rest, words.options.get("--config-dir", ""))
    _show(words, found, lambda: study_views.verified(found))
    return errors.UNMET if found["passed"] is False else errors.DONE


def _compare(words: Words) -> int:
    from metalearn_cli.cli import study_views, telling
    from metalearn_cli.cli.listing import named

    with telling.reporting():
        found = named(_expect(words, "RUN RUN", several=True), _runs_dir(words))
        with importing():
            from metalearn_cli.studies.compare import compare
        record = compare(found)
    _show(words, record, lambda: study_views.compared(record))
    return errors.DONE


def _report(words: Words) -> int:
    from metalearn_cli.cli import study_views, telling
    from metalearn_cli.cli.listing import named

    with telling.reporting():
        found = named(_expect(words, "RUN", several=True), _runs_dir(words))
        with importing():
            from metalearn_cli.cli import reporting
        record = reporting.read(found)
        kind = words.options.get("--format", REPORT)
        text = reporting.FORMATS[kind](record)
        out = words.options.get("--out", f"report.{REPORT}" if kind == REPORT else "")
        if out:
            reporting.write(text, out)
    if not out:
        _show(words, record, lambda: print(text, end=""))
        return errors.DONE
    told = {"report": out, "bytes": len(text.encode()), "runs": [run["id"] for run in record["runs"]]}
    told |= {key: record[key] for key in ("unfinished", "problems")}
    _show(words, told, lambda: study_views.reported(told))
    return errors.DONE


def _ablate(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import launch, study_views

    record = launch.ablate(words.rest, words.options.get("--config-dir", ""))
    _show(words, record, lambda: study_views.ablated(record))
    return errors.DONE


def _resume(words: Words) -> int:
    from metalearn_cli.cli import telling, views
    from metalearn_cli.cli.composing import changes, typed_settings
    from metalearn_cli.records.runs import beside_of, find_run

    name, *settings = _expect(words, "RUN", several=True)
    if "=" in name and not os.path.isdir(name):
        raise UserError(f"RUN is missing: mlx resume RUN {shlex.join(words.rest)}")
    with telling.reporting():
        folder = (info := find_run(_runs_dir(words), name))["folder"]
    if info["stage"] == "evaluate" and (typed := typed_settings(info)) is not None:
        again = shlex.join(["mlx", "evaluate", *typed])
        raise UserError(f"{info['id']} is an evaluation, which begins anew: {again}")
    changed = changes(settings)
    wait = changed.pop("wait", 0)
    with importing():
        from metalearn_cli import stages
    try:
        with telling.reporting() as reporter:
            run = stages.resume(folder, reporter, changed, wait)
    except Stopped as stop:
        raise Stopped(stop.number, f"resume with: mlx resume {shlex.quote(folder)}") from stop

    def draw() -> None:
        own = [word for word in typed_settings(run) or () if not word.startswith("runs_dir=")]
        there = os.path.relpath(beside_of(Path(folder)))
        views.result(run, [*own, *[f"runs_dir={there}"] * (there != "runs")])

    _show(words, run, draw)
    return errors.DONE


def _predict(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting() as reporter:
        found = deploying.predict(words, _runs_dir(words), reporter)
    if "--csv" in words.options:
        _show(words, found, lambda: print(deploying.csv_of(found["answers"], deploying.PREDICTED), end=""))
        return errors.DONE
    _show(words, found, lambda: deploy_views.answers(found))
    return errors.DONE


def _explain(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting() as reporter:
        found = deploying.explain(words, _runs_dir(words), reporter)
    _show(words, found, lambda: deploy_views.explained(found))
    return errors.DONE


def _export(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting() as reporter:
        found = deploying.export(words, _runs_dir(words), reporter)
    _show(words, found, lambda: deploy_views.exported(found))
    return errors.DONE


def _compress(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import compressing, deploy_views

    runs_dir = _runs_dir(words)
    found = compressing.compress(words, runs_dir)
    _show(words, found, lambda: deploy_views.compressed(found, runs_dir))
    return errors.DONE


def _enrol(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting():
        found = deploying.enrol(words)
    _show(words, found, lambda: deploy_views.enrolled(found))
    return errors.DONE


def _unenrol(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting():
        found = deploying.unenrol(_expect(words, "ARTEFACT NAME", several=True))
    _show(words, found, lambda: deploy_views.enrolled(found))
    return errors.DONE


def _classes(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting():
        found = deploying.classes(_expect(words, "ARTEFACT")[0])
    _show(words, found, lambda: deploy_views.enrolled(found))
    return errors.DONE


def _stream(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting() as reporter:
        found = deploying.stream(words, reporter)
    if "--csv" in words.options:
        _show(words, found, lambda: print(deploying.csv_of(found["answers"], deploying.STREAMED), end=""))
        return errors.DONE
    _show(words, found, lambda: deploy_views.streamed(found))
    return errors.DONE


def _serve(words: Words) -> int:
    from metalearn_cli.cli import deploy_views, deploying, telling

    with telling.reporting():
        server = deploying.serve(words)
        _show(words, server.told, lambda: deploy_views.served(server.told))
        server.run()
    return errors.DONE


def _ls(words: Words) -> int:
    from metalearn_cli.cli import choices, views

    extra = words.options.get("--config-dir", "")
    if len(words.rest) == 2 and words.rest[1] not in choices.catalogue(extra):
        group, name = words.rest
        told = choices.component(group, name, extra)
        _show(words, {"group": group, "name": name, "text": told}, lambda: print(told))
        return errors.DONE
    groups = {name: choices.group(name, extra) for name in words.rest} or choices.catalogue(extra)
    _show(words, groups, lambda: views.choices(groups))
    return errors.DONE


def _cat(words: Words) -> int:
    from metalearn_cli.cli.copying import text_of

    text = text_of(_expect(words, "GROUP/NAME")[0], words.options.get("--config-dir", ""))
    _show(words, {"text": text}, lambda: print(text, end=""))
    return errors.DONE


def _cp(words: Words) -> int:
    from metalearn_cli.cli.copying import copy

    config, *to = _expect(words, "GROUP/NAME FOLDER/COPY.yaml", several=True)
    if len(to) != 1:
        raise UserError("mlx cp needs a config and the copy, as in: mlx cp experiment/smoke mine/my_smoke.yaml")
    copied = copy(config, to[0], words.options.get("--config-dir", ""))
    _show(words, copied._asdict(), lambda: print(f"wrote {copied.file}\nrun it with: {copied.command}"))
    return errors.DONE


def _schema(words: Words) -> int:
    from metalearn_cli.cli.schema import schema
    from metalearn_cli.records.runs import as_json

    found = schema(_expect(words, "STAGE|GROUP")[0], words.options.get("--config-dir", ""))
    _show(words, found, lambda: print(as_json(found, indent=1)))
    return errors.DONE


def _runs(words: Words) -> int:
    from metalearn_cli.cli import study_views, telling, views
    from metalearn_cli.cli.listing import matching
    from metalearn_cli.records import sweeps

    runs_dir = _runs_dir(words)
    name = next((word.partition("=")[2] for word in words.rest if word.startswith("sweep=")), "")
    with telling.reporting():
        outcomes = sweeps.read(runs_dir, name) or []
        found = matching(runs_dir, words.rest)

    def draw() -> None:
        if outcomes:
            study_views.sweep(name, sweeps.folder_of(runs_dir, name), outcomes)
        views.runs(found, runs_dir, words.rest)

    _show(words, found, draw)
    return errors.DONE


def _show_run(words: Words) -> int:
    from metalearn_cli.cli import telling, views
    from metalearn_cli.records.runs import lineage

    with telling.reporting():
        found = lineage(_runs_dir(words), _expect(words, "RUN")[0])
    if "--json" in words.options:
        _show(words, found, lambda: None)
        return errors.DONE
    with importing():
        from metalearn_cli.cli.composing import typed_settings
    views.lineage(found, typed_settings(found[0]) or ())
    return errors.DONE


def _validate(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import launch

    stage, *settings = _expect(words, "STAGE", several=True)
    if stage not in STAGES:
        raise UserError(f"mlx validate takes one of {', '.join(STAGES)}, got {stage!r}{meant(stage, STAGES)}")
    notes = launch.validate(stage, settings, words.options.get("--config-dir", ""), "--multirun" in words.options)
    _show(
        words,
        {"stage": stage, "valid": True, "notes": notes},
        lambda: print("\n".join([*notes, f"mlx {stage}: valid"])),
    )
    return errors.DONE


def _data(words: Words) -> int:
    with importing():
        from metalearn_cli.cli import data_views, launch

    kind, *settings = _expect(words, "|".join(DATA), several=True)
    if kind not in DATA:
        raise UserError(f"there is no mlx data {kind!r}; there are {', '.join(DATA)}{meant(kind, DATA)}")
    extra = words.options.get("--config-dir", "")
    if kind == "make" and not settings:
        raise UserError("mlx data make needs a file or folder: mlx data make SOURCE")
    typed = launch.with_source(settings)
    try:
        found = launch.show_data(typed, extra) if kind == "show" else launch.check_data(kind, typed, extra)
    except errors.SettingsError as error:
        if any(fault.key == "data.column.label" for fault in error.faults):
            launch.say_guess(settings, typed)
        raise
    if kind == "show":
        _show(words, found, lambda: data_views.items(found))
        return errors.DONE
    run = launch.words_of_run(typed, found["data"], extra) if found["data"] else []
    _show(words, found, lambda: data_views.data(found, typed if kind == "make" else None, run))
    return errors.DONE if found["may_start"] else errors.REFUSED


def _doctor(words: Words) -> int:
    _expect(words, "")
    with importing():
        from metalearn_cli.cli import doctor, telling, views
    with telling.reporting():
        found = doctor.examine(_runs_dir(words))
    if "--bench" in words.options:
        from metalearn_cli.cli.bench import measure

        found |= measure()
    _show(words, found, lambda: views.facts(found))
    return errors.DONE


def _completion(words: Words) -> int:
    from metalearn_cli.cli.completion import script

    shell = _expect(words, "bash|zsh|fish")[0]
    if shell not in SHELLS:
        raise UserError(f"there is no completion for {shell!r}; there are {', '.join(SHELLS)}{meant(shell, SHELLS)}")
    print(script(shell))
    return errors.DONE


_COMMANDS: dict[str, Callable[[Words], int]] = {
    "verify": _verify,
    "compare": _compare,
    "report": _report,
    "ablate": _ablate,
    "resume": _resume,
    "predict": _predict,
    "explain": _explain,
    "export": _export,
    "compress": _compress,
    "enrol": _enrol,
    "unenrol": _unenrol,
    "classes": _classes,
    "stream": _stream,
    "serve": _serve,
    "ls": _ls,
    "cat": _cat,
    "cp": _cp,
    "schema": _schema,
    "runs": _runs,
    "show": _show_run,
    "validate": _validate,
    "data": _data,
    "doctor": _doctor,
    "completion": _completion,
}


def _expect(words: Words, what: str, several: bool = False) -> list[str]:
    """Return the arguments of a command: exactly one, one or more if `several`, or none if `what` is ""."""
    if what and not words.rest:
        raise UserError(f"mlx {words.command} needs one more argument: mlx {words.command} {what}")
    if not several and len(words.rest) > bool(what):
        raise UserError(f"mlx {words.command} takes no {words.rest[-1]!r}; see: mlx {words.command} --help")
    return words.rest


def _runs_dir(words: Words) -> str:
    """Return the folder of all runs.

    Raises:
        UserError: if the user names one that does not exist.
    """
    given = words.options.get("--runs-dir")
    if given is not None and not os.path.isdir(given) and words.command != "doctor":
        raise UserError(f"--runs-dir {given}: there is no such folder")
    return given or "runs"


def _show(words: Words, result: Any, draw: Callable[[], None]) -> None:
    """Print a result for a program or for a person.

    Raises:
        UserError: if stdout cannot be written; a run is complete nevertheless.
    """
    try:
        if "--json" in words.options:
            from metalearn_cli.records.runs import as_json

            print(as_json(result, indent=2))
        else:
            draw()
        sys.stdout.flush()
    except Unwritable as error:
        folder = result.get("folder") if isinstance(result, dict) else None
        raise UserError(f"{error}; the run is complete in {folder}" if folder else str(error)) from error


def _failed(as_json: bool, failure: errors.Failure) -> int:
    """Print a failure, already reported on stderr, as JSON if that was asked for; return the exit code."""
    if as_json:
        from metalearn_cli.records import runs

        with suppress(Unwritable):
            print(runs.as_json({"error": failure.plain()}, indent=2))
            sys.stdout.flush()
    return failure.code


if __name__ == "__main__":
    sys.exit(main())

"""Parse a command line into command, options and settings, with only the standard library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from metalearn_cli.cli.typed import row_of
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE

STAGES = {name: stage.about for name, stage in TABLE.items()} | {"run": "the whole chain; skips what is already done"}
COMMANDS = {
    **STAGES,
    "verify": "run an experiment and compare its results with what it claims",
    "compare": "compare runs on the same test episodes, in pairs",
    "report": "write a page with the results, curves and pictures of runs",
    "ablate": "run the chain with and without its stages, and say what each is worth",
    "resume": "complete an interrupted run",
    "predict": "classify files by a few labelled examples, with a trained learner",
    "explain": "show what speaks for a learner's answers: parts of files, examples; draw its classes and network",
    "export": "write a trained learner and its examples into a folder that runs anywhere (ONNX)",
    "compress": "make a trained network smaller by pruning or distillation, and say what that costs",
    "enrol": "add a class to an exported learner; nothing is trained",
    "unenrol": "take a class out of an exported learner",
    "classes": "list the classes of an exported learner, and their examples",
    "stream": "give labelled items to an exported learner one by one, and score it",
    "serve": "answer over HTTP with an exported learner, and show a page in the browser",
    "ls": "list the choices: data, networks, learners, recipes",
    "cat": "print the file of a choice",
    "cp": "copy a choice into your own folder of configs",
    "schema": "print the JSON Schema of config files, for editors",
    "runs": "list the runs",
    "show": "show a run and its ancestors, with checksums",
    "validate": "check the settings of a stage without running it",
    "data": "make, show or check a data set before training on it",
    "doctor": "show versions, devices, precisions and folders",
    "completion": "print the completion script of a shell",
}
DATA = {
    "make": "show what is understood of a file or folder (SOURCE), and the command that trains on it",
    "show": "draw a sheet of items (data-SOURCE.png), or print some",
    "check": "list all problems; exit code 0 if training may start, else 2",
}
FILTERS = {
    "stage": "pretrain, transfer, meta-train, evaluate or run",
    "status": "completed, running, interrupted, pruned by a search, failed or died",
    "data": "the data set",
    "learner": "the model, method or algorithm that was trained or scored",
    "way": "classes per episode",
    "shot": "labelled items per class",
    "seed": "the seed",
    "sweep": "the sweep that it belongs to",
    "sort": "age (newest first, the default) or metric (best first)",
}
"""Filters of `mlx runs`, and its order."""
ANSWERING = {
    "ckpt": "what is trained: latest (the default), latest:STAGE, the id of a run, or a folder",
    "support": "the examples: a folder with a folder for each class, an archive of it, or a table",
    "statistics": "what a network with batch statistics takes them from: support (the default) or train",
    "calibration": "validation episodes (0, or 2 and more) to fit probabilities and unknown (predict: 0; export: 100)",
    "unknown.keep": "the share of items of its classes that is to stay known (default: 0.95)",
    "column.label": "the column of the classes in a table, if it has no usual name; so column.path, column.text",
}
"""The settings of an answer by a checkpoint; an artefact has its own."""
_AUDIT = "name the examples that look mislabelled: true or false (the default)"
_THREADS = {"runtime.threads": "CPU threads, at most one per core; null (the default) as in a training"}
DEPLOYING = {
    "predict": {**ANSWERING, "audit": _AUDIT, **_THREADS},
    "explain": {
        **{key: ANSWERING[key] for key in ("ckpt", "support", "statistics", "column.label")},
        "method": "gradients (the default for pictures and recordings), occlusion (for texts and tables, too), "
        "permutation (what columns of a table are worth), pca or tsne (a map of classes) or network (its blocks)",
        "episodes": "validation episodes of method=permutation (default: 100)",
        "out": "the folder of pictures and numbers (default: explained)",
        **_THREADS,
    },
    "export": {
        **ANSWERING,
        "name": "of the folder exports/NAME (default: that of the examples)",
        "quantize": "int8: the graph in 8-bit integers; says what that costs on the test episodes",
        **_THREADS,
    },
    "compress": {
        "ckpt": ANSWERING["ckpt"],
        "method": "prune (the default): take channels out and train on; distill: a narrower network learns its answers",
        "amount": "the share of the channels that is taken away, between 0 and 1 (default: 0.5)",
        "backbone": "for distill: another network as the student, in place of a narrower one",
        "steps": "of the training; likewise each setting of its stage, of transfer (distill) and of evaluate;",
        "evaluate.episodes": "with its section, as in mlx run, a setting is for this stage alone",
    },
    "enrol": {"column.label": f"{ANSWERING['column.label']}; column.label= for none"},
    "stream": {
        "order": "given: as in the table or folder (the default); or shuffled",
        "held_out": "the share of each class that is not in the stream, but scored at its end (default: 0.2)",
        "seed": "of what is held out, and of a shuffled order (default: 0)",
        "replay": "items of a class that are remembered, by learners without class means (default: 10)",
        "save": "put the items of the stream into the artefact: true or false (the default)",
        "column.label": ANSWERING["column.label"],
        **_THREADS,
    },
    "serve": {
        "host": "the address to listen on (default: 127.0.0.1); one that other machines reach needs a token",
        "port": "the port (default: 8000); 0 for any that is free",
        "token": "what clients must send; the variable MLX_TOKEN keeps it out of the list of processes",
        "origins": "pages of others that may use the server, with commas between: https://a.example",
        "limit.body": "most megabytes of a request (default: 32)",
        "limit.pixels": "most million pixels of a picture, or samples of a recording (default: 25)",
        "limit.classes": "most classes (default: 200)",
        "limit.items": "most examples of a class (default: 100)",
        "limit.queue": "most requests that wait or are answered (default: 64)",
    },
}
"""The settings of the commands that use a trained learner."""
NAMING = ("predict", "explain", "enrol", "unenrol", "stream")
"""The commands whose words may be names of classes and files, which may begin with a dash or have an equals sign."""
REPORTS = (REPORT := "html", "md", "json", "csv")
"""The formats of `mlx report`; the first one if none is named."""
TAKING_SETTINGS = (*STAGES, "verify", "ablate", "validate", "data")
SHELLS = ("bash", "zsh", "fish")


class Option(NamedTuple):
    """An option of the command line.

    Attributes:
        name: as it is typed ("--cfg").
        short: its short form, or "".
        value: the name of its value ("DIR"), or "" if it takes none.
        help: what it does.
        commands: the commands that take it.
        choices: the values allowed; empty allows any.
        default: its value if none is given, or "" if one is required.
    """

    name: str
    short: str
    value: str
    help: str
    commands: tuple[str, ...]
    choices: tuple[str, ...] = ()
    default: str = ""


_WITH_RUNS = ("compare", "report", "resume", "predict", "explain", "export", "compress", "runs", "show", "doctor")
_RUNS_DIR = Option("--runs-dir", "", "DIR", "folder of all runs (default: runs)", _WITH_RUNS)
_COMPOSING = (*STAGES, "verify", "ablate", "validate", "ls", "cat", "cp", "schema", "data")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
OPTIONS = (
    Option("--help", "-h", "", "show this text", tuple(COMMANDS)),
    Option("--json", "", "", "print the result as JSON", tuple(c for c in COMMANDS if c != "completion")),
    _RUNS_DIR,
    Option("--out", "", "FILE", f"file to write (default: report.{REPORT}; stdout for other formats)", ("report",)),
    Option("--format", "", "NAME", f"{', '.join(REPORTS)} (default: {REPORT})", ("report",), REPORTS),
    Option("--csv", "", "", "print the answers as CSV", ("predict", "stream")),
    Option("--bench", "", "", "time a meta-training step with each task batching and precision", ("doctor",)),
    Option("--multirun", "-m", "", "run each of comma-separated values; see mlx ls sweep local", (*STAGES, "validate")),
    Option("--config-dir", "-cd", "DIR", "a folder with your own configs", _COMPOSING),
    Option("--cfg", "-c", "WHAT", "print the settings: job, hydra or all", tuple(STAGES), ("job", "hydra", "all")),
    Option("--resolve", "", "", "with --cfg: with references filled in", tuple(STAGES)),
    Option("--package", "-p", "KEY", "with --cfg: only this part", tuple(STAGES)),
    Option("--info", "-i", "WHAT", f"how the settings were composed: {', '.join(_INFO)}", tuple(STAGES), _INFO, "all"),
    Option("--hydra-help", "", "", "show the help of Hydra, which composes the settings", tuple(STAGES)),
)
_VERSION = Option("--version", "", "", "print the version", ())


class Words(NamedTuple):
    """A parsed command line.

    Attributes:
        command: one of COMMANDS, or "" if none was given.
        options: values of the options by name, "" for options without a value.
        rest: all other words: settings and names.
        names: the last ones of these, which stand behind -- and are no settings.
    """

    command: str
    options: dict[str, str]
    rest: list[str]
    names: Sequence[str] = ()


def closest(word: str, known: Iterable[str]) -> str:
    """Return the closest known word, ignoring case, or ""."""
    by_letters = {name.lower(): name for name in known}
    return next((by_letters[name] for name in get_close_matches(word.lower(), by_letters, n=1)), "")


def meant(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?", or "" if nothing is close."""
    hint = closest(word, known)
    return f"; did you mean {hint}?" if hint else ""


def parse(argv: Sequence[str]) -> Words:
    """Parse a command line; options may come before or after the command.

    An unknown option is kept in `rest`, with its value: it may be meant as a setting, and the check of the settings
    then shows how to write it. After the word -- there are no options.

    Raises:
        UserError: for an unknown command, a misspelt option, one without its value, or one of another command.
    """
    table = {name: o for o in (*OPTIONS, _VERSION) for name in (o.name, o.short) if name}
    options, rest, names, tokens, unknown = {}, [], list[str](), list(argv), []
    while tokens:
        word = tokens.pop(0)
        if word == "--":
            names = tokens
            break
        if not word.startswith("-"):
            rest.append(word)
            continue
        name, equals, value = word.partition("=")
        option = table.get(name)
        if option is None:
            word_of = name.lstrip("-")
            near = closest(word_of, [o.name.lstrip("-") for o in table.values() if _taken(o, argv)])
            if near and not row_of(word_of, value):
                raise UserError(f"there is no option {name}; did you mean --{near}?")
            value_follows = tokens and not equals and not re.search("^-|=", tokens[0]) and tokens[0] not in COMMANDS
            unknown.append(f"{word} {tokens.pop(0)}" if value_follows else word)
            continue
        if option.value and not equals:
            follows = tokens and not tokens[0].startswith("-") and (not option.default or tokens[0] in option.choices)
            if not follows and not option.default:
                raise UserError(f"{name} needs a value: {name} {option.value}")
            value = tokens.pop(0) if follows else option.default
        elif equals and not option.value:
            raise UserError(f"{name} takes no value, got {value!r}")
        if option.choices and value not in option.choices:
            raise UserError(
                f"{name} must be one of {', '.join(option.choices)}, got {value!r}{meant(value, option.choices)}"
            )
        options[option.name] = expanded(value) if option.value in ("DIR", "FILE") else value
    first = rest or names
    command = first.pop(0) if first else ""
    if command and command not in COMMANDS:
        hint = meant(command, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        if command == "help":
            hint = f"; did you mean: {' '.join(['mlx', *rest[:1], '--help'])}"
        raise UserError(f"there is no command {command!r}{hint}")
    name, _, value = unknown[0].lstrip("-").replace("=", " ", 1).partition(" ") if unknown else ("", "", "")
    if command == "runs" and name in FILTERS:
        value = value or " ".join(rest) or "..."
        raise UserError(f"there is no option --{name}; did you mean: mlx runs {name}={value}")
    if unknown and command not in TAKING_SETTINGS:
        hint = f"see: {' '.join(['mlx', *[command][: bool(command)], '--help'])}"
        if command in NAMING:
            hint += f"; {behind(command, unknown[0])}"
        raise UserError(f"there is no option {unknown[0]}; {hint}")
    folder = next((word.partition("=")[2] for word in rest if word.startswith("runs_dir=")), "")
    if folder and command in _RUNS_DIR.commands:
        raise UserError(f"mlx {command} has no setting runs_dir; did you mean: --runs-dir {folder}")
    for option in OPTIONS:
        if command and option.name in options and command not in option.commands:
            hint = f"see: mlx {command} --help"
            if option is _RUNS_DIR and command in STAGES:
                hint = f"did you mean: runs_dir={options[option.name]}"
            raise UserError(f"mlx {command} has no option {option.name}; {hint}")
    return Words(command, options, [*rest, *unknown, *names], names)


def behind(command: str, name: str) -> str:
    """Return how a name that looks like an option or a setting is typed."""
    return f"if it is a name, all names go behind --, as in: mlx {command} -- ARTEFACT {name}"


def _taken(option: Option, argv: Sequence[str]) -> bool:
    """Whether the command of a command line takes an option; any, if it has no command."""
    command = next((word for word in argv if word in COMMANDS), "")
    return not command or not option.commands or command in option.commands


def overview() -> str:
    """Return the text of `mlx --help`."""
    lines = ["usage: mlx COMMAND [key=value ...] [options]", "", "Few-shot and meta-learning, from config files.", ""]
    lines += [f"  {name:<12}{about}" for name, about in COMMANDS.items()]
    lines += [
        "",
        "the chain, step by step:",
        "  mlx pretrain model=autoencoder",
        "  mlx transfer init_from=latest:pretrain",
        "  mlx meta-train init_from=latest:transfer algorithm=maml",
        "  mlx evaluate ckpt=latest:meta-train",
        "or at once:",
        "  mlx run",
        "",
        "more: mlx COMMAND --help, mlx ls, mlx --version",
    ]
    return "\n".join(lines)


def option_lines(command: str) -> list[str]:
    """Return one line for each option of a command."""
    shown = [(", ".join(filter(None, (o.short, o.name))), o) for o in OPTIONS if command in o.commands]
    return [f"  {f'{names} {o.value}'.rstrip():<23} {o.help}" for names, o in shown]

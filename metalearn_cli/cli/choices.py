"""The choices and settings of commands, read from the config files as text, without Hydra and torch."""

from __future__ import annotations

import re
from pathlib import Path

from metalearn_cli.cli.words import COMMANDS, DATA, DEPLOYING, FILTERS, STAGES, meant, option_lines
from metalearn_cli.core import plugins
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.places import config_dir
from metalearn_cli.core.stages import TABLE

_HIDDEN = ("hydra", "stage")  # groups that commands are made of; users do not choose from them
MODELINE = "# yaml-language-server:"
"""The beginning of the line that tells an editor the schema of a file."""
_EXAMPLES = {
    **{name: stage.examples for name, stage in TABLE.items()},
    "data": (
        "mlx data make my_photos/",
        "mlx data show data=images data.root=my_photos/",
        "mlx data check data=omniglot data.root=FOLDER way=20 shot=5",
    ),
    "cat": ("mlx cat experiment/smoke", "mlx cat algorithm/maml"),
    "cp": ("mlx cp experiment/smoke mine/my_smoke.yaml", "mlx cp algorithm/maml mine/my_maml.yaml"),
    "schema": ("mlx schema run > run.schema.json", "mlx schema algorithm"),
    "ls": ("mlx ls algorithm", "mlx ls algorithm maml", "mlx ls experiment smoke"),
    "verify": (
        "mlx verify experiment=smoke tier=smoke",
        "mlx verify experiment=omniglot_5w1s_protonet data.root=FOLDER",
    ),
    "compare": (
        "mlx compare latest:evaluate 20260131-120000-1f2e",
        "mlx compare sweep=9a8b7c6d",
        "mlx compare runs/run/*",
    ),
    "report": (
        "mlx report latest:run",
        "mlx report sweep=9a8b7c6d --out sweep.html",
        "mlx report stage=evaluate --format csv",
    ),
    "ablate": ("mlx ablate data=clinc150 seeds=5",),
    "predict": (
        "mlx predict support=examples/ photo.jpg more_photos/",
        "mlx predict ckpt=latest:meta-train support=examples.csv new.csv --csv",
        "mlx predict exports/examples photo.jpg",
    ),
    "explain": (
        "mlx explain support=examples/ photo.jpg",
        "mlx explain exports/examples photo.jpg method=occlusion",
        "mlx explain exports/examples photos/ method=tsne",
        "mlx explain ckpt=latest method=network",
    ),
    "export": (
        "mlx export support=examples/",
        "mlx export ckpt=latest:meta-train support=examples/ name=birds quantize=int8",
    ),
    "compress": (
        "mlx compress amount=0.5 steps=200",
        "mlx compress ckpt=latest:meta-train method=distill backbone=conv4 backbone.hidden=16",
    ),
    "enrol": ("mlx enrol exports/birds wren wren-1.jpg wren-2.jpg",),
    "unenrol": ("mlx unenrol exports/birds wren",),
    "classes": ("mlx classes exports/birds",),
    "stream": ("mlx stream exports/birds sightings.csv", "mlx stream exports/birds photos/ order=shuffled --json"),
    "serve": ("mlx serve exports/birds", "MLX_TOKEN=16-LETTERS-OR-MORE mlx serve exports/birds host=0.0.0.0 port=80"),
    "runs": ("mlx runs", "mlx runs stage=meta-train status=completed sort=metric"),
    "show": ("mlx show latest", "mlx show latest:meta-train"),
    "validate": ("mlx validate meta-train way=20 shot=5",),
    "run": ("mlx run", "mlx run data=omniglot meta_train.steps=2000 optimizer@meta_train.optimizer=sgd"),
}


_DEFAULTS = re.compile(r"^defaults:( *\[.*\].*\n|\n(?:(?: .*)?\n)*)", re.MULTILINE)
"""The configs that a file extends: in brackets, or in lines of their own."""


def folders(extra: str = "") -> list[Path]:
    """Return the folders of configs, in the order of search: the shipped one, the user's, plug-ins'.

    Raises:
        UserError: if the user's own folder `extra` does not exist, or if two folders have a config of the same name:
            the first would hide the second.
    """
    if extra and not Path(extra).is_dir():
        raise UserError(f"--config-dir {extra}: there is no such folder")
    found = [config_dir(), *([Path(extra)] if extra else []), *plugins.config_dirs()]
    first: dict[Path, Path] = {}
    several = dict.fromkeys(folder.resolve() for folder in found) if len(found) > 1 else ()
    for folder in several:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]):
            if (other := first.setdefault(path.relative_to(folder), path)) != path:
                raise UserError(f"{path} has the same name as {other}, which would hide it; rename it")
    return found


def catalogue(extra: str = "") -> dict[str, dict[str, str]]:
    """Return every group's choices with the first sentence of each: {"algorithm": {"maml": "MAML: ..."}}."""
    groups: dict[str, dict[str, str]] = {}
    for path in (path for folder in folders(extra) for path in sorted(folder.glob("*/*.yaml"))):
        if path.parent.name not in _HIDDEN and path.is_file():
            groups.setdefault(path.parent.name, {}).setdefault(path.stem, _first_sentence(path))
    return dict(sorted(groups.items()))


def group(name: str, extra: str = "") -> dict[str, str]:
    """Return one group's choices.

    Raises:
        UserError: if there is no such group.
    """
    groups = catalogue(extra)
    if found := [group for group, choices in groups.items() if name not in groups and name in choices]:
        raise UserError(f"there is no group {name!r}; did you mean: mlx ls {found[0]} {name}")
    if name not in groups:
        raise UserError(f"there is no group {name!r}; there are {', '.join(groups)}{meant(name, groups)}")
    return groups[name]


def component(name: str, choice: str, extra: str = "") -> str:
    """Return the description of one choice, and its settings with their comments.

    Raises:
        UserError: if there is no such choice.
    """
    known = group(name, extra)
    if choice not in known:
        raise UserError(f"there is no {name} {choice!r}; there are {', '.join(known)}{meant(choice, known)}")
    header: list[str] = []
    settings: list[str] = []
    for path in _with_bases(name, choice, extra):
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if not line.startswith(("# @", MODELINE))]
        header = [line.removeprefix("#").removeprefix(" ") for line in lines if line.startswith("#")]
        body = _DEFAULTS.sub("", "\n".join(lines) + "\n")
        own = [line for line in body.splitlines() if line and not line.startswith(("#", "_target_"))]
        again = {line.partition(":")[0] for line in own if not line.startswith(" ")}
        settings = [line for line in settings if line.partition(":")[0] not in again] + own
    prefix = "" if name == "experiment" else f"{name}."
    told = [f"  {line if line.startswith(' ') else prefix + line}" for line in settings]
    return "\n".join([*header, "", "settings:" if told else "no settings", *told])


def texts_of(name: str, choice: str, extra: str = "") -> list[str]:
    """Return the text of a config after those of its group that it extends; the group is "" for that of a command."""
    paths = _with_bases(name, choice, extra) if name else [path_of(name, choice, extra)]
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]


def path_of(name: str, choice: str, extra: str = "") -> Path:
    """Return the file of a choice; the group is "" for that of a command."""
    return next(path for folder in folders(extra) if (path := folder / name / f"{choice}.yaml").is_file())


def _with_bases(name: str, choice: str, extra: str) -> list[Path]:
    """Return the file of a choice, after the files of its group that it extends, as fomaml extends maml."""
    path = path_of(name, choice, extra)
    defaults = _DEFAULTS.search(path.read_text(errors="replace"))
    bases = re.findall(r"\w+(?= *[],])|(?<=- )\w+(?=\n)", defaults[1]) if defaults else []
    return [p for base in bases if base not in ("_self_", choice) for p in _with_bases(name, base, extra)] + [path]


def help_text(command: str, extra: str = "") -> str:
    """Return the text of `mlx COMMAND --help`."""
    words = {
        "verify": "experiment=NAME [tier=smoke|short|full] [key=value ...]",
        "compare": "RUN RUN [...]",
        "report": "RUN [...]",
        "ablate": "[key=value ...]",
        "resume": "RUN [key=value ...]",
        "predict": "ARTEFACT|support=EXAMPLES FILE|FOLDER|TABLE [...] [key=value ...]",
        "explain": "[ARTEFACT|support=EXAMPLES] [FILE|FOLDER|TABLE ...] [key=value ...]",
        "export": "support=EXAMPLES [key=value ...]",
        "compress": "[key=value ...]",
        "enrol": "ARTEFACT NAME FILE|FOLDER|TABLE [...]",
        "unenrol": "ARTEFACT NAME",
        "classes": "ARTEFACT",
        "stream": "ARTEFACT FOLDER|TABLE [key=value ...]",
        "serve": "ARTEFACT [key=value ...]",
        "ls": "[GROUP [NAME]]",
        "cat": "GROUP/NAME",
        "cp": "GROUP/NAME FOLDER/COPY.yaml",
        "schema": "STAGE|GROUP",
        "show": "RUN",
        "runs": "[key=value ...]",
        "validate": "STAGE [key=value ...]",
    }
    words["data"] = f"{'|'.join(DATA)} [SOURCE] [key=value ...]"
    usage = (
        "[key=value ...]"
        if command in STAGES
        else words.get(command, "bash|zsh|fish" if command == "completion" else "")
    )
    about = COMMANDS[command]
    lines = [
        f"usage: mlx {' '.join(filter(None, (command, usage)))} [options]",
        "",
        f"{about[0].upper()}{about[1:]}.",
        "",
    ]
    if command == "data":
        lines += [*(f"  {name}: {what}" for name, what in DATA.items()), ""]
    if command in (*STAGES, "data"):
        config = "data-check" if command == "data" else command
        lines += ["choices, GROUP=NAME (details: mlx ls GROUP):", *_choice_lines(config, extra), ""]
        lines += ["settings, KEY=VALUE, with their defaults:", *_setting_lines(config), ""]
    if command == "runs":
        lines += ["filters and order, KEY=VALUE:", *(f"  {name}: {what}" for name, what in FILTERS.items()), ""]
    if command in DEPLOYING:
        width = max(map(len, DEPLOYING[command]))
        lines += [
            "settings, KEY=VALUE:",
            *(f"  {key:<{width}}  {what}" for key, what in DEPLOYING[command].items()),
            "",
        ]
    if command == "compare":
        lines += [
            "RUN is an id, the beginning of one, latest, latest:STAGE or a folder; a training",
            "stands for its newest evaluation, a chain for the last row of its table. Two",
            "runs are two sides; of more, those with the same settings but the seed are one.",
            "Filters of mlx runs (KEY=VALUE) choose runs, too.",
            "",
        ]
    if command == "report":
        lines += [
            "RUN is an id, the beginning of one, latest, latest:STAGE or a folder; filters of",
            "mlx runs (sweep=ID) choose runs, too. The runs that one comes from, and the",
            "evaluations of it, are shown with it.",
            "",
        ]
    if command == "ablate":
        lines += ["settings, KEY=VALUE: those of mlx run, see: mlx run --help", ""]
    if command in _EXAMPLES:
        lines += ["examples:", *(f"  {example}" for example in _EXAMPLES[command]), ""]
    return "\n".join([*lines, "options:", *option_lines(command)])


def _first_sentence(path: Path) -> str:
    """Return the first comment of a file, up to the end of a sentence; in recipes a `# @package` line comes first."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(4096)
    lines = [line for line in head.splitlines() if line.startswith("#") and not line.startswith(MODELINE)]
    comments = [line.lstrip("# ").strip() for line in lines]
    told = ""
    for line in comments:
        if line.startswith("@"):
            continue
        if not line and told:
            break
        told = f"{told} {line}".strip()
        if told.endswith("."):
            break
    return told


def places(stage: str, extra: str = "") -> dict[str, str]:
    """Return the default choice of each group of a stage, by its word before the =, as in optimizer@transfer.optimizer.

    They are in the defaults lists of the stage's config and that config's parts.
    """
    groups, found = catalogue(extra), {}
    for name, prefix in _parts(stage):
        for group, default in re.findall(r"^  - (?:optional )?/?(\w+): (\w+)", _text(name), re.MULTILINE):
            if group in groups:
                found[f"{group}@{prefix}.{group}" if prefix else group] = default
    return found


def _choice_lines(stage: str, extra: str) -> list[str]:
    """Return the groups of a stage with their choices."""
    groups = catalogue(extra)
    return [
        f"  {key}={default}  ({' | '.join(groups[key.split('@')[0]])})" for key, default in places(stage, extra).items()
    ]


def _setting_lines(stage: str) -> list[str]:
    """Return the settings in the config files of a stage, with their comments."""
    lines: list[str] = []
    for name, prefix in _parts(stage):
        body = re.sub(r"^(defaults|hydra):\n(?:(?: .*)?\n)*", "", _text(name), flags=re.MULTILINE)
        lines += [f"  {prefix}:"] * bool(prefix)
        indent = "    " if prefix else "  "
        own = [f"{indent}{line}" for line in body.splitlines() if line and not line.startswith("#")]
        again = set() if prefix else {line.partition(":")[0] for line in own}
        lines = [line for line in lines if line.partition(":")[0] not in again] + own
    return lines


def _parts(stage: str) -> list[tuple[str, str]]:
    """Return the parts of a stage's config, each with its section ("" for none)."""
    sections = re.findall(r"^  - stage@(\w+): (\w+)", _text(stage), re.MULTILINE)
    return [("base", ""), (stage, ""), *((f"stage/{name}", "" if at == "_global_" else at) for at, name in sections)]


def _text(name: str) -> str:
    return (config_dir() / f"{name}.yaml").read_text()

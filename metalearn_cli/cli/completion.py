"""Shell completion: commands, options and runs are completed here, the settings of a stage by Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from itertools import pairwise

from metalearn_cli.cli.words import COMMANDS, DATA, DEPLOYING, OPTIONS, SHELLS, STAGES
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE

CHECKPOINTS = ("ckpt", "init_from", "teacher")
"""The settings that name a checkpoint."""

_SCRIPTS = {
    "bash": r"""# mlx completion for bash; put into ~/.bashrc:  eval "$(mlx completion bash)"
_mlx_complete() {
    local candidates
    candidates=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" mlx -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$candidates" -- "${COMP_WORDS[COMP_CWORD]}"))
    # add a space after a complete candidate, but not after one that ends in = . /
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} != *[=./] ]] && COMPREPLY[0]+=" "
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//[=@:]}
complete -o nospace -o default -F _mlx_complete mlx""",
    "zsh": r"""# mlx completion for zsh; put into ~/.zshrc after compinit:  eval "$(mlx completion zsh)"
_mlx_complete() {
    local -a candidates
    candidates=(${=$(COMP_LINE="$LBUFFER" mlx -sc query=zsh 2>/dev/null)})
    compadd -S '' -a candidates
}
compdef _mlx_complete mlx""",
    "fish": r"""# mlx completion for fish; put into ~/.config/fish/config.fish:  mlx completion fish | source
function _mlx_complete
    set -lx COMP_LINE (commandline -cp)
    mlx -sc query=fish 2>/dev/null
end
complete -c mlx -f -a '(_mlx_complete)'""",
}


def script(shell: str) -> str:
    """Return the script with which a shell completes `mlx`."""
    return _SCRIPTS[shell]


def query(argv: Sequence[str]) -> int:
    """Print the candidates for the last word of COMP_LINE: `mlx -sc query=SHELL`."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()[1:]
    current = words.pop() if words and not line[-1].isspace() else ""
    command = next((word for word in words if word in COMMANDS), "")
    rest = words[words.index(command) + 1 :] if command else []
    stage = command if command in STAGES else next(iter(rest), "") if command == "validate" else ""
    stage = "run" if command == "ablate" else stage  # whose settings it takes
    if current.startswith("-"):
        candidates = [o.name for o in OPTIONS if not command or command in o.commands]
    elif not command:
        candidates = list(COMMANDS)
    elif stage in STAGES or (command == "data" and "check" in words):
        extra = _own_folder(words)
        if {"-m", "--multirun"} & {*words} and current.startswith("sweep"):
            return _of_hydra("sweep", f"mlx {current}", argv)
        candidates = _of_value(current, extra) or _of_place(stage, current, extra)
        if not candidates:
            config = stage or "data-check"
            others = [word for word in words if word not in (command, stage, "check")]
            return _of_hydra(config, " ".join(["mlx", *others, current]), argv)
    elif command in DEPLOYING:
        named = current.partition("=")[0] in CHECKPOINTS  # method= is no method of transfer here
        candidates = _of_value(current, "") if named else [f"{key}=" for key in DEPLOYING[command]]
    else:
        candidates = _of_command(command, _own_folder(words))
    print("\n".join(c for c in candidates if c.startswith(current)))
    return 0


def _own_folder(words: Sequence[str]) -> str:
    """Return the user's own folder of configs, "" without one."""
    pairs = pairwise(words)
    return next((expanded(value) for name, value in pairs if name in ("--config-dir", "-cd")), "")


def _of_value(current: str, extra: str) -> list[str]:
    """Return the candidates for a value: a checkpoint, or a choice, also the next one behind a comma."""
    key, equals, value = current.partition("=")
    name = key.split(".")[-1]
    if not equals:
        return []
    if name in CHECKPOINTS:
        from metalearn_cli.records.runs import list_runs

        accepted = TABLE["evaluate" if name == "ckpt" else "meta-train"].accepts
        trained = [run["id"] for run in list_runs("runs") if run["stage"] in accepted]
        return [f"{key}={found}" for found in ("latest", *(f"latest:{stage}" for stage in accepted), *trained)]
    from metalearn_cli.cli.choices import catalogue

    before = current[: len(current) - len(re.split(r"[,\[]", value)[-1])]
    taken = re.split(r"[,\[]", before.partition("=")[2])
    choices = catalogue(extra).get(key.split("@")[0].lstrip("+/"), {})
    return [f"{before}{choice}" for choice in choices if choice not in taken]


def _of_place(stage: str, current: str, extra: str) -> list[str]:
    """Return the candidates for a group at a place, as in optimizer@transfer.optimizer=."""
    if "@" not in current or "=" in current or not stage:
        return []
    from metalearn_cli.cli.choices import places

    return [f"{key}=" for key in places(stage, extra) if "@" in key]


def _of_command(command: str, extra: str) -> list[str]:
    if command == "validate":
        return list(STAGES)
    if command == "completion":
        return list(SHELLS)
    if command == "verify":
        from metalearn_cli.cli.choices import catalogue
        from metalearn_cli.core.claims import TIERS

        return [*(f"experiment={name}" for name in catalogue()["experiment"]), *(f"tier={name}" for name in TIERS)]
    if command == "data":
        return list(DATA)
    if command in ("ls", "schema", "cat", "cp"):
        from metalearn_cli.cli.choices import catalogue

        groups = catalogue(extra)
        if command == "ls":
            return list(groups)
        if command == "schema":
            return [*STAGES, *groups]
        return [f"{group}/{name}" for group, choices in groups.items() for name in choices]
    if command in ("show", "resume", "compare", "report"):
        from metalearn_cli.records.runs import list_runs

        return [run["id"] for run in list_runs("runs")]
    return []


def _of_hydra(stage: str, line: str, argv: Sequence[str]) -> int:
    from metalearn_cli.cli.launch import app

    os.environ["COMP_LINE"] = line
    with open(os.devnull, "w") as silence, redirect_stderr(silence):
        try:
            app(stage, argv)
        except (Exception, SystemExit):
            return 1  # half a word is often not a valid setting: no candidates
    return 0

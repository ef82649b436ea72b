"""Shell completion: commands, options and runs are completed here, the settings of a stage by Hydra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stderr

from metalearn_cli.cli.words import COMMANDS, DATA, OPTIONS, SHELLS, STAGES

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
    if current.startswith("-"):
        candidates = [o.name for o in OPTIONS if not command or command in o.commands]
    elif not command:
        candidates = list(COMMANDS)
    elif command in STAGES or (command == "data" and "check" in words):
        rest = [word for word in words if word not in (command, "check")]
        config = command if command in STAGES else "data-check"
        return _of_hydra(config, " ".join(["mlx", *rest, current]), argv)
    else:
        candidates = _of_command(command)
    print("\n".join(c for c in candidates if c.startswith(current)))
    return 0


def _of_command(command: str) -> list[str]:
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
    if command == "ls":
        from metalearn_cli.cli.choices import catalogue

        return list(catalogue())
    if command in ("show", "resume"):
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

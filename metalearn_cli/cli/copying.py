"""Show and copy shipped configs: `mlx cat` and `mlx cp`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.cli.choices import MODELINE, catalogue, group, path_of
from metalearn_cli.cli.words import meant
from metalearn_cli.core.errors import UserError

_STAGES = {"algorithm": "meta-train", "method": "transfer"} | dict.fromkeys(
    ("model", "optimizer", "scheduler"), "pretrain"
)
"""The command that tries a copy of a group's config; `mlx run` for all others."""


class Copied(NamedTuple):
    """A copy of a config.

    Attributes:
        file: its path.
        schema: the schema that editors check it with.
        command: what runs it.
    """

    file: str
    schema: str
    command: str


def named(word: str, extra: str = "") -> tuple[str, str]:
    """Return group and name of a config that is typed as GROUP/NAME.

    Raises:
        UserError: if there is none.
    """
    kind, slash, name = word.removesuffix(".yaml").partition("/")
    groups = catalogue(extra)
    if not slash:
        found = [known for known, choices in groups.items() if kind in choices]
        hint = f"did you mean {found[0]}/{kind}?" if found else "see: mlx ls"
        raise UserError(f"a config is named GROUP/NAME, as in experiment/smoke, got {word!r}; {hint}")
    known = group(kind, extra)
    if name not in known:
        raise UserError(f"there is no {kind} {name!r}{meant(name, known)}; see: mlx ls {kind}")
    return kind, name


def text_of(word: str, extra: str = "") -> str:
    """Return the file of a config as it is.

    Raises:
        UserError: if there is none.
    """
    return path_of(*named(word, extra), extra).read_text(encoding="utf-8", errors="replace")


def copy(word: str, to: str, extra: str = "") -> Copied:
    """Copy a config into a folder for `--config-dir`, with a schema for editors beside it.

    Args:
        word: the config, GROUP/NAME.
        to: the copy: FOLDER/NAME.yaml, where FOLDER is for `--config-dir`. The copy lies in its sub-folder GROUP.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if there is no such config, or a file of the copy's name.
    """
    from metalearn_cli.cli.schema import schema
    from metalearn_cli.records.runs import as_json

    kind, name = named(word, extra)
    path = Path(to)
    if path.suffix != ".yaml" or not re.fullmatch(r"[A-Za-z_][\w-]*", path.stem):
        raise UserError(f"the copy needs a name of letters, digits and _ that ends in .yaml, got {to!r}")
    folder = path.parent.parent if path.parent.name == kind else path.parent
    path = folder / kind / path.name
    if path.stem in catalogue(extra)[kind]:
        raise UserError(f"there is {kind}={path.stem} already; name the copy otherwise, such as my_{path.name}")
    place = ["--config-dir", str(folder), f"{kind}={path.stem}"]
    command = shlex.join(["mlx", *["-m"] * (kind == "sweep"), _STAGES.get(kind, "run"), *place])
    text = text_of(word, extra).replace(f"mlx run {kind}={name}", command)
    beside = path.with_name(f"{kind}.schema.json")
    header = re.match(r"(# @.*\n)*", text)
    end = header.end() if header else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{text[:end]}{MODELINE} $schema={beside.name}\n{text[end:]}")
    except FileExistsError as error:
        raise UserError(f"{path} exists already; name the copy otherwise") from error
    beside.write_text(as_json(schema(kind, str(folder)), indent=1) + "\n")
    return Copied(str(path), str(beside), command)

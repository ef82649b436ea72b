"""What a file of a `--config-dir` may say: settings, and nothing that runs, reads the machine or fills its memory.

Such a folder may come from a stranger, so each file of it is vetted when Hydra asks for it, before Hydra parses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import UserError

LARGEST = 1 << 18
"""Bytes of a config file; the longest that is shipped has some 1,500."""
MOST = 10_000
"""Values in a config, every alias written out."""
DEEPEST = 32
"""Levels of nesting."""


class VettedConfigSource(FileConfigSource):
    """A folder of configs that is not trusted."""

    @staticmethod
    def scheme() -> str:
        """Return what the folder's address begins with."""
        return "vetted"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file.

        Raises:
            UserError: if it may not be used.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        _weigh(_text(path), path)
        try:
            result = super().load_config(config_path)
        except (OSError, ValueError) as error:  # nothing but a number; one of thousands of digits
            raise UserError(f"{path} cannot be read: {error}") from error
        package = str(result.header.get("package") or "")
        contents = OmegaConf.to_container(result.config, resolve=False)
        keys = contents if isinstance(contents, dict) else {}
        if config_path.startswith("hydra/") or "hydra" in keys or "hydra" in re.split(r"\W", package):
            raise UserError(f"{path} sets hydra, which runs programs; a config file may only set what mlx does")
        for entry in _strings(keys.get("defaults", [])):
            if "hydra" in re.split(r"\W", entry) or ".." in entry or "//" in entry or entry.startswith("${"):
                chosen = f"chooses {shown(entry)} in its defaults"
                raise UserError(f"{path} {chosen}; allowed are configs of mlx's own groups, without .. in their names")
        for value in _strings(contents):
            if wrong := _reference(value):
                raise UserError(f"{path} has the value {shown(value)}: {wrong}")
        return result


def too_complex(word: str) -> str:
    """Return why a word of the command line is not parsed, or ""."""
    depth = deepest = 0
    for letter in word:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if len(word) > LARGEST or deepest > DEEPEST:
        return f"is too long or nested too deeply; allowed are {LARGEST} characters and {DEEPEST} levels"
    return ""


def _text(path: Path) -> str:
    if not path.is_file():  # a pipe or a device would never come to its end
        raise UserError(f"{path} is no file")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is too large for a config: it has more than {LARGEST} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error


def _weigh(text: str, path: Path) -> None:
    """Refuse what would be too much once aliases are written out, without writing them out.

    Errors of syntax are left to the parser that follows.
    """
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor, values so far
    anchors: dict[str, int] = {}
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    while True:
        try:
            event = next(events, None)
        except yaml.YAMLError:
            return
        if event is None:
            return
        added, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor not in anchors:
                raise UserError(f"{path} refers by *{anchor} to something that is not complete before it")
            added = anchors[anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, added = open_nodes.pop() if isinstance(event, yaml.CollectionEndEvent) else (anchor, 1)
            if anchor:
                anchors[anchor] = added
        outer, size = open_nodes.pop()
        open_nodes.append((outer, size + added))
        if len(open_nodes) > DEEPEST:
            raise UserError(f"{path} is nested too deeply; allowed are {DEEPEST} levels")
        if size + added > MOST:
            raise UserError(f"{path} has more than {MOST} values, with its aliases written out")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _strings(key)
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


def _reference(value: str) -> str:
    """Return why a value may not refer to others as it does, or "".

    A resolver, as in ${oc.env:HOME}, reads the machine into what is written down and handed on. Values that refer
    twice each to the one before grow as powers of two.
    """
    references = value.count("${")
    if references > 1:
        return "a config file may refer to one other setting in a value, not more"
    if references and ":" in value.partition("${")[2].partition("}")[0]:
        return "a config file may refer to other settings, as in ${way}, but not to anything else"
    return ""

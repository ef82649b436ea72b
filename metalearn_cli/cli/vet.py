"""Check the files of a `--config-dir`: settings are allowed; programs, the environment and huge values are not.

Such a folder may be untrusted, so each file is checked when Hydra asks for it, before Hydra parses it.
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
"""Bytes of a config file; the longest shipped one has some 1,500."""
MOST = 10_000
"""Values in a config, with all aliases expanded."""
DEEPEST = 32
"""Levels of nesting."""


class VettedConfigSource(FileConfigSource):
    """An untrusted folder of configs."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of the folder's address."""
        return "vetted"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file.

        Raises:
            UserError: if it is not allowed or cannot be read.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        _weigh(_text(path), path)
        try:
            result = super().load_config(config_path)
        except (OSError, ValueError) as error:  # the whole file is a number; a number has thousands of digits
            raise UserError(f"{path} cannot be read: {error}") from error
        package = str(result.header.get("package") or "")
        contents = OmegaConf.to_container(result.config, resolve=False)
        keys = contents if isinstance(contents, dict) else {}
        if config_path.startswith("hydra/") or "hydra" in keys or "hydra" in re.split(r"\W", package):
            raise UserError(f"{path} sets hydra, which runs programs; a config file may only set mlx's own settings")
        for entry in _strings(keys.get("defaults", [])):
            if "hydra" in re.split(r"\W", entry) or ".." in entry or "//" in entry or entry.startswith("${"):
                chosen = f"chooses {shown(entry)} in its defaults"
                raise UserError(f"{path} {chosen}; allowed are configs of mlx's own groups, without .. in their names")
        for value in _strings(contents):
            if wrong := _reference(value):
                raise UserError(f"{path} has the value {shown(value)}: {wrong}")
        return result


def too_complex(word: str) -> str:
    """Return why a word of the command line is too complex to parse, or ""."""
    depth = deepest = 0
    for letter in word:
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if len(word) > LARGEST or deepest > DEEPEST:
        return f"is too long or nested too deeply; allowed are {LARGEST} characters and {DEEPEST} levels"
    return ""


def _text(path: Path) -> str:
    if not path.is_file():  # reading a pipe or a device may never end
        raise UserError(f"{path} is not a file")
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is too large for a config: it has more than {LARGEST} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error


def _weigh(text: str, path: Path) -> None:
    """Refuse a text that has too many values with its aliases expanded, without expanding them.

    Syntax errors are left to the parser.
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
                raise UserError(f"{path} uses the alias *{anchor} before its anchor is complete")
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
            raise UserError(f"{path} has more than {MOST} values, with its aliases expanded")


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
    """Return why the references in a value are not allowed, or "".

    A resolver, as in ${oc.env:HOME}, would copy facts of this machine into files that are passed on. If each value
    refers twice to the one before it, values grow as powers of two.
    """
    references = value.count("${")
    if references > 1:
        return "in a config file, a value may refer to only one other setting"
    if references and ":" in value.partition("${")[2].partition("}")[0]:
        return "a config file may refer to other settings, as in ${way}, but not to anything else"
    return ""

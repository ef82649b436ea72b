"""What is wrong with a command line, and where it came from: all of it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metalearn_cli.cli.composing import HYDRA_ERRORS, Composer, Composition, NotForUse
from metalearn_cli.cli.errors import Fault, SettingsError
from metalearn_cli.cli.words import closest
from metalearn_cli.core.check import LONGEST, shown
from metalearn_cli.core.errors import ConfigError, Problem

TYPED = "the command line"


def check(composer: Composer, words: Sequence[str], multirun: bool) -> list[Composition]:
    """Return what a command line asks for: the settings of one job, or of those of a sweep.

    Raises:
        SettingsError: with everything that is wrong.
    """
    faults, overrides = [], []
    for word in words:
        try:
            override = composer.read(word)
            if not override.key_or_group:
                raise HydraException("the name of the setting is missing")
            if override.is_sweep_override() and not multirun:
                several = (
                    f"{override.get_value_string()} is several values; add -m to run each, or write a list as [1,2]"
                )
                faults.append(Fault(override.key_or_group, several, TYPED))
            else:
                overrides.append(override)
        except HydraException as error:
            faults.append(_unreadable(composer, word, error))
    try:
        combinations = composer.combinations(overrides) if multirun else [[composer.forced(o) for o in overrides]]
    except HydraException as error:
        raise SettingsError(composer.stage, [*faults, Fault("", str(error), TYPED)]) from error
    jobs = []
    for combination in combinations:
        composition, found = _examine(composer, combination)
        faults += found
        if composition:
            jobs.append(composition)
    if faults:
        raise SettingsError(composer.stage, faults)
    return jobs


@contextmanager
def originating(composition: Composition) -> Iterator[None]:
    """Within a block, say of settings that turn out to be wrong where they came from.

    Raises:
        SettingsError: in place of a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        raise SettingsError(composition.composer.stage, _located(composition, error.problems)) from error


def _located(composition: Composition, problems: Sequence[Problem]) -> list[Fault]:
    """Return problems of composed settings with their origins."""
    composer = composition.composer
    overrides = [composer.read(word) for word in composition.words]
    faults = []
    for problem in problems:
        value = _find(composition.values, problem.key)
        telling = isinstance(value, str | int | float) and shown(value) not in problem.message
        text = value if isinstance(value, str) and len(value) < LONGEST else shown(value)
        key = f"{problem.key} = {text}" if telling else problem.key
        hint = problem.hint
        if not hint and "." not in problem.key and problem.message.startswith("no such setting"):
            hint = closest(problem.key, composer.groups)
        faults.append(Fault(key, problem.message, _origin(composition, overrides, problem.key), hint))
    return faults


def _examine(composer: Composer, words: list[str]) -> tuple[Composition | None, list[Fault]]:
    """Compose the settings of one job and find everything that is wrong with them."""
    faults: list[Fault] = []
    dropped: list[str] = []
    try:
        composition = composer.compose(words)
    except HYDRA_ERRORS as error:
        try:
            words, faults, dropped = _culprits(composer, words)
            composition = composer.compose(words)
        except HYDRA_ERRORS:  # no word is to blame alone
            return None, faults if faults and _sound(composer) else [_broken(composer, error)]
    try:
        _ = composition.settings
    except ConfigError as error:
        # what was dropped is replaced by a default: what then does not fit is no fault of the user's
        problems = [p for p in error.problems if not any(_within(p.key, section) for section in dropped)]
        faults += _located(composition, problems)
    return composition, faults


def _sound(composer: Composer) -> bool:
    """Whether a command's own configs compose."""
    try:
        composer.compose([])
    except HYDRA_ERRORS:
        return False
    return True


def _culprits(composer: Composer, words: Sequence[str]) -> tuple[list[str], list[Fault], list[str]]:
    """Find the words that Hydra refuses, by adding one after the other.

    Returns:
        the words that are left, with what was probably meant in place of a choice that does not exist; a fault for each
        word refused; the sections whose choice had to be dropped.
    """
    accepted: list[str] = []
    faults, dropped = [], []
    overrides = [composer.read(word) for word in words]
    for override in sorted(overrides, key=lambda o: (not composer.is_choice(o), not o.is_add())):  # values need choices
        word = str(override.input_line)
        try:
            composer.compose([*accepted, word])
            accepted.append(word)
        except HYDRA_ERRORS as error:
            fault = _refused(composer, override, accepted, error)
            faults.append(fault)
            own = fault.key == override.get_key_element().lstrip("+~") and composer.is_choice(override)
            if own and fault.hint and "=" not in fault.hint:
                accepted.append(f"{override.get_key_element()}={fault.hint}")
            else:
                dropped.append(_section(override))
    return accepted, faults, dropped


def _refused(composer: Composer, override: Override, accepted: Sequence[str], error: Exception) -> Fault:
    """Say in our words why Hydra refuses a word."""
    key, value = override.get_key_element().lstrip("+~"), override.value()
    if isinstance(error, MissingConfigException):
        fault = _broken(composer, error)
        chosen = f"{override.key_or_group}/{value}"
        if error.missing_cfg_file == chosen:
            return fault._replace(key=key, origin=TYPED)
        if composer.is_choice(override) and fault.origin == composer.file(composer.config):
            return fault._replace(origin=composer.file(chosen))  # it overrides a choice of the command's own config
        return fault
    if isinstance(error, YAMLError):
        return Fault(f"{key}={value}", _first_line(error), TYPED)
    if composer.is_choice(override):
        choices = [
            c for c in composer.compose(accepted).config.hydra.runtime.choices if not c.startswith(("hydra/", "stage@"))
        ]
        same = [choice for choice in choices if choice.split("@")[0] == override.key_or_group]
        if same and key not in choices:
            return Fault(key, f"is chosen here with {' or '.join(f'{choice}={value}' for choice in same)}", TYPED)
        if key not in choices:
            hint = closest(key, choices)
            there = f"is nothing to choose in mlx {composer.stage}; there are {', '.join(choices)}"
            return Fault(key, there, TYPED, f"{hint}={value}" if hint else "")
    if override.package:
        return Fault(key, "is no group to choose from", TYPED, closest(override.key_or_group, composer.groups))
    return Fault(key, _first_line(error), TYPED)


def _broken(composer: Composer, error: Exception) -> Fault:
    """Say in our words what is wrong with the configs themselves."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return Fault("", _first_line(error))
    group, _, name = error.missing_cfg_file.rpartition("/")
    options = composer.loader.get_group_options(group)
    there = f"there are {', '.join(options)}" if options else "there are none"
    asking = re.match(r"In '(.+?)'", str(error))
    origin = composer.file(asking[1]) if asking else ""
    return Fault(group, f"there is no {group} {name!r}; {there}", origin, closest(name, options))


def _unreadable(composer: Composer, word: str, error: Exception) -> Fault:
    if isinstance(error, NotForUse):
        return Fault(shown(word.partition("=")[0])[1:-1], str(error), TYPED)
    if "=" in word:
        reason = _first_line(error).removeprefix("LexerNoViableAltException: ")
        return Fault(
            word, f"cannot be read ({reason}); put values with special characters in quotes: 'key=\"...\"'", TYPED
        )
    groups = [
        g for g in composer.groups if g not in ("hydra", "stage") and word in composer.loader.get_group_options(g)
    ]
    return Fault(word, "is no setting; settings are written key=value", TYPED, f"{groups[0]}={word}" if groups else "")


def _origin(composition: Composition, overrides: Sequence[Override], key: str) -> str:
    for override in overrides:
        section, choice = _section(override), composition.composer.is_choice(override)
        if section == key or (not choice and (_within(key, section) or _within(section, key))):
            return TYPED
    while key:
        for name, section, contents in reversed(composition.files):
            if _gives(section, contents, key):
                return name
        key = key.rpartition(".")[0]  # a setting that is missing: the file that has its section
    return ""


_ABSENT = object()


def _find(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _gives(section: str, contents: Any, key: str) -> bool:
    """Whether a config file that stands in `section` sets `key`."""
    if section and key != section:
        if not _within(key, section):
            return False
        key = key.removeprefix(f"{section}.")
    return key == section or _find(contents, key) is not _ABSENT


def _section(override: Override) -> str:
    return override.package or override.key_or_group


def _within(key: str, section: str) -> bool:
    """Whether `key` is `section` or a part of it; everything is part of ""."""
    return not section or key == section or key.startswith(f"{section}.")


def _first_line(error: BaseException) -> str:
    """Return the first line of a message of Hydra's; what follows is advice that misleads here, or a search path."""
    if isinstance(error, YAMLError):
        return f"is not valid YAML: {' '.join(str(error).split())}"
    source = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines: list[str] = str(source).splitlines()
    return lines[0] if lines else type(error).__name__

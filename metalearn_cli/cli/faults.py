"""All problems of a command line at once, each with its origin."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metalearn_cli.cli.composing import HYDRA_ERRORS, Composer, Composition, NotForUse
from metalearn_cli.cli.errors import Fault, SettingsError
from metalearn_cli.cli.lookups import impossible, missing
from metalearn_cli.cli.typed import row_of, row_of_value
from metalearn_cli.cli.words import closest
from metalearn_cli.core.check import LONGEST, in_shell, shown
from metalearn_cli.core.config import STAGES
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.nested import leaves
from metalearn_cli.core.stages import TABLE, TRAINING

TYPED = "the command line"

FEW = 3
"""Most choices of a component of which each is offered as words to type."""

_BARE = re.compile(r"[\w.@/]+")
"""A word that may be the key or the value of a setting."""


FOR_A_SEARCH = "is for a search, which chooses numbers from an interval"

_CALLS = ("choice", "range", "interval", "glob", "tag", "sort", "shuffle", "int", "float", "str", "bool")
"""What Hydra reads in a value before a bracket."""


def check(composer: Composer, words: Sequence[str], multirun: bool) -> list[Composition]:
    """Return the settings of the jobs of a command line: one job, or those of a sweep.

    Raises:
        SettingsError: with everything that is wrong.
    """
    faults: list[Fault] = []
    overrides: list[Override] = []
    for typed, word in _joined(composer, words):
        if typed != word:
            faults.append(Fault(typed, "is written without blanks", TYPED, word))
            continue
        if word.startswith("-"):
            faults.append(_option(composer, word, words))
            continue
        if is_of_sweep(word) and composer.stage != "sweep":  # with -m, they do not come here
            faults.append(Fault(word, "is for a sweep, which -m runs", TYPED, f"-m {word}"))
            continue
        try:
            override = composer.read(word)
            if not override.key_or_group:
                raise HydraException("the name of the setting is missing")
            if (given := _given_twice(composer, override, overrides)) is not None:
                faults.append(given)
            elif override.is_sweep_override() and not multirun:
                faults.append(_several(composer, override.key_or_group, override.get_value_string()))
            else:
                overrides.append(override)
        except HydraException as error:
            faults.append(_unreadable(composer, word, error))
    if multirun:
        ranges = [override.get_key_element().lstrip("+") for override in overrides if override.is_interval_sweep()]
        faults += [Fault(key, FOR_A_SEARCH, TYPED, "sweep=optuna") for key in ranges]
        overrides = [override for override in overrides if not override.is_interval_sweep()]
    try:
        combinations = composer.combinations(overrides) if multirun else [[composer.forced(o) for o in overrides]]
    except HydraException as error:
        raise SettingsError(composer.stage, [*faults, Fault("", str(error), TYPED)]) from error
    jobs = []
    for combination in combinations:
        composition, found = _examine(composer, combination, bool(faults))
        faults += found
        if composition:
            composition.typed = combination
            jobs.append(composition)
    faults += _unused(composer, overrides, jobs)
    if faults:
        raise SettingsError(composer.stage, faults, _data_of(jobs))
    return jobs


def is_of_sweep(word: str) -> bool:
    """Whether a word is a setting of the sweep, not of its jobs."""
    return re.match(r"sweep(\.\w|=)", word.lstrip("+")) is not None


def _joined(composer: Composer, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield words as they were typed and as they should be written: key=value without blanks."""
    left = list(words)
    while left:
        typed = [left.pop(0)]
        follows = left[0] if left else ""
        if _BARE.fullmatch(typed[0]) and follows.startswith("="):
            typed += [left.pop(0) for _ in range(1 + (follows == "=" and len(left) > 1))]
        elif _BARE.fullmatch(typed[0].removesuffix("=")) and _BARE.fullmatch(follows):
            key = typed[0].removesuffix("=")
            if key != typed[0]:
                typed.append(left.pop(0))
            elif _find(composer.usual, key) is not _ABSENT or row_of(key, follows):
                yield f"{key} {follows}", f"{key}={left.pop(0)}"
                continue
        yield " ".join(typed), "".join(typed)


def _several(composer: Composer, key: str, values: str) -> Fault:
    """Return the fault of several values without -m; its hint is a list if the setting is one."""
    if composer.stage == "sweep":
        return Fault(key, f"is for the whole sweep: it has one value, got {values}", TYPED)
    hint = f"{key}=[{values}]" if isinstance(_find(composer.usual, key), list) else f"-m {key}={values}"
    return Fault(key, f"{values} has several values; add -m to run each, or write a list as [1,2]", TYPED, hint)


def _unused(composer: Composer, overrides: Sequence[Override], jobs: Sequence[Composition]) -> list[Fault]:
    """Return the faults of words for stages that no job of a chain has."""
    if composer.stage != "run":
        return []
    chains = [job.unresolved.get("stages") for job in jobs]
    if not all(isinstance(chain, list) and chain and {*chain} <= {*TRAINING} for chain in chains):
        return []  # reported with the other settings
    left_out = {TABLE[name].section: name for name in TRAINING if not any(name in chain for chain in chains)}
    faults = []
    for override in overrides:
        if name := left_out.get(_section(override).partition(".")[0]):
            message = f"has no effect, because {name} is not in stages; leave it out, or add {name} to stages"
            faults.append(Fault(override.get_key_element().lstrip("+~"), message, TYPED))
    return faults


def _option(composer: Composer, word: str, words: Sequence[str]) -> Fault:
    """Return the fault of an unknown option among some words; its hint is what to write instead."""
    name, _, value = word.lstrip("-").replace("=", " ", 1).partition(" ")
    key, value = name.replace("-", "_"), value or "true"
    if _find(composer.usual, key) is not _ABSENT:
        hint, why = f"{key}={value}", ""
    else:
        hint, why = _instead(composer, composer.usual, key, value)
    if not hint and (near := closest(key, composer.usual)):
        hint = f"{near}={value}"
    dashes = "settings are written key=value, without dashes" if "=" in hint or not hint else ""
    command = shlex.join([composer.stage, *(other for other in words if not other.startswith("-"))])
    hint = hint.replace("COMMAND", command)
    there = f"there is no option {re.split('[ =]', word)[0]}"
    return Fault(word, "; ".join(filter(None, (there, dashes, why))), TYPED, hint)


def _given_twice(composer: Composer, override: Override, before: Sequence[Override]) -> Fault | None:
    """Return the fault of a choice that was made before, or that is a list; None if there is none."""
    if not composer.is_choice(override) or override.is_delete():
        return None
    key = override.get_key_element().lstrip("+~")
    value = None if override.is_sweep_override() else override.value()
    if isinstance(value, list) and len(value) > 1 and key != "experiment":
        names = ",".join(value)
        return Fault(key, f"[{names}] is a list; -m runs each, without brackets", TYPED, f"-m {key}={names}")
    for other in before:
        if other.get_key_element().lstrip("+~") == key:
            two = f"{other.get_value_string()} and {override.get_value_string()}"
            return Fault(key, f"is given twice, {two}; remove one", TYPED)
    return None


@contextmanager
def originating(composition: Composition) -> Iterator[None]:
    """Within a block, add the origin of settings to errors about them.

    Raises:
        SettingsError: in place of a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        faults = _located(composition, error.problems)
        raise SettingsError(composition.composer.stage, faults, _data_of([composition])) from error


def _data_of(jobs: Sequence[Composition]) -> str:
    """Return the data set that the first of some jobs has chosen; "" if there is none."""
    return next((job.choices.get("data") or "" for job in jobs), "")


def _located(composition: Composition, problems: Sequence[Problem]) -> list[Fault]:
    """Return problems of composed settings with their origins."""
    composer = composition.composer
    overrides = [composer.read(word) for word in composition.words]
    chosen = {_section(override) for override in overrides if composer.is_choice(override)}
    faults = []
    told = list(_typed_out(composition.values, problems))
    known = _without(composition.values, {p.key for p in told if p.message.startswith("no such setting")})
    for problem in told:
        value = _find(composition.values, problem.key)
        telling = isinstance(value, str | int | float) and shown(value) not in problem.message
        text = value if isinstance(value, str) and len(value) < LONGEST else shown(value)
        key = f"{problem.key} = {text}" if telling else problem.key
        message, hint = problem.message, problem.hint
        if message.startswith("no such setting"):
            hint, why = _meant(composition.composer, known, problem, _written(value), chosen)
            message = "; ".join(filter(None, (message, why)))
        elif hint:
            sweeps = isinstance(value, list) and not hint.startswith("[")  # of its values, each alone
            hint = f"{problem.key}={hint}"
            hint = "-m " * sweeps + (in_shell(hint) if "'" in hint else hint)  # the shell would take the quotes away
        elif not hint and (row := row_of_value(problem.key.rpartition(".")[2], text)):
            own = [advice for advice in row.here if advice.startswith(f"{problem.key}=")]
            message, hint = "; ".join(filter(None, (message, row.why))), (own or row.here)[0]
        origin = _origin(composition, overrides, problem.key)
        if value is None and origin != TYPED:  # no file chose it: it is the checkpoint's, or missing
            origin = ""
        faults.append(Fault(key, message, origin, hint))
    return faults


def _typed_out(values: Mapping[str, Any], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield problems; for an unknown section, one for each setting in it. Hints that are names become whole keys."""
    for problem in problems:
        value = _find(values, problem.key)
        if not problem.message.startswith("no such setting"):
            yield problem
            continue
        before = problem.key.rpartition(".")[0]
        for rest in [f".{leaf}" for leaf, _ in leaves(value)] if isinstance(value, Mapping) and value else [""]:
            near = f"{before}.{problem.hint}{rest}".lstrip(".")
            known = problem.hint and (not rest or _find(values, near) is not _ABSENT)
            yield problem._replace(key=problem.key + rest, hint=near if known else "")


def _written(value: Any) -> str:
    """Return a value in the form of the command line, or "..." if it is long or has a key with dots."""
    if value is _ABSENT:
        return "..."
    parts = f"[{','.join(map(_written, value))}]" if isinstance(value, list) else json.dumps(value)
    text = value if isinstance(value, str) else parts
    return text if len(text) < LONGEST else "..."


def _without(values: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return nested settings without some, which are named by dotted keys."""
    return {
        name: _without(own, keys, f"{prefix}{name}.") if isinstance(own, Mapping) else own
        for name, own in values.items()
        if f"{prefix}{name}" not in keys
    }


def _meant(
    composer: Composer, values: Mapping[str, Any], problem: Problem, value: str, chosen: Collection[str]
) -> tuple[str, str]:
    """Return what to type for an unknown setting, as `_instead` does; the problem's hint is the closest key."""
    key = problem.key
    group, _, word = key.rpartition(".")
    instead, why = _instead(composer, values, key, value, chosen)
    near = problem.hint or ("" if group else closest(key, composer.groups))
    hint = f"{near}={value}" if near else ""
    if near and "." not in near:
        offered = _offered(composer, hint)
        hint = _fitting(composer, values, key, offered, chosen)
        if not hint and near in composer.compose([]).choices:
            hint = offered  # experiment, which is not among the values
    unknown = group and _find(composer.usual, group) is _ABSENT  # the section itself may be mistyped
    found = (hint or instead) if unknown else (instead or hint)
    if not found and not why and group and row_of(word, value):
        return _instead(composer, values, word, value, chosen)
    return found, why if found == instead else ""


def _instead(
    composer: Composer, values: Mapping[str, Any], key: str, value: str, chosen: Collection[str] = ()
) -> tuple[str, str]:
    """Return the equivalent, in this command, of a setting that it does not have.

    Args:
        composer: the command's composer.
        values: its settings.
        key: the setting that was typed, dotted.
        value: its value.
        chosen: the groups of which the user has chosen one, which stays.

    Returns:
        What to type, or ""; and a remark, or "".
    """
    section, _, word = key.rpartition(".")
    # where it is no section here, the word after it may be known
    group = "" if _find(composer.usual, section) is _ABSENT else section
    row = row_of(word, value)
    advised = [a for advice in (row.here if row else ()) if (a := _offered(composer, advice.replace("{}", value)))]
    for advice in advised:
        inside = f"{group}.{advice}" if group and not advice.startswith(f"{group}.") else advice
        known = inside == advice or _find(values, inside.partition("=")[0]) is not _ABSENT
        if known and (found := _fitting(composer, values, key, inside, chosen)):
            return found, row.why if row else ""
    if section and not group and word in composer.usual:
        if found := _fitting(composer, values, key, f"{word}={value}", chosen):
            return found, ""
    of_command = [place for place, _ in leaves(values) if place.partition(".")[0] in composer.usual]
    places = [p for p in of_command if p.endswith(f".{word}") and p != key and p.startswith(group)]
    places = places or [p for p in of_command if group and p.endswith(f"_{word}") and p.startswith(f"{group}.")]
    if places:
        return " or ".join(f"{place}={value}" for place in places[:4]), ""
    groups = [group] if group else [name for name in values if not row]
    for name in groups:
        if name in composer.groups and (found := _fitting(composer, values, key, f"{name}.{word}={value}", chosen)):
            return found, ""
    for setting in [*(advice.partition("=")[0] for advice in advised), key]:
        component, _, name = setting.partition(".")
        choices = composer.having(component, name) if name and component in composer.groups else []
        if choices and (component in chosen or len(choices) > FEW):
            return "", f"{setting} is a setting of {component}={' or '.join(choices)}"
    wanted = [advice.partition("=")[0].partition(".")[0] for advice in advised] or [key.partition(".")[0]]
    takers = [stage for stage, config in STAGES.items() if wanted[0] in {f.name for f in fields(config)}]
    if takers and wanted[0] not in composer.usual:
        return "", f"{wanted[0]} is a setting of {', '.join(takers)}"
    groups = [advice.partition("=")[0] for advice in (row.here if row and not advised else ())]
    if groups and groups[0] in composer.usual:
        options = composer.repository.get_group_options(groups[0])
        return "", f"{groups[0]}= takes one of {', '.join(options)}"
    return "", ""


def _offered(composer: Composer, advice: str) -> str:
    """Return an advice; if it chooses a component, with the closest name that exists, or "" if there is none."""
    group, _, chosen = advice.partition("=")
    if group not in composer.groups:
        return advice
    name, blank, more = chosen.partition(" ")
    near = closest(name, composer.repository.get_group_options(group))
    return f"{group}={near}{blank}{more}" if near else ""


def _fitting(composer: Composer, values: Mapping[str, Any], key: str, advice: str, chosen: Collection[str] = ()) -> str:
    """Return an advice in a form that fits a command, or "" if the command has no such setting."""
    setting, equals, _ = advice.partition("=")
    if not equals or " " in setting or setting.startswith("-"):
        return advice  # a command or option, not a setting
    if setting != key and _find(values, setting) is not _ABSENT:
        return advice
    group, _, name = setting.partition(".")
    sections = {name: own for name, own in values.items() if name in composer.usual and isinstance(own, Mapping)}
    at = [section for section, own in sections.items() if _find(own, setting) is not _ABSENT]
    if composer.stage == "run" and at:
        whole = setting in composer.groups
        return " or ".join(f"{setting}@{section}.{advice}" if whole else f"{section}.{advice}" for section in at)
    if name and group in values and group not in chosen and (choices := composer.having(group, name)):
        if values[group] is None:
            return advice  # the component is the checkpoint's
        return " or ".join(f"{group}={choice} {advice}" for choice in choices) if len(choices) <= FEW else ""
    return ""


def _examine(composer: Composer, words: list[str], wrong: bool) -> tuple[Composition | None, list[Fault]]:
    """Compose the settings of one job and find all their problems.

    Args:
        composer: the command's composer.
        words: the job's words.
        wrong: whether an error is known already, so that the stage will not run and checkpoints are looked for here.
    """
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
    problems: list[Problem] = []
    try:
        _ = composition.settings
    except ConfigError as error:
        problems += error.problems
    try:
        values = composition.values
    except ConfigError:  # too many, already in `problems`
        values = {}
    problems = [*impossible(composer.stage, values), *problems]
    if problems or faults or wrong:
        problems += missing(composer.stage, values)
    # a default replaces what was dropped: if that does not fit, it is not the user's fault
    problems = [p for p in problems if not any(_within(p.key, section) for section in dropped)]
    first = {p.key: p for p in reversed(problems)}  # of several problems of a setting, the first
    told = _originals(composition, [p for p in problems if p == first[p.key]])
    faults += _located(composition, told)
    advised = {fault.hint.partition("=")[0] for fault in faults}  # evaluate init_from=x: no second fault about ckpt
    return composition, [f for f in faults if f.origin == TYPED or f.key.partition(" ")[0] not in advised]


def _originals(composition: Composition, problems: list[Problem]) -> list[Problem]:
    """Leave out problems of settings that only refer to another one with a problem, as T_max refers to steps."""
    found = {p.key: _find(composition.unresolved, p.key) for p in problems}
    refers = {key for key, value in found.items() if isinstance(value, str) and value.startswith("${")}
    values = [_find(composition.values, p.key) for p in problems if p.key not in refers] if refers else []
    known = [value for value in values if value is not _ABSENT]
    return [p for p in problems if p.key not in refers or _find(composition.values, p.key) not in known]


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
        The accepted words, where a close match replaces a choice that does not exist; a fault for each refused word;
        the sections whose choice was dropped.
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
            if own and fault.hint.startswith(f"{fault.key}="):
                accepted.append(f"{override.get_key_element()}={fault.hint.partition('=')[2]}")
            else:
                dropped.append(_section(override))
    return accepted, faults, dropped


def _refused(composer: Composer, override: Override, accepted: Sequence[str], error: Exception) -> Fault:
    """Return the fault of a word that Hydra refuses, in our words."""
    key, value = override.get_key_element().lstrip("+~"), override.value()
    if isinstance(error, MissingConfigException):
        fault = _broken(composer, error)
        chosen = f"{override.key_or_group}/{value}"
        if error.missing_cfg_file == chosen:
            hint = fault.hint if "=" in fault.hint or not fault.hint else f"{key}={fault.hint}"
            return fault._replace(key=key, origin=TYPED, hint=hint)
        if composer.is_choice(override) and fault.origin == composer.file(composer.config):
            return fault._replace(origin=composer.file(chosen))  # it overrides a choice of the command's config
        return fault
    if isinstance(error, YAMLError):
        return Fault(f"{key}={value}", _first_line(error), TYPED)
    if composer.is_choice(override):
        choices = [c for c in composer.compose(accepted).choices if not c.startswith(("hydra/", "stage@"))]
        also = next((f"{p}also" for p in ("", "transfer.") if _find(composer.usual, f"{p}also") is not _ABSENT), "")
        if also and override.package and override.key_or_group == "data" and key not in choices:
            hint = f"data@{also}.{override.package.rpartition('.')[2]}={value}"
            return Fault(key, f"is not a place for data; more data sets go to data@{also}.NAME", TYPED, hint)
        same = [choice for choice in choices if choice.split("@")[0] == override.key_or_group]
        if same and key not in choices:
            return Fault(key, f"is chosen here with {' or '.join(f'{choice}={value}' for choice in same)}", TYPED)
        if key not in choices:
            instead, why = _instead(composer, composer.usual, key, str(value))
            hint = _chosen(composer, str(value), [choice for choice in choices if "@" not in choice]) or instead
            if not hint and (near := closest(key, choices)):
                hint = _offered(composer, f"{near}={value}")
            there = f"mlx {composer.stage} has no {key}; it has {', '.join(choices)}"
            return Fault(key, "; ".join(filter(None, (there, why))), TYPED, hint)
    if override.package:
        near = closest(override.key_or_group, composer.groups)
        hint = f"{near}@{override.package}={value}" if near else ""
        return Fault(key, "is not a group", TYPED, hint)
    if isinstance(value, list) and isinstance(_find(composer.usual, key), Mapping):
        return Fault(key, f"must be a group of settings, got {shown(value)}", TYPED)
    return Fault(key, _first_line(error), TYPED)


def _broken(composer: Composer, error: Exception) -> Fault:
    """Return what is wrong with the configs themselves, in our words."""
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file:
        return Fault("", _first_line(error))
    group, _, name = error.missing_cfg_file.partition("/")
    options = composer.repository.get_group_options(group)
    there = f"there are {', '.join(options)}" if options else "there are none"
    if group == "data" and ("/" in name or Path(name).exists()):
        there += f"; how a file or folder of your own is read: mlx data make {name}"
    asking = re.match(r"In '(.+?)'", str(error))
    origin = composer.file(asking[1]) if asking else ""
    hint = closest(name, options) or _chosen(composer, name, [g for g in composer.usual if g in composer.groups])
    return Fault(group, f"there is no {group} {name!r}; {there}", origin, hint)


def _chosen(composer: Composer, name: str, groups: Iterable[str]) -> str:
    """Return the choice of the component with this name, in upper or lower case, or ""."""
    found = [(group, closest(name, composer.repository.get_group_options(group))) for group in groups]
    return next((f"{group}={near}" for group, near in found if near and near.lower() == name.lower()), "")


def _unreadable(composer: Composer, word: str, error: Exception) -> Fault:
    if isinstance(error, NotForUse):
        return Fault(shown(word.partition("=")[0])[1:-1], str(error), TYPED)
    if "=" in word:
        key, _, value = word.partition("=")
        if value != value.strip(",") and value.count("[") == value.count("]"):
            single = value.strip(",")
            return Fault(word, "has a comma too many", TYPED, f"{key}={single}" if single else "")
        if not isinstance(error, OverrideParseException):
            return Fault(word, _first_line(error), TYPED)
        name, bracket, rest = value.partition("(")
        if bracket and name not in _CALLS and (near := closest(name, _CALLS)):
            return Fault(word, f"cannot be read; there is no {name}(...)", TYPED, f"'{key}={near}({rest}'")
        return Fault(word, "cannot be read; put values with special characters in quotes: 'key=\"...\"'", TYPED)
    groups = [group for group in composer.groups if group not in ("hydra", "stage")]
    groups.sort(key=lambda group: group not in composer.usual)  # those of the command first
    starts = [key for key in ("ckpt", "init_from") if key in composer.usual and word.partition(":")[0] == "latest"]
    hint = f"{starts[0]}={word}" if starts else _chosen(composer, word, groups)
    return Fault(word, "is not a setting; settings are written key=value", TYPED, hint)


def _origin(composition: Composition, overrides: Sequence[Override], key: str) -> str:
    of_tier = composition.of_tier
    for override in reversed(overrides):
        section, choice = _section(override), composition.composer.is_choice(override)
        if section == key or (not choice and (_within(key, section) or _within(section, key))):
            return f"tier={composition.values.get('tier')}" if override.input_line in of_tier else TYPED
    while key:
        for name, section, contents in reversed(composition.files):
            if _gives(section, contents, key):
                return name
        key = key.rpartition(".")[0]  # for a missing setting: the file that has its section
    return ""


_ABSENT = object()


def _find(values: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, Mapping) and part in values:
            values = values[part]
        else:
            return _ABSENT
    return values


def _gives(section: str, contents: Any, key: str) -> bool:
    """Whether a config file whose contents go to `section` sets `key`."""
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
    """Return the first line of Hydra's message; after it come a search path or advice that misleads here."""
    if isinstance(error, YAMLError):
        return f"is not valid YAML: {' '.join(str(error).split())}"
    source = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines: list[str] = str(source).splitlines()
    return lines[0] if lines else type(error).__name__

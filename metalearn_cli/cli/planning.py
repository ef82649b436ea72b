"""What a sweep runs: the settings of its jobs or, of a search, what it chooses them from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from metalearn_cli.cli.composing import Composer, Composition
from metalearn_cli.cli.errors import Fault, SettingsError
from metalearn_cli.cli.faults import FOR_A_SEARCH, TYPED, check, is_of_sweep
from metalearn_cli.core.config import SweepConfig
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.studies.search import Names, Numbers, Space

ELSEWHERE = ("runtime", "runs_dir", "tracker", "wait")
"""Settings that say where and how a job runs: it is the same job with others, unless the sweep itself varies them."""


class Plan(NamedTuple):
    """What a sweep runs.

    Attributes:
        jobs: the settings of its jobs; of a search those of the points at the ends of its space, to have them checked.
        config: the settings of the sweep itself.
        words: those for the jobs, with those of the sweep's file; of a search those that give one value.
        space: what a search chooses from; {} for all combinations.
    """

    jobs: list[Composition]
    config: SweepConfig
    words: list[str]
    space: Space


def check_sweep(stage: str, words: Sequence[str], extra: str) -> Plan:
    """Return what a sweep runs, with all settings checked.

    Args:
        stage: the command of each job.
        words: the words of its settings; those of a sweep's file are added to them.
        extra: the user's own folder of configs, or "".

    Raises:
        SettingsError: with everything that is wrong.
        UserError: if there are no jobs.
    """
    faults: list[Fault] = []
    config, params = None, dict[str, Any]()
    try:
        (own,) = check(Composer("sweep", extra), [word for word in words if is_of_sweep(word)], multirun=False)
        config, params = own.settings, own.settings.sweep.params
    except SettingsError as error:
        faults += error.faults
    typed = [word for word in words if not is_of_sweep(word)]
    keys = {word.lstrip("+").partition("=")[0] for word in typed}
    more = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in params.items()]
    typed = [*(word for word in more if word.partition("=")[0] not in keys), *typed]
    composer = Composer(stage, extra)
    space: Space = {}
    jobs: list[Composition] = []
    try:
        if config and config.search:
            space, typed = _space(composer, typed)
            jobs = _at_ends(composer, typed, space)
        else:
            jobs = check(composer, typed, multirun=True)
    except SettingsError as error:  # without the settings of the sweep, nobody knows whether it is a search
        faults += [fault for fault in error.faults if config or fault.message != FOR_A_SEARCH]
    if faults or config is None:
        raise SettingsError(stage, faults)
    if not jobs:
        raise UserError("the sweep has no jobs: one of its ranges or lists is empty")
    return Plan(jobs, config, typed, space)


def _space(composer: Composer, words: Sequence[str]) -> tuple[Space, list[str]]:
    """Return what each setting is chosen from, and the words that give one value.

    Raises:
        SettingsError: with all that cannot be searched.
    """
    space: dict[str, Names | Numbers] = {}
    faults, fixed = [], []
    if composer.stage not in TRAINING:
        told = "chooses by validation results, so it needs a stage that trains"
        faults.append(Fault("sweep=optuna", told, TYPED, "mlx -m meta-train"))
    for word in words:
        try:
            override = composer.read(word)
        except HydraException:  # it is reported with the fixed ones
            fixed.append(word)
            continue
        if not override.is_sweep_override():
            fixed.append(word)
            continue
        key = override.get_key_element().lstrip("+")
        try:
            space[key] = _domain(key, override)
        except ValueError as error:
            faults.append(Fault(key, str(error), TYPED))
    if not space and not faults:
        check(composer, fixed, multirun=False)  # a word that cannot be read may be the range
        told = "has nothing to choose; give a setting a range, such as 'optimizer.lr=tag(log,interval(1e-4,0.1))'"
        faults.append(Fault("sweep=optuna", told, TYPED))
    if faults:
        raise SettingsError(composer.stage, faults)
    return space, fixed


def _domain(key: str, override: Override) -> Names | Numbers:
    """Return what a word with several values lets a search choose from.

    Raises:
        ValueError: with a sentence, if it cannot be searched.
    """
    value, text = override.value(), override.get_value_string()
    if key == "seed":
        told = "is not for a search, which would choose the luckiest one; repeat the best point with -m and some seeds"
        raise ValueError(told)
    if key.partition(".")[0] in ELSEWHERE:
        raise ValueError("is not for a search: it says where or how a job runs, not what it computes")
    if not isinstance(value, IntervalSweep | RangeSweep):
        return Names(tuple(override.sweep_string_iterator()))
    numbers: list[Any] = [value.start, value.end] if isinstance(value, IntervalSweep) else sorted(value.range())
    step = abs(value.step) if isinstance(value, RangeSweep) else None
    low, high = numbers[0] if numbers else 1, round(numbers[-1], 12) if numbers else 0
    if low > high:
        raise ValueError(f"{text} has no numbers; write the lower one first")
    if other := {*value.tags} - {"log"}:
        raise ValueError(f"{text} has the tag {' and '.join(sorted(other))}; there is log")
    if value.tags and (low <= 0 or step not in (None, 1)):
        raise ValueError(f"{text} has the tag log, for which numbers must be > 0 and have no steps but 1")
    return Numbers(low, high, step, log=bool(value.tags))


def _at_ends(composer: Composer, words: Sequence[str], space: Space) -> list[Composition]:
    """Return the settings of the points at the ends of a space, so that each name and each limit is checked.

    Raises:
        SettingsError: with everything that is wrong with them.
    """
    values = {
        key: own.values if isinstance(own, Names) else (str(own.low), str(own.high)) for key, own in space.items()
    }
    first = {key: own[0] for key, own in values.items()}
    points = [first, *({**first, key: other} for key, own in values.items() for other in own[1:])]
    jobs: list[Composition] = []
    faults: list[Fault] = []
    for point in points:
        try:
            jobs += check(composer, [*words, *as_words(point)], multirun=False)
        except SettingsError as error:
            faults += error.faults
    if faults:
        raise SettingsError(composer.stage, faults)
    return jobs


def as_words(point: Mapping[str, str]) -> list[str]:
    """Return the words that choose a point of a space."""
    return [f"{key}={value}" for key, value in point.items()]

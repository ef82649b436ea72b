"""Compose the settings of a stage from the words of a command line, with Hydra.

Settings are composed once: the checked settings are those that run, and later errors refer to the same composition.
All problems are reported at once, and nothing is written for a wrong command line. `key=value` is passed to Hydra
as `++key=value`, so that an unknown setting reaches our own check and is reported with the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metalearn_cli.cli.bare import BareStore
from metalearn_cli.cli.choices import folders
from metalearn_cli.cli.vet import DEEPEST, MOST, VettedConfigSource, too_complex
from metalearn_cli.cli.words import closest
from metalearn_cli.core.check import shown, written
from metalearn_cli.core.claims import Tier, check_tier, parse_tiers
from metalearn_cli.core.config import QUERY, STAGES, WAY, ChainConfig, DataConfig, parse, parse_chain, parse_sweep
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.nested import leaves
from metalearn_cli.core.stages import TRAINING
from metalearn_cli.records.runs import read_config

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
"""Errors of a composition with wrong words or configs."""


_USUAL = ("hydra/launcher=basic", "hydra/sweeper=basic")
"""Settings of Hydra's own that may be typed, because they change nothing."""


OF_PLACES = re.compile(r"(tier|runs_dir|wait|runtime|runtime\..*|data\.root|backbone\.path)=")
"""Words that say where things are and which tier runs: they hold for an experiment that runs before, too."""


PARTS = "data.parts."
"""Where the parts of data=pooled are chosen: data@data.parts.NAME=CHOICE."""

SELECT = {"evaluate": "select", "run": "evaluate.select"}
"""The setting `select` of each command that has it."""


class NotForUse(HydraException):
    """A word that Hydra accepts, but mlx does not."""


class Composer:
    """Composes one command's settings.

    Args:
        stage: the command; its config file has the same name. All of `mlx data` have one.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if that folder does not exist.
    """

    def __init__(self, stage: str, extra: str = "") -> None:
        self.stage = stage
        self.extra = extra
        self.config = "data-check" if stage.startswith("data ") else stage
        shipped, *own = folders(extra)
        version.setbase("1.3")
        setup_globals()
        path = create_config_search_path(str(shipped))
        SourcesRegistry.instance().register(VettedConfigSource)
        for folder in own:
            # the app that runs the stage reads the same files afterwards, in Hydra's own way
            address = f"{VettedConfigSource.scheme()}://{folder.resolve()}"
            path.prepend("command-line", address, SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(path)
        self.repository = self.loader.repository  # asked itself: the loader copies it for each question
        cast(StructuredConfigSource, self.repository.get_schema_source()).store = BareStore()
        self.groups = self.repository.get_group_options("", ObjectType.GROUP)
        self._chosen: dict[tuple[str, ...], Composition] = {}

    @cached_property
    def usual(self) -> dict[str, Any]:
        """The plain values of the defaults; {} if the command's own configs are wrong."""
        try:
            return self.compose([]).values
        except (*HYDRA_ERRORS, ConfigError):
            return {}

    def having(self, group: str, setting: str) -> list[str]:
        """Return the choices of a group whose own files have this setting."""
        return [
            name
            for name in self.repository.get_group_options(group)
            if (found := self.repository.load_config(f"{group}/{name}")) and setting in found.config
        ]

    def of_class(self, group: str, target: str) -> list[str]:
        """Return the choices of a group that may build this class: a file names it, or inherits what it builds."""
        files = {
            name: self.repository.load_config(f"{group}/{name}") for name in self.repository.get_group_options(group)
        }
        return [
            name
            for name, file in files.items()
            if file and OmegaConf.select(file.config, "_target_", default=target) == target
        ]

    def read(self, word: str) -> Override:
        """Parse one word.

        Raises:
            HydraException: if it is not an override, or sets something of Hydra's.
        """
        if self.stage == "run":
            word = re.sub(r"^(\+*|~)select\b", r"\1evaluate.select", word)  # no other stage has it
        override = _parsed(word, self.loader)
        key, package = override.key_or_group.lstrip("/"), override.package or ""
        if re.match(r"hydra\b", package) or (re.match(r"hydra\b", key) and word not in _USUAL):
            own = re.match(r"hydra[/.](launcher|sweeper|sweep)\b", key)
            sweeps = "mlx runs the jobs of a sweep itself; sweep.slots=N runs N at once"
            raise NotForUse(sweeps if own else "settings of Hydra cannot be changed")
        value = None if override.is_sweep_override() else override.value()
        if isinstance(value, list) and self.is_choice(override) and not all(isinstance(name, str) for name in value):
            raise NotForUse(f"is chosen by name, got {shown(value)}")
        return override

    def is_choice(self, override: Override) -> bool:
        """Whether a word chooses a config of a group instead of giving a value."""
        return override.key_or_group in self.groups or "/" in override.key_or_group

    def forced(self, override: Override) -> str:
        """Return a word as it is passed to Hydra: values in the form that allows unknown keys, the rest unchanged."""
        word, place = str(override.input_line), override.package or ""
        if self.is_choice(override) and (re.match(r"(transfer\.)?also\.", place) or place.startswith(PARTS)):
            return f"+{word.lstrip('+')}"  # no config has a default for these data sets
        plain = self.is_choice(override) or override.is_delete() or override.is_hydra_override() or override.package
        return word if plain else f"++{word.lstrip('+')}"

    def combinations(self, overrides: Sequence[Override]) -> list[list[str]]:
        """Return the words of each job of a sweep, as `forced` returns them."""
        with _stumbling():
            return BasicSweeper.split_arguments([self.read(self.forced(o)) for o in overrides], None)[0]

    def compose(self, words: Sequence[str]) -> Composition:
        """Compose settings.

        Raises:
            Exception: one of HYDRA_ERRORS.
        """
        words = self.completed(words)
        with _stumbling():
            composition = self._composed(words)
            if own := composition.of_tier:
                composition = self._composed([*own, *words])  # what is typed replaces what the tier sets
        return composition

    def _composed(self, words: Sequence[str]) -> Composition:
        config = self.loader.load_configuration(self.config, self.whole(words), RunMode.RUN)
        choices = config.hydra.runtime.choices
        with open_dict(config):
            del config["hydra"]
        return Composition(self, words, config, dict(choices))

    def whole(self, words: Sequence[str]) -> list[str]:
        """Return words with which the last `select` that is typed replaces that of a file; Hydra would merge them."""
        key = SELECT.get(self.stage)
        last = max((k for k, word in enumerate(words) if word.lstrip("+").startswith(f"{key}=")), default=None)
        if last is None or f"~{key}" in words:
            return [*words]
        return [*words[:last], f"~{key}", f"++{words[last].lstrip('+')}", *words[last + 1 :]]

    def chosen(self, words: Sequence[str]) -> Composition:
        """Compose settings as `compose` does, the same words once: it takes 0.1 s."""
        if (known := self._chosen.get(tuple(words))) is None:
            known = self._chosen[tuple(words)] = self.compose(words)
        return known

    def completed(self, words: Sequence[str]) -> list[str]:
        """Return words with the choice of the backbone that suits the chosen data, if no word chooses one.

        A data set's file names it in a line such as `# @backbone mlp` before all others; several data sets as one have
        that of the first.
        """
        chosen = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
        parts = [choice for key, choice in chosen.items() if key.startswith(f"data@{PARTS}")]
        name = f"data/{[*parts, chosen.get('data')][0]}"
        if not (self.stage in TRAINING or self.stage == "run") or "backbone" in chosen:
            return list(words)
        found = self.repository.load_config(name) if self.repository.config_exists(name) else None
        suited = found and found.header.get("backbone")
        known = suited in self.repository.get_group_options("backbone")
        return [*words, f"backbone={suited}"] if known else list(words)

    def file(self, config: str) -> str:
        """Return the path of a config for messages; the shipped folder is `configs`."""
        result = self.repository.load_config(config)
        if result is None:
            return config
        if result.provider == "main":
            return f"configs/{config}.yaml"
        path = Path(result.path.partition("://")[2]) / f"{config}.yaml"
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class Composition:
    """The settings of one command, as Hydra composed them.

    Args:
        composer: the composer.
        words: the words, as Hydra got them.
        config: Hydra's result, without Hydra's own part.
        choices: the name of the config that is chosen of each group.

    Attributes:
        typed: the words without those that were added to them.
    """

    def __init__(
        self, composer: Composer, words: Sequence[str], config: DictConfig, choices: Mapping[str, str | None]
    ) -> None:
        self.composer = composer
        self.words = list(words)
        self.typed = list(words)
        self.config = config
        self.choices = choices

    @property
    def unresolved(self) -> Any:
        """The values as they are written, with references not filled in."""
        return OmegaConf.to_container(self.config, resolve=False)

    @property
    def values(self) -> dict[str, Any]:
        """The plain values.

        Raises:
            ConfigError: if there are too many, because references multiply values.
        """
        return self._filled[0]

    @cached_property
    def settings(self) -> Any:
        """The checked settings.

        Raises:
            ConfigError: with every problem.
        """
        values, problems = self._filled
        stage = self.composer.stage
        if self.given and "_target_" not in values["algorithm"] and values["ckpt"] is not None:
            values = {**values, "algorithm": None}  # these settings are for the checkpoint's algorithm
        try:
            if stage == "run":
                found: Any = self._chain(values)
            elif stage == "sweep":
                found = parse_sweep(values)
            else:  # the commands besides the stages read data alone
                found = parse(STAGES.get(stage, DataConfig), values)
        except ConfigError as error:
            unfilled = {p.key for p in problems}
            raise ConfigError([*problems, *(p for p in error.problems if p.key not in unfilled)]) from error
        if problems:
            raise ConfigError(problems)
        return found

    @property
    def of_tier(self) -> list[str]:
        """The words that the chosen tier of an experiment adds, as Hydra gets them.

        Raises:
            HydraException: if one cannot be read.
        """
        own = self.unresolved
        for name in ("tiers", own.get("tier"), "settings"):
            own = own.get(name) if isinstance(own, dict) else None
        words = [word for word in own if isinstance(word, str) and "=" in word] if isinstance(own, list) else []
        return [self.composer.forced(self.composer.read(word)) for word in words]

    @property
    def tier(self) -> Tier | None:
        """The tier of the experiment that is run; None without one.

        Raises:
            ConfigError: with every problem of the tiers.
        """
        tiers = parse_tiers(self.values.get("tiers"))
        check_tier(self.values.get("tier"), tiers)
        return tiers.get(self.values["tier"])

    def _chain(self, values: Mapping[str, Any]) -> ChainConfig:
        """Return the settings of `mlx run`, and of the experiment that runs before."""
        problems: list[Problem] = []
        first, found = None, None
        try:
            _ = self.tier
        except ConfigError as error:
            problems += error.problems
        try:
            first = self._first(values.get("after"))
        except ConfigError as error:
            problems += error.problems
        try:
            found = parse_chain(values, first)
        except ConfigError as error:
            problems += error.problems
        if problems or found is None:
            raise ConfigError(problems)
        return found

    def _first(self, name: Any) -> ChainConfig | None:
        """Return the settings of the experiment with this name, where things are as for this one; None for null.

        Raises:
            ConfigError: if there is none, if it runs after itself, or if its settings are wrong.
        """
        if name is None:
            return None
        repository = self.composer.repository
        known = repository.get_group_options("experiment")
        line = [name]
        while line[-1] in known:
            file = repository.load_config(f"experiment/{line[-1]}")
            contents = OmegaConf.to_container(file.config, resolve=False) if file else None
            following = contents.get("after") if isinstance(contents, dict) else None
            if following is None:
                break
            line.append(following)
            if following in line[:-1]:
                raise ConfigError([Problem("after", f"leads back to itself: {', after '.join(map(str, line))}")])
        if line[-1] not in known:
            near = closest(str(line[-1]), known)
            there = f"there is no experiment {shown(line[-1])}; there are {', '.join(known)}"
            raise ConfigError([Problem("after", there, near)])
        words = [word for word in self.words if OF_PLACES.match(word.lstrip("+"))]
        try:
            return cast(ChainConfig, self.composer.compose([f"experiment={name}", *words]).settings)
        except (*HYDRA_ERRORS, ConfigError) as error:
            raise ConfigError([Problem("after", f"experiment {name}: {error}")]) from error

    @cached_property
    def given(self) -> dict[str, Any] | None:
        """The settings of an evaluation's learner in the words, without its choice; None for other commands."""
        if self.composer.stage != "evaluate":
            return None
        own = self.values.get("algorithm")
        if not isinstance(own, dict):
            return {}
        keys = [self.composer.read(word).key_or_group for word in self.words]
        names = {key.split(".")[1] for key in keys if key.startswith("algorithm.")}
        return {name: value for name, value in own.items() if name in names or "_target_" not in own}

    @cached_property
    def files(self) -> list[tuple[str, str, Any]]:
        """The merged config files, in order: (name, section, contents)."""
        composer, found = self.composer, []
        for default in composer.loader.compute_defaults_list(composer.config, self.words, RunMode.RUN).defaults:
            result = composer.repository.load_config(str(default.config_path))
            if result is not None and result.provider in ("main", "command-line"):
                section = result.header["package"] if default.package is None else default.package
                section = "" if section in (None, "_global_") else str(section)
                contents = OmegaConf.to_container(result.config, resolve=False)
                found.append((composer.file(str(default.config_path)), section, contents))
        return found

    @cached_property
    def _filled(self) -> tuple[dict[str, Any], list[Problem]]:
        """The plain values, and what could not be filled in."""
        problems: list[Problem] = []
        return _plain(self.config, "", problems, iter(range(MOST))), problems


def defaults(stage: str) -> Any:
    """Return the default settings of a stage."""
    return Composer(stage).compose([]).settings


def typed_settings(run: Mapping[str, Any], composer: Composer | None = None) -> list[str] | None:
    """Return the settings of a run that differ from the defaults, as they are typed; None if unknown.

    Args:
        run: its run.json, with its `folder`.
        composer: that of its stage, kept for several runs; None for a new one.
    """
    if run["stage"] not in STAGES or "folder" not in run:
        return None
    try:
        config, composer = read_config(Path(run["folder"])), composer or Composer(run["stage"])
        if run.get("parent") and str(config.get("ckpt")).partition(":")[0] == "latest":
            config |= {"ckpt": run["parent"]["run"]}  # by now, latest may be another one
        words = _choices(composer, config)
        usual = composer.chosen(words)
        # a setting that refers to another one is left out: a cosine is as long as the stage
        following = dict(leaves(usual.unresolved))
        differing = _differences(config, usual.values | {"way": WAY, "query": QUERY})
        typed = [w for w in differing if not str(following.get(w.partition("=")[0])).startswith("$")]
        chosen = composer.chosen([]).choices
        return [word for word in words if word != f"{(group := word.partition('=')[0])}={chosen[group]}"] + typed
    except (HydraException, UserError):
        return None  # of another version, or with components that are not installed


def _choices(composer: Composer, config: Mapping[str, Any]) -> list[str]:
    """Return the words that choose the components of settings: of the same class, with the fewest differences."""
    specs = {group: spec for group, spec in config.items() if isinstance(spec, dict) and "_target_" in spec}
    known = {group: composer.of_class(group, str(spec["_target_"])) for group, spec in specs.items()}
    words = []
    found: dict[str, dict[str, Any]] = {group: {} for group in specs}
    for names in zip_longest(*known.values()):  # one choice of each group at a time: composing takes 0.1 s
        chosen = {group: name for group, name in zip(known, names, strict=True) if name is not None}
        values = composer.chosen([f"{group}={name}" for group, name in chosen.items()]).values
        for group, name in chosen.items():
            found[group][name] = values.get(group)
    for group, spec in specs.items():
        same = {n: o for n, o in found[group].items() if isinstance(o, dict) and o["_target_"] == spec["_target_"]}
        if nearest := sorted(same, key=lambda name: len(_differences(spec, same[name]))):
            words.append(f"{group}={nearest[0]}")
    return words


def _differences(values: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Return words for the values that differ from the usual ones."""
    known = dict(leaves(usual))
    return [f"{key}={written(v)}" for key, v in leaves(values) if key not in known or known[key] != v]


def _plain(node: Any, prefix: str, problems: list[Problem], left: Iterator[int]) -> Any:
    if next(left, None) is None:
        raise ConfigError([Problem("", f"the settings have more than {MOST} values")])
    if not isinstance(node, DictConfig | ListConfig):
        return node
    if prefix.count(".") > DEEPEST:
        key = prefix.split(".")[0]
        raise ConfigError([Problem(key, f"is nested deeper than {DEEPEST} levels; does it refer to itself?")])
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    pairs = [(key, _plain(v, f"{prefix}{key}.", problems, left)) for key, v in _pairs(node, keys, prefix, problems)]
    return dict(pairs) if isinstance(node, DictConfig) else [value for _, value in pairs]


def _pairs(node: Any, keys: Iterable[Any], prefix: str, problems: list[Problem]) -> list[tuple[Any, Any]]:
    pairs = []
    for key in keys:
        try:
            if OmegaConf.is_missing(node, key):
                problems.append(Problem(f"{prefix}{key}", "has no value yet (???); give it one"))
            else:
                pairs.append((key, node[key]))
        except OmegaConfBaseException as error:
            problems.append(Problem(f"{prefix}{key}", f"cannot be filled in: {str(error).splitlines()[0]}"))
    return pairs


_TILDES = re.compile(r"(^|[,\[(]\s*)(~[^,\[\]()]*)")


def _readable(word: str) -> str:
    """Return a word with quotes around paths that begin with ~, as in runs_dir=~/runs; Hydra refuses them unquoted."""
    key, equals, value = word.partition("=")
    return word if {"'", '"'} & {*value} else key + equals + _TILDES.sub(r'\1"\2"', value)


def _parsed(word: str, loader: ConfigLoaderImpl | None = None) -> Override:
    if reason := too_complex(word):
        raise NotForUse(reason)
    try:
        with _stumbling():
            return OverridesParser.create(loader).parse_overrides([_readable(word)])[0]
    except ValueError as error:
        raise NotForUse("has a number with too many digits") from error


@contextmanager
def _stumbling() -> Iterator[None]:
    """Within a block, turn internal errors of Hydra, from unexpected words and files, into a HydraException."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, AssertionError, RecursionError) as error:
        raise HydraException(f"Hydra cannot process it ({type(error).__name__}: {error})") from error


def changes(words: Sequence[str]) -> dict[str, Any]:
    """Return settings given as plain `key=value`, for a run whose other settings are known.

    Raises:
        ConfigError: with every other word.
    """
    found: dict[str, Any] = {}
    problems = []
    for word in words:
        try:
            override = _parsed(word)
            if override.get_key_element() != override.key_or_group or override.is_sweep_override():
                raise HydraException("only plain key=value can be changed")
            found[override.key_or_group] = override.value()
        except HydraException as error:
            problems.append(Problem(word, f"cannot be read: {str(error).splitlines()[0]}; write key=value"))
    if problems:
        raise ConfigError(problems)
    return found

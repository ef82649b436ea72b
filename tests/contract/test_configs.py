"""What every file under configs/ must be: found, complete, commented, composable, and the image of its module."""

from __future__ import annotations

import importlib
import inspect
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from metalearn_cli.cli.composing import Composer
from metalearn_cli.core.build import PASSED_IN, SHARED, locate
from metalearn_cli.core.check import Above, Below, Range
from metalearn_cli.core.claims import parse_tiers
from metalearn_cli.studies.verify import check_learners

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
PACKAGES = {
    "backbone": "backbones",
    "model": "models",
    "method": "methods",
    "algorithm": "algorithms",
    "data": "data",
}
COMPONENTS = sorted(path for group in PACKAGES for path in (CONFIGS / group).glob("*.yaml"))
EVERY = sorted(path for path in CONFIGS.rglob("*.yaml"))
RUN = Composer("run")
EXPERIMENTS = sorted((CONFIGS / "experiment").glob("*.yaml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def settings(path: Path) -> dict:
    """Return a component's settings, with those of the file it inherits from."""
    config = OmegaConf.load(path)
    parents = [parent for parent in config.pop("defaults", []) if parent != "_self_"]
    inherited = {k: v for parent in parents for k, v in settings(path.with_name(f"{parent}.yaml")).items()}
    return inherited | OmegaConf.to_container(config)


@pytest.mark.parametrize("path", COMPONENTS, ids=name_of)
def test_target_lies_in_the_package_of_its_folder(path: Path) -> None:
    target = settings(path)["_target_"]
    assert target.startswith(f"metalearn_cli.{PACKAGES[path.parent.name]}.")
    assert callable(locate(target, path.parent.name))


@pytest.mark.parametrize("path", COMPONENTS, ids=name_of)
def test_keys_and_values_are_the_constructors_parameters_and_defaults(path: Path) -> None:
    values = settings(path)
    constructor = locate(values.pop("_target_"), path.parent.name)
    passed_in = PASSED_IN.get(path.parent.name, frozenset())
    parameters = {n: p for n, p in inspect.signature(constructor).parameters.items() if n not in passed_in}
    shared = {name: values.pop(name, None) for name in SHARED.get(path.parent.name, {})}
    assert shared == {"backbone": {"train": "all"}, "data": {"fold": None}}.get(path.parent.name, {})
    assert values.keys() == parameters.keys()
    if OmegaConf.load(path).get("defaults") is None:  # a file that inherits is there to differ
        assert values == {name: parameter.default for name, parameter in parameters.items()}


def limits(annotation: Any) -> list[str]:
    """Return what an annotation says of numbers, in words."""
    own = [str(a) for a in getattr(annotation, "__metadata__", ()) if isinstance(a, Range | Above | Below)]
    inner = [limit for part in get_args(annotation) for limit in limits(part)]
    return [" and ".join(own).removeprefix("from "), *inner] if own else inner


@pytest.mark.parametrize("path", COMPONENTS, ids=name_of)
def test_comments_say_the_ranges_of_the_annotations(path: Path) -> None:
    constructor = locate(settings(path)["_target_"], path.parent.name)
    hints = get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor, include_extras=True)
    comments = dict(re.findall(r"^(\w+):.*?#(.*)$", path.read_text(), re.MULTILINE))
    for setting in comments.keys() & hints.keys():
        comment = comments[setting]
        for limit in limits(hints[setting]):
            assert limit in comment, f"{setting} {limit}: {comment}"


@pytest.mark.parametrize("group", PACKAGES)
def test_every_public_module_has_a_config(group: str) -> None:
    package = importlib.import_module(f"metalearn_cli.{PACKAGES[group]}")
    modules = {path.stem for path in Path(package.__path__[0]).glob("[a-z]*.py")}
    configured = {settings(path)["_target_"].split(".")[2] for path in (CONFIGS / group).glob("*.yaml")}
    assert modules == configured


@pytest.mark.parametrize("path", EVERY, ids=name_of)
def test_says_what_it_is_in_its_first_lines(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @")]
    assert re.match(r"# \S.{10,}", lines[0]), "the first line is what `mlx ls` shows"


@pytest.mark.parametrize("path", [p for p in EVERY if "hydra" not in p.parts], ids=name_of)
def test_every_key_has_a_comment(path: Path) -> None:
    bare, indents = [], []  # the indentation of the sections that a line is in
    previous = ""
    text = re.sub(r"( +)expect:\n(\1 +.*\n)*", "", path.read_text())  # results, whose keys core.claims explains
    for line in text.splitlines():
        match = re.match(r"( *)([A-Za-z_]\w*):(.*)", line)
        if match:
            indent, key, rest = len(match[1]), match[2], match[3]
            indents = [i for i in indents if i < indent]
            if not rest.strip():
                indents.append(indent)  # a section: its keys carry the comments
            elif "#" not in rest and not previous.lstrip().startswith("#") and key != "_target_":
                bare.append(key)
        previous = line
    assert not bare


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_says_its_command_and_claims_a_result(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"command: +mlx \S+ experiment=" + path.stem, header)
    tiers = parse_tiers(OmegaConf.to_container(OmegaConf.load(path).tiers))
    reading = "/backbone: hf" in path.read_text()  # an encoder reads all items first
    assert tiers["smoke"].minutes <= (5 if reading else 1)
    assert tiers["short"].minutes <= 40
    assert all(tier.expect or name == "smoke" or path.stem == "smoke" for name, tier in tiers.items())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_is_valid_in_every_tier(path: Path) -> None:
    tiers = parse_tiers(OmegaConf.to_container(OmegaConf.load(path).tiers))
    for name in tiers.keys() - {"short"}:  # those are laid over short
        composition = RUN.compose([f"experiment={path.stem}", f"tier={name}"])
        assert composition.tier == tiers[name]
        for tier in tiers.values():
            check_learners(composition.settings, name, tier)


CHOICES = {group: sorted(path for path in COMPONENTS if path.parent.name == group) for group in PACKAGES}
STAGES_OF = {
    "pretrain": ["backbone", "model"],
    "transfer": ["backbone", "method"],
    "meta-train": ["backbone", "algorithm"],
    "evaluate": ["algorithm"],
    "run": ["backbone", "model", "method", "algorithm"],
}


@pytest.mark.parametrize("stage", STAGES_OF)
@pytest.mark.medium
def test_every_choice_composes_in_every_stage_that_has_its_group(stage: str) -> None:
    composer = Composer(stage)
    together = list(zip_longest(*(CHOICES[group] for group in STAGES_OF[stage])))  # one choice of each group at a time
    # a composition takes long: of groups whose choices another stage composes, a few will do
    for paths in together[:3] if stage in ("run", "evaluate") else together:
        chosen = {path.parent.name: path for path in paths if path}
        values = composer.compose([f"{group}={path.stem}" for group, path in chosen.items()]).values
        for group, path in chosen.items():
            assert values[group]["_target_"] == settings(path)["_target_"]

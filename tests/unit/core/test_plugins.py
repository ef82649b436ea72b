"""Components of other packages: reachable once they are installed, and not before."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metalearn_cli.cli import choices
from metalearn_cli.core import plugins
from metalearn_cli.core.build import build, problems_of
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.records import names

SPEC = {"_target_": "mlx_foreign.algorithms.nearest_one.NearestOne", "power": 3}
FILES = {
    "__init__.py": "",
    "algorithms/__init__.py": "",
    "algorithms/nearest_one.py": """
from typing import Annotated
from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.core.check import Range

class NearestOne(NearestCentroid):
    def __init__(self, power: Annotated[int, Range(1)] = 2) -> None:
        super().__init__()
        self.power = power

class Helper:
    pass
""",
    "algorithms/_hidden.py": "class Hidden: ...\n",
    "secrets/__init__.py": "",
    "secrets/some.py": "class Some: ...\n",
    "configs/algorithm/nearest_one.yaml": "# One neighbour: a learner from elsewhere.\n"
    "_target_: mlx_foreign.algorithms.nearest_one.NearestOne\npower: 2\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Put a package on the path; return a function that installs it, which is: writes down its entry points."""
    for name, text in FILES.items():
        path = tmp_path / "mlx_foreign" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def forget() -> None:
        for known in (plugins.packages, names.choices):
            known.cache_clear()

    forget()

    def install() -> None:
        info = tmp_path / "mlx_foreign-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlx-foreign\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\nmlx_foreign = mlx_foreign\n")
        forget()

    yield install
    monkeypatch.undo()
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlx_foreign"]:
        del sys.modules[name]


def test_a_component_is_built(package):
    package()
    assert plugins.packages() == ("mlx_foreign",)
    found = build(SPEC, "algorithm")
    assert (type(found).__name__, found.power) == ("NearestOne", 3)


def test_its_settings_are_checked(package):
    package()
    assert problems_of(SPEC, "algorithm") == []
    (range_, name) = problems_of({**SPEC, "power": 0, "pover": 1}, "algorithm")
    assert (range_.key, range_.message) == ("algorithm.power", "must be a whole number >= 1, got 0")
    assert (name.key, name.hint) == ("algorithm.pover", "power")


def test_its_configs_are_listed(package):
    assert "nearest_one" not in choices.group("algorithm")
    package()
    assert choices.group("algorithm")["nearest_one"] == "One neighbour: a learner from elsewhere."
    assert "protonet" in choices.group("algorithm")


def test_it_is_not_reachable_where_it_is_not_installed(package):
    """Though it can be imported: installing is the consent."""
    assert (plugins.packages(), plugins.config_dirs()) == ((), [])
    with pytest.raises(ConfigError, match="may not be built from a config"):
        build(SPEC, "algorithm")
    assert "mlx_foreign" not in sys.modules


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("mlx_foreign.algorithms.nearest_one.NearestOne", "backbone"),  # of another group
        ("mlx_foreign.algorithms.nearest_one.Helper", "algorithm"),  # not what the module is named after
        ("mlx_foreign.algorithms._hidden.Hidden", "algorithm"),
        ("mlx_foreign.secrets.some.Some", "algorithm"),  # in none of the groups' packages
        ("mlx_foreign.Some", "algorithm"),
        ("mlx_foreign_too.algorithms.nearest_one.NearestOne", "algorithm"),
    ],
)
def test_nothing_else_of_it_is_reachable(package, target, key):
    package()
    with pytest.raises(ConfigError, match=r"may not be built from a config|is not a valid "):
        build({"_target_": target}, key)


def test_a_package_without_configs_is_none_the_worse(package, tmp_path):
    package()
    assert [folder.parent.name for folder in plugins.config_dirs()] == ["mlx_foreign"]
    (tmp_path / "mlx_foreign" / "configs").rename(tmp_path / "elsewhere")
    assert plugins.config_dirs() == []
    assert build(SPEC, "algorithm").power == 3


def test_it_is_chosen_on_the_command_line(package, mlx):
    package()
    words = ("ckpt=null", "backbone=mlp", "data=gaussian", "way=2", "query=2", "episodes=2", "algorithm=nearest_one")
    code, out, err = mlx("evaluate", *words, "algorithm.power=4", "--json")
    assert code == 0, err
    assert json.loads(out)["metric"]["learner"] == "nearest_one"
    code, _, err = mlx("evaluate", *words, "algorithm.power=0")
    assert code == 2 and "algorithm.power  must be a whole number >= 1, got 0" in err


def test_what_an_entry_point_names_and_is_not_there_is_left_out(package, tmp_path):
    package()
    points = "\n".join(f"{n} = {v}" for n, v in {"one": "mlx_foreign", "two": "a.b.c", "three": "ghost"}.items())
    (tmp_path / "mlx_foreign-1.0.dist-info" / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\n{points}\n")
    plugins.packages.cache_clear()
    assert plugins.packages() == ("mlx_foreign",)


def test_a_module_that_is_no_python_is_named_with_its_line(package, tmp_path):
    package()
    module = tmp_path / "mlx_foreign" / "algorithms" / "half_done.py"
    module.write_text("class HalfDone:\n    def init(self:\n")
    with pytest.raises(UserError, match=rf"^{re.escape(str(module))}, line 2: "):
        problems_of({"_target_": "mlx_foreign.algorithms.half_done.HalfDone"}, "algorithm")

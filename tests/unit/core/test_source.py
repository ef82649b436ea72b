"""What a source says of a constructor is what Python says once it is imported."""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest
import torch

from metalearn_cli.core.build import FOLDERS, PASSED_IN, locate
from metalearn_cli.core.check import Range
from metalearn_cli.core.source import Parameter, parameters

MODULES = {
    "one/__init__.py": "from one.two import Some as Other\nfrom . import two\n",
    "one/two.py": """
from __future__ import annotations
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple
from metalearn_cli.core.check import Range
from .three import Count, Heavy, Text
if TYPE_CHECKING:
    from nowhere import Nothing
raise SystemExit("a module that is imported")

SIDE = 5
Kind = Literal["a", "b"]

class Some:
    x = 3
    def __init__(self, given, kind: Kind, size: Annotated[int, Range(1, SIDE)] = 2, *, heavy: Heavy | None = None,
                 text: Text = "", count: "Count" = 1, what: Nothing = None, any: typing.Any = 1) -> None: ...

class Heir(Some):
    pass

class Bare:
    "Takes nothing."

class Foreign(nowhere.Base):
    pass

class Many:
    def __init__(self, *args, **kwargs): ...

class Row(NamedTuple):
    a: int
    b: float = 1.0

@dataclass(frozen=True)
class Data:
    shared: ClassVar[int] = 3
    a: int
    b: list[int] = field(default_factory=list)
    c: int = field(init=False, default=3)

def function(root: str | None = None, *, seed: int) -> Some: ...

alias = Some
""",
    "one/three.py": "import torch_is_not_there\nfrom one.two import SIDE\nclass Heavy: ...\nText = str\nCount = int\n",
}


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that cannot be imported."""
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def test_what_a_constructor_takes(one):
    found = parameters("one.two", "Some", frozenset({"given"}))
    heavy = found.pop("heavy")
    assert found == {
        "kind": Parameter(True, Literal["a", "b"]),
        "size": Parameter(False, Annotated[int, Range(1, 5)]),
        "text": Parameter(False, str),
        "count": Parameter(False, int),
        "what": Parameter(False, Any),
        "any": Parameter(False, Any),
    }
    assert [a.__name__ for a in heavy.annotation.__args__] == ["Heavy", "NoneType"]
    assert "one.two" not in sys.modules


def test_other_ways_to_say_it(one):
    for module, name in (("one", "Other"), ("one.two", "Heir")):
        assert list(parameters(module, name)) == list(parameters("one.two", "Some"))
    assert parameters("one.two", "Bare") == {}
    assert parameters("one.two", "Row") == {"a": Parameter(True, int), "b": Parameter(False, float)}
    assert parameters("one.two", "Data") == {"a": Parameter(True, int), "b": Parameter(False, list[int])}
    assert parameters("one.two", "function") == {"root": Parameter(False, str | None), "seed": Parameter(True, int)}


@pytest.mark.parametrize("name", ["Foreign", "Many", "alias", "Kind"])
def test_what_the_source_does_not_say(one, name):
    assert parameters("one.two", name) is None


def test_what_has_no_source():
    assert parameters("nowhere", "Nothing") is parameters("math", "sin") is None


def test_a_name_that_is_not_there(one):
    with pytest.raises(LookupError, match=r"one\.two has no Sone"):
        parameters("one.two", "Sone")


def components() -> list[tuple[str, str]]:
    root = Path(__file__).parents[3]
    found = [
        (key, path) for key, folder in FOLDERS.items() for path in (root / "metalearn_cli" / folder).glob("[a-z]*.py")
    ]
    return [(f"metalearn_cli.{path.parent.name}.{path.stem}", key) for key, path in found]


@pytest.mark.parametrize(("module", "key"), sorted(components()))
def test_of_our_own_components_the_source_says_everything(module, key):
    within = __import__(module, fromlist=["_"])
    own = [n for n, o in vars(within).items() if getattr(o, "__module__", "") == module and n[0] != "_"]
    (name,) = (n for n in own if n.lower().replace("_", "") == module.rpartition(".")[2].replace("_", ""))
    found = locate(f"{module}.{name}", key)
    passed_in = PASSED_IN.get(key, frozenset())
    expected = {n: p for n, p in inspect.signature(found).parameters.items() if n not in passed_in}
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, include_extras=True)
    told = parameters(module, name, passed_in)
    assert told == {n: Parameter(p.default is p.empty, hints[n]) for n, p in expected.items()}


TORCHS: Mapping[str, type] = {
    f"{module.__name__}.{name}": found
    for module, base in (
        (torch.optim, torch.optim.Optimizer),
        (torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    )
    for name, found in vars(module).items()
    if inspect.isclass(found) and issubclass(found, base) and name[0] != "_"
}


@pytest.mark.parametrize("target", TORCHS)
def test_of_what_torch_brings_the_source_says_the_names(target):
    module, _, name = target.rpartition(".")
    expected = inspect.signature(TORCHS[target]).parameters
    found = parameters(module, name)
    assert {n: p.required for n, p in found.items()} == {n: p.default is p.empty for n, p in expected.items()}


def test_torch_is_read_without_being_imported():
    code = (
        "import sys; from metalearn_cli.core.build import problems_of; "
        "print([p.message for p in problems_of({'_target_': 'torch.optim.Adam', 'lr': 'x', 'betaz': 1}, 'optimizer')],"
        " 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[\"must be a number >= 0, got 'x'\", 'no such setting of Adam'] False\n"

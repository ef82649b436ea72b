"""The parameters of a class or function, read from its module's source without importing it.

Most components import torch, which takes more than a second; wrong settings are reported before that.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.core.errors import UserError


class Parameter(NamedTuple):
    """A parameter that can be given by name.

    Attributes:
        required: whether it has no default.
        annotation: its type; Any if the source does not say. A class that is not imported yet is replaced by a class
            without instances, because no value in a config is an instance of it.
    """

    required: bool
    annotation: Any


class _Import(NamedTuple):
    """The module and name that a name is imported from; name "" is the module itself."""

    module: str
    name: str


def parameters(module: str, name: str, skip: frozenset[str] = frozenset()) -> dict[str, Parameter] | None:
    """Return the parameters of a class's constructor, or of a function.

    Args:
        module: the dotted name of its module.
        name: the name of the class or function.
        skip: parameters to leave out.

    Returns:
        each parameter by its name, in order; None if the source does not say.

    Raises:
        LookupError: if the module's source does not define that name.
    """
    names = _names(module)
    if names is not None and name not in names:
        raise LookupError(f"{module} has no {name}")
    home, node = _defined(module, name)
    if isinstance(node, ast.FunctionDef):
        return _arguments(node, home, skip)
    if not isinstance(node, ast.ClassDef):
        return None
    constructor = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if constructor:
        return _arguments(constructor, home, skip | {constructor.args.args[0].arg})
    bases = [ast.unparse(base) for base in node.bases]
    if bases == ["NamedTuple"] or (not bases and any("dataclass" in ast.unparse(d) for d in node.decorator_list)):
        return _fields(node, home, skip)
    if len(bases) == 1 and bases[0] in (_names(home) or {}):
        return parameters(home, bases[0], skip)
    return None if bases else {}


def returned(module: str, name: str) -> str:
    """Return what a function says that it returns, as it is written; "" for a class, and where nothing is said."""
    _, node = _defined(module, name)
    return ast.unparse(node.returns) if isinstance(node, ast.FunctionDef) and node.returns else ""


def _arguments(node: ast.FunctionDef, module: str, skip: frozenset[str]) -> dict[str, Parameter] | None:
    given = node.args
    if given.posonlyargs or given.vararg or given.kwarg:
        return None
    without = len(given.args) - len(given.defaults)
    required = [*(i < without for i in range(len(given.args))), *(d is None for d in given.kw_defaults)]
    return {
        a.arg: Parameter(needed, _annotation(a.annotation, module))
        for a, needed in zip([*given.args, *given.kwonlyargs], required, strict=True)
        if a.arg not in skip
    }


def _fields(node: ast.ClassDef, module: str, skip: frozenset[str]) -> dict[str, Parameter]:
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id not in skip:
            annotation, value = ast.unparse(field.annotation), ast.unparse(field.value) if field.value else ""
            if "ClassVar" not in annotation and "init=False" not in value:
                found[field.target.id] = Parameter(not value, _annotation(field.annotation, module))
    return found


class _Known(dict[str, Any]):
    """The names of a module that are known without importing it."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self._module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        loaded = _loaded(self._module, name)
        if loaded is not None:
            return loaded
        home, node = _defined(self._module, name)
        if isinstance(node, ast.ClassDef):
            return type(name, (), {})
        if isinstance(node, ast.expr):
            return _evaluated(node, home)
        raise NameError(name)


def _annotation(node: ast.expr | None, module: str) -> Any:
    """Return the value of an annotation; Any if it needs something that is not imported yet."""
    try:
        return Any if node is None else _evaluated(node, module)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


def _evaluated(node: ast.expr, module: str) -> Any:
    """Return the value of an expression in a component's source: code that importing it would run anyway."""
    value = eval(compile(ast.Expression(node), module, "eval"), {"__builtins__": {}}, _Known(module))
    return _evaluated(ast.parse(value, mode="eval").body, module) if isinstance(value, str) else value


def _loaded(module: str, name: str) -> Any:
    """Return the object of a name in a module, if the module that it comes from is already imported; else None."""
    origin = (_names(module) or {}).get(name)
    if not isinstance(origin, _Import):
        return None
    within = sys.modules.get(origin.module)
    return getattr(within, origin.name, None) if origin.name else within


def _defined(module: str, name: str) -> tuple[str, ast.AST | None]:
    """Return the definition of a name, and the module that has it: imports are followed."""
    seen = set()
    origin: ast.AST | _Import | None = _Import(module, name)
    while isinstance(origin, _Import) and origin not in seen:
        seen.add(origin)
        module = origin.module
        origin = (_names(module) or {}).get(origin.name)
    return module, None if isinstance(origin, _Import) else origin


@lru_cache
def _names(module: str) -> dict[str, ast.AST | _Import] | None:
    """Return the definitions and imports in the source of a module, by name; None if there is no source."""
    file = _file(module)
    if file is None:
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found: dict[str, ast.AST | _Import] = {}
    try:
        parsed = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from error
    for node in _statements(parsed.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            found |= {alias.asname or alias.name: _Import(source, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            whole = {alias.asname: alias.name for alias in node.names if alias.asname}
            tops = {alias.name.partition(".")[0] for alias in node.names if not alias.asname}
            found |= {name: _Import(source, "") for name, source in [*whole.items(), *zip(tops, tops, strict=True)]}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
    return found


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Return the statements of a module, with those inside `if TYPE_CHECKING` and `try: import`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])


def _file(module: str) -> Path | None:
    top, *inner = module.split(".")
    spec = find_spec(top)  # for a module in a package, find_spec would import the package
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, *inner)
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None

"""What the package imports is what its metadata asks for, so that an installation has all it needs and nothing else."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import metalearn_cli

OPTIONAL = {
    *("h5py", "pyarrow", "scipy", "sklearn", "soundfile"),  # each with an extra for one kind of data
    *("huggingface_hub", "timm", "tokenizers", "torchvision", "transformers"),  # with hf, and beside it
    *("mlflow", "wandb"),  # trackers, each with an extra
    *("onnx", "onnxruntime", "onnxscript"),  # with export
    *("starlette", "uvicorn"),  # with serve
    *("optuna", "ray"),  # run sweeps, each with an extra
    "torch_xla",  # on TPU machines only, which bring it
}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.medium
def test_dependencies_are_the_imports():
    imported = set()
    for file in Path(metalearn_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    third_party = imported - set(sys.stdlib_module_names) - OPTIONAL - {"metalearn_cli"}
    declared = {
        normalised(re.match(r"[\w.-]+", line)[0]) for line in requires("metalearn-cli") or [] if "extra ==" not in line
    }
    assert {normalised(distributions[name][0]) for name in third_party} == declared


@pytest.mark.medium
def test_what_is_optional_is_imported_where_it_is_used():
    for file in Path(metalearn_cli.__file__).parent.rglob("*.py"):
        if file.stem.startswith("standalone"):  # a program that `mlx export` writes, which is not imported
            continue
        for node in ast.parse(file.read_text()).body:  # only what is imported with the module
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not OPTIONAL & {name.partition(".")[0] for name in names}, file


def test_the_package_itself_imports_nothing_heavy():
    body = ast.parse(Path(metalearn_cli.__file__).read_text()).body
    modules = {node.module for node in body if isinstance(node, ast.ImportFrom)}
    assert modules == {"__future__", "typing"} and not any(isinstance(node, ast.Import) for node in body)

"""The wheel holds what the checkout holds, and works in an environment that knows nothing of the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def call(*words, cwd):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("MLX_")}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Build a wheel from an sdist, and another one straight from the checkout."""
    through_sdist, direct = tmp_path_factory.mktemp("sdist"), tmp_path_factory.mktemp("direct")
    build = [sys.executable, "-m", "build", "--no-isolation"]  # the build backend is in the dev extra: no network
    call(*build, "--outdir", str(through_sdist), cwd=ROOT)
    call(*build, "--wheel", "--outdir", str(direct), cwd=ROOT)
    return next(through_sdist.glob("*.whl")), next(direct.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """Install the wheel into an empty environment, which borrows the dependencies of ours; returns its bin folder."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    call(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheels[0]),
        cwd=folder,
    )  # fmt: skip
    # Python does not read the .pth files of a folder named in a .pth file, so our own editable checkout stays out
    site = Path(call(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    home = call(str(python), "-c", "import metalearn_cli; print(metalearn_cli.__file__)", cwd=folder)
    assert home.strip() == str(site / "metalearn_cli" / "__init__.py")
    return python.parent


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.CRC for item in archive.infolist()}


def test_wheel_is_the_same_with_and_without_an_sdist_between(wheels):
    assert contents(wheels[0]) == contents(wheels[1])


def test_wheel_holds_the_package_and_its_configs_and_nothing_else(wheels):
    names = set(contents(wheels[0]))
    configs = {f"metalearn_cli/{file.relative_to(ROOT)}" for file in (ROOT / "configs").rglob("*.yaml")}
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "metalearn_cli").rglob("*.py")}
    lists = {str(file.relative_to(ROOT)) for file in (ROOT / "metalearn_cli" / "data" / "splits").glob("*.json")}
    pages = {f"metalearn_cli/deploy/page/{name}" for name in ("index.html", "page.js", "page.css", "icon.svg")}
    pages |= {"metalearn_cli/cli/page.html"}
    assert configs and lists
    assert {n for n in names if ".dist-info/" not in n} == configs | modules | lists | pages | {
        "metalearn_cli/py.typed"
    }


def test_commands_work_outside_the_checkout(installed, tmp_path):
    assert "protonet" in call(str(installed / "mlx"), "ls", cwd=tmp_path)
    assert "algorithm:" in call(str(installed / "mlx"), "meta-train", "--cfg", "job", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_chain_runs_outside_the_checkout(installed, tmp_path):
    table = call(str(installed / "mlx"), "run", "experiment=smoke", cwd=tmp_path)
    stages = ("pretrain", "transfer", "meta-train")
    assert all(stage in table for stage in stages)
    assert all(any((tmp_path / "runs" / stage).glob("*/run.json")) for stage in stages)

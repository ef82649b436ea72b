"""A folder of wheels for a machine without network: making it and using it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PURE = (
    # the package's dependencies, and their dependencies
    *("hydra-core", "omegaconf", "lightning-fabric", "lightning-utilities", "fsspec", "tensorboardX", "protobuf"),
    *("pooch", "platformdirs", "requests", "urllib3", "idna", "certifi", "charset-normalizer", "packaging"),
    # the peers
    *("higher==0.2.1", "torchopt==0.7.3", "graphviz"),
)
COMPILED = ("optree",)  # of torchopt; a wheel for one version of Python
SOURCE = ("antlr4-python3-runtime",)  # of hydra-core; there is no wheel of the version that it needs
SYSTEMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def commands(folder: Path, python: str) -> list[list[str]]:
    """Return the arguments of the pip commands that make the folder.

    Args:
        folder: where the wheels go.
        python: the version of Python that will use them, such as 3.12.
    """
    common = ["--quiet", "--no-deps", "--constraint", str(ROOT / "constraints.txt")]
    download = ["download", *common, "--only-binary", ":all:", "--python-version", python, "--dest", str(folder)]
    systems = [word for system in SYSTEMS for word in ("--platform", system)]
    return [
        [*download, "--platform", "any", *PURE],
        [*download, *systems, *COMPILED],
        ["wheel", *common, "--wheel-dir", str(folder), *SOURCE],
    ]


def make(folder: Path, python: str) -> int:
    """Fill a folder with the wheels, print each command and the size, and return an exit code."""
    for words in commands(folder, python):
        print("pip", *words, flush=True)
        if code := _pip(*words):
            return code
    wheels = sorted(folder.glob("*.whl"))
    print(f"{len(wheels)} wheels, {sum(wheel.stat().st_size for wheel in wheels) / 1e6:.1f} MB, in {folder}")
    return 0


def installed(package: str) -> bool:
    """Return whether this Python has a package."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def install(folder: Path | None, target: Path) -> None:
    """Put the packages that this Python lacks into a folder: this package's version, and the wheels of another folder.

    Raises:
        RuntimeError: if pip cannot do it.
    """
    from metalearn_cli import __version__

    if not installed("metalearn-cli"):  # its code comes from the checkout, but checkpoints name the version
        about = target / "metalearn_cli.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: metalearn-cli\nVersion: {__version__}\n")
    wheels = (
        [wheel for wheel in sorted(folder.glob("*.whl")) if not installed(wheel.name.split("-")[0])] if folder else []
    )
    pure = [wheel for wheel in wheels if wheel.name.endswith("-none-any.whl")]
    options = ["install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    if pure and _pip(*options, *map(str, pure)):
        raise RuntimeError(f"pip could not install the wheels of {folder}")
    for wheel in (wheel for wheel in wheels if wheel not in pure):
        if _pip(*options, str(wheel)):  # made for another Python: continue without this peer
            print(f"left out: {wheel.name}", file=sys.stderr)


def _pip(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words]).returncode

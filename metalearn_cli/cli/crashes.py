"""The log of a crash: the full traceback in a file, and the component that raised it."""

from __future__ import annotations

import os
import sysconfig
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

from metalearn_cli.core.build import FOLDERS, packages

_APART = tuple(f"metalearn_cli.{part}." for part in ("cli", "stages", "records"))
"""Modules that no component calls, so that an error there is not the component's."""


def component_of(error: BaseException) -> str:
    """Return the component that an error comes from, with its place in the source, or "".

    It is the innermost component in the traceback. Frames of libraries are skipped, and so are those of `core`,
    `engine` and the code that components share.
    """
    components = {package for group in FOLDERS for package in packages(group)}
    found, ours = "", False
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        package, _, name = module.rpartition(".")
        ours = ours or module.startswith("metalearn_cli.")
        if package in components or (ours and _is_users(frame, module)):
            bearer = (n for n in frame.f_globals if n.lower() == name.replace("_", ""))  # as in maml.Maml
            found = f"{next(bearer, frame.f_code.co_name)} ({_place(frame)}, line {line})"
        elif module.startswith(_APART):
            found = ""
    return found


def log_crash(error: BaseException) -> tuple[str, list[str]]:
    """Return the file with the traceback: the run's log or, without a run, a temporary file, which is written.

    Returns:
        The file's path, and the last lines of the traceback.
    """
    text = "".join(traceback.format_exception(error))
    path = getattr(error, "mlx_log", None)  # see `records.log`
    if path is None:
        path = os.path.join(tempfile.gettempdir(), f"mlx-crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log")
        try:
            with open(path, "a") as file:
                file.write(text)
        except OSError:
            path = os.devnull
    return str(path), text.rstrip().splitlines()[-4:]


def _is_users(frame: FrameType, module: str) -> bool:
    """Whether code is neither ours nor a library's."""
    file = Path(frame.f_code.co_filename)
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = module.startswith("metalearn_cli.") or not file.is_file()
    return not own and not any(file.is_relative_to(library) for library in libraries)


def _place(frame: FrameType) -> str:
    """Return the path of a frame's file; for our own files, from the package on."""
    file, package = Path(frame.f_code.co_filename), Path(__file__).parents[2]
    return str(file.relative_to(package) if file.is_relative_to(package) else file)

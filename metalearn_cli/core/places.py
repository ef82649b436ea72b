"""Folders of the user's: where a path that begins with ~ is, and what stands in for a home folder that is missing."""

from __future__ import annotations

import os
import pwd
import tempfile
from contextlib import suppress
from pathlib import Path

from metalearn_cli.core.errors import UserError

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python looks for the user's name before it asks the system."""


def _stand_in() -> str:
    """Return the name of the folder that stands in for a missing home folder."""
    return f"metalearn-cli-{os.getuid()}"


def is_temporary(path: Path) -> bool:
    """Whether a path is in the folder that stands in for a missing home folder."""
    return _stand_in() in path.parts


def settle() -> None:
    """Give this process a home folder and a user's name where it has none, as in a container with a number for a user.

    Libraries ask for both. Done by the program before they are imported, and inherited by its processes.

    Raises:
        UserError: if there is no folder that could stand in for a home folder.
    """
    try:
        name, home = pwd.getpwuid(os.getuid()).pw_name, "~"
    except KeyError:
        name, home = str(os.getuid()), ""
    if not any(os.environ.get(variable) for variable in _NAMES):
        os.environ["LOGNAME"] = name
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)
        if not home:
            os.environ["HOME"] = str(_own_folder())
    if "MPLCONFIGDIR" not in os.environ and not os.access(expanded("~"), os.W_OK):
        with suppress(UserError):  # else matplotlib makes a folder in each process, and says so
            os.environ["MPLCONFIGDIR"] = str(_own_folder() / "matplotlib")


def _own_folder() -> Path:
    """Make the folder that stands in, for this user alone: others may write to the folder that it is in."""
    try:
        folder = Path(tempfile.gettempdir()) / _stand_in()
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder} belongs to another user; set HOME to a folder of yours")
    except OSError as error:
        raise UserError(f"you have no home folder, and no temporary one can be made: {error}; set HOME") from error
    return folder


def expanded(path: str) -> str:
    """Return a path with the home folder in place of a ~ at its beginning; one that nobody knows stays."""
    return os.path.expanduser(path)

"""Folders: that of the shipped configs, paths that begin with ~, and a substitute for a missing home folder."""

from __future__ import annotations

import os
import pwd
import tempfile
from contextlib import suppress
from pathlib import Path

from metalearn_cli.core.errors import UserError

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python looks for the user's name before it asks the system."""


def config_dir() -> Path:
    """Return the shipped configs: inside the package of a wheel, else at the top of the checkout.

    Raises:
        UserError: if they are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "base.yaml").is_file():
            return folder
    raise UserError("the shipped configs/ folder was not found; reinstall metalearn-cli")


def _stand_in() -> str:
    """Return the name of the substitute for a missing home folder."""
    return f"metalearn-cli-{os.getuid()}"


def is_temporary(path: Path) -> bool:
    """Whether a path is in the substitute for a missing home folder."""
    return _stand_in() in path.parts


def settle() -> None:
    """Set a home folder and a user name if this process has none, as in a container whose user is only a number.

    Libraries need both. The program calls this before it imports them; its child processes inherit both.

    Raises:
        UserError: if no substitute for a home folder can be created.
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
        with suppress(UserError):  # otherwise matplotlib creates a folder in each process, with a warning
            os.environ["MPLCONFIGDIR"] = str(_own_folder() / "matplotlib")


def _own_folder() -> Path:
    """Create the substitute, private to this user, because others may write to its parent folder."""
    try:
        folder = Path(tempfile.gettempdir()) / _stand_in()
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder} belongs to another user; set HOME to a folder of yours")
    except OSError as error:
        raise UserError(f"you have no home folder, and no temporary one can be created: {error}; set HOME") from error
    return folder


def current_folder() -> str:
    """Return the current folder.

    Raises:
        UserError: if it was deleted.
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current folder no longer exists; go to one that does: cd FOLDER") from error


def expanded(path: str) -> str:
    """Return a path with a ~ at its beginning expanded; the ~ of an unknown user stays."""
    return os.path.expanduser(path)

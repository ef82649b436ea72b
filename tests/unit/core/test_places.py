from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.places import is_temporary, settle


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """Have this user be a number that no name and no home folder belong to."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever is set meanwhile
        monkeypatch.delenv(name)


def test_a_user_without_a_name_gets_a_home_of_their_own(nobody, tmp_path):
    settle()
    home = tmp_path / f"metalearn-cli-{os.getuid()}"
    assert Path.home() == home and is_temporary(home / ".cache") and not is_temporary(tmp_path)
    assert home.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == str(os.getuid())
    settle()  # as a second command does
    assert Path.home() == home


def test_a_home_that_is_set_stays(nobody, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settle()
    assert os.environ["HOME"] == str(tmp_path / "home")
    assert "MPLCONFIGDIR" not in os.environ
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_matplotlib_gets_a_folder_where_the_home_cannot_be_written(nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/nowhere")
    settle()
    assert os.environ["HOME"] == "/nowhere"
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / f"metalearn-cli-{os.getuid()}" / "matplotlib")


@pytest.mark.parametrize("taken", ["link", "file"])
def test_what_another_user_put_there_is_not_used(nobody, tmp_path, taken):
    place = tmp_path / f"metalearn-cli-{os.getuid()}"
    if taken == "link":
        place.symlink_to(tmp_path)
    else:
        place.touch()
    with pytest.raises(UserError, match="set HOME"):
        settle()

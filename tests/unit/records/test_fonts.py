"""Which font draws a name."""

from pathlib import Path

import pytest
from matplotlib import font_manager, get_data_path

from metalearn_cli.records import fonts
from metalearn_cli.records.fonts import font_of, numbered

OURS = Path(get_data_path(), "fonts", "ttf")


@pytest.fixture(autouse=True)
def _empty():
    """Forget what other tests found."""
    fonts.font_of.cache_clear()
    yield
    fonts.font_of.cache_clear()


def installed(monkeypatch, *paths):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path) for path in paths])


def test_the_usual_font_where_it_suffices(monkeypatch):
    installed(monkeypatch)
    assert {font_of(name) for name in ("train: owl", "Привет", "مرحبا", "naïve")} == {OURS / "DejaVuSans.ttf"}


def test_an_installed_font_that_has_the_letters(monkeypatch, tmp_path):
    letter = chr(0x1D7D9)  # a double-struck 1, which the usual font lacks in this test
    monkeypatch.setattr(
        fonts, "_letters", lambda path: frozenset({ord(letter)}) if path.name == "b.ttf" else frozenset()
    )
    installed(monkeypatch, tmp_path / "b.ttf", tmp_path / "LastResort.otf", tmp_path / "a.ttf")
    assert font_of(letter) == tmp_path / "b.ttf"
    assert font_of(letter + "\u200d") == tmp_path / "b.ttf"  # a joiner has no shape


def test_a_number_where_no_font_has_the_letters(monkeypatch, tmp_path):
    damaged = tmp_path / "x.ttf"
    damaged.write_bytes(b"no font")
    installed(monkeypatch, damaged, OURS / "cmr10.ttf")
    assert numbered(["owl", "猫", "狗"]) == {"猫": "#1", "狗": "#2"}

"""Pictures of runs, made small; their files may be untrusted."""

import io

import pytest
from PIL import Image

from metalearn_cli.core.errors import UserError
from metalearn_cli.records import pictures
from metalearn_cli.records.pictures import small


def test_a_picture_becomes_small(tmp_path):
    path = tmp_path / "wide.png"
    Image.effect_noise((400, 100), 50).save(path)
    data, size = small(path, width=200, colours=8)
    shown = Image.open(io.BytesIO(data))
    assert size == shown.size == (200, 50)
    assert len(shown.getcolors()) <= 8
    assert len(data) < path.stat().st_size / 4


def test_nothing_but_pixels_is_taken_over(tmp_path):
    path = tmp_path / "more.png"
    Image.new("RGB", (4, 4)).save(path)
    path.write_bytes(path.read_bytes() + b"<script>")
    assert b"script" not in small(path, 8, 8)[0]


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_what_is_no_picture_gets_a_sentence(tmp_path, content):
    path = tmp_path / "odd.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.png cannot be read"):
        small(path, 8, 8)


def test_a_cut_off_picture_gets_a_sentence(tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut\.png cannot be read"):
        small(path, 8, 8)


def test_a_huge_picture_gets_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (100, 100)).save(path)
    monkeypatch.setattr(pictures, "_LARGEST", 9_999)
    with pytest.raises(UserError, match=r"huge\.png is too large: 100 x 100 pixels"):
        small(path, 8, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)  # of which Pillow warns
    with pytest.raises(UserError, match=r"huge\.png cannot be read"):
        small(path, 8, 8)

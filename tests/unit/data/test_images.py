"""Own images: every layout and mode, and every file that cannot be used."""

import csv
import io
import itertools
import json
import os
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image
from sources.images import fill, picture

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.common.pixels import Shape, opened, pixels_of
from metalearn_cli.data.images import COLUMN, images


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def item(image, ending="PNG", **shape):
    buffer = io.BytesIO()
    image.save(buffer, ending)
    return pixels_of(opened(buffer.getvalue()), Shape(**{"size": 8, "fit": "squash", **shape}))


def plain(colour, mode="RGB", size=(16, 16)):
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (plain((10, 20, 30)), (10, 20, 30)),
        (plain(77, "L"), (77, 77, 77)),
        (plain(1, "1"), (255, 255, 255)),
        (plain((10, 20, 30, 255), "RGBA"), (10, 20, 30)),
        (plain((10, 20, 30, 0), "RGBA"), (255, 255, 255)),  # transparent: white
        (plain((0, 128), "LA"), (127, 127, 127)),
        (plain((10, 20, 30)).quantize(2), None),
        (Image.fromarray(np.full((16, 16), 77 * 257, np.uint16)), (77, 77, 77)),
    ],
    ids=["RGB", "L", "1", "RGBA", "clear", "LA", "P", "16 bit"],
)
def test_modes(image, colour):
    found = item(image)
    assert (found.shape, found.dtype) == ((3, 8, 8), np.uint8)
    expected = colour or image.convert("RGB").getpixel((0, 0))
    assert found[:, 4, 4].tolist() == list(expected)


def test_cmyk_and_a_photograph_turned_by_its_camera():
    assert np.abs(item(plain((0, 255, 255, 0), "CMYK"), "TIFF")[:, 4, 4].astype(int) - (255, 0, 0)).max() <= 2
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 8))  # the left half is white
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned clockwise: the left half is the upper one
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    turned = pixels_of(opened(buffer.getvalue()), Shape(8, fit="squash"))
    assert turned[0, 0].min() > 200 and turned[0, -1].max() < 50


def test_ways_to_become_square():
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 8, 16))  # the left quarter
    assert item(image, fit="crop")[0].min() > 200  # cut off
    assert (item(image, fit="squash")[0][4] < 50).tolist() == [True, True] + [False] * 6
    padded = item(image, fit="pad")[0]
    assert padded[0].max() == padded[-1].max() == 0
    assert item(image, channels=1).shape == (1, 8, 8)


def bomb():
    """Return a PNG of 60,000 pixels a side in under 100 bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no image"),
        (b"GIF89a", "cannot be read as an image|is no image"),
        (b"hello", "is no image"),
        (bomb(), "pixels"),
        (None, "cannot be read as an image"),
    ],
    ids=["empty", "cut short", "text", "bomb", "half"],
)
def test_files_that_are_no_images(content, told):
    if content is None:
        buffer = io.BytesIO()
        picture(0).resize((200, 200)).save(buffer, "PNG")
        content = buffer.getvalue()[:2000]
    with pytest.raises(ValueError, match=told):
        pixels_of(opened(content), Shape(8))


def tarred(folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "photos")
    return path


def test_a_folder_an_archive_and_a_table_give_the_same_items(tmp_path):
    folder = fill(tmp_path / "photos", 8, 3)
    data = images(str(folder), size=8)
    assert data.facts.shape == (3, 8, 8)
    assert [len(s.names) for s in data.splits.values()] == [4, 2, 2]
    assert images(str(tarred(folder, tmp_path / "p.tar")), size=8).fingerprint == data.fingerprint
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "species"])
        rows.writerows(
            [f"photos/{path.parent.name}/{path.name}", path.parent.name] for path in sorted(folder.rglob("*.*"))
        )
    assert images(str(tmp_path / "table.csv"), size=8).fingerprint == data.fingerprint
    assert data.about["images"] == 24


def test_split_folders_nested_classes_and_a_folder_around_all(tmp_path):
    for split, start in (("Training", 0), ("valid", 1), ("test", 2)):
        for k in range(3):
            own = tmp_path / "data" / "around" / split / f"group{start}" / f"class{k}"
            own.mkdir(parents=True)
            for i in range(2):
                picture(start * 10 + k * 3 + i).save(own / f"{i}.png")
    data = images(str(tmp_path / "data"), size=8)
    assert {split: s.names[0] for split, s in data.splits.items()} == {
        "train": "group0/class0",
        "val": "group1/class0",
        "test": "group2/class0",
    }
    assert data.facts.groups == ("group0", "group1", "group2")


def test_gray_images_have_one_channel(tmp_path):
    for k in range(6):
        (tmp_path / "g" / f"c{k}").mkdir(parents=True)
        for i in range(2):
            picture(k * 5 + i, "L").save(tmp_path / "g" / f"c{k}" / f"{i}.png")
    assert images(str(tmp_path / "g"), size=8).facts.shape == (1, 8, 8)
    assert images(str(tmp_path / "g"), size=8, channels=3).facts.shape == (3, 8, 8)


def test_every_file_that_cannot_be_read_is_named_or_left_out(tmp_path):
    folder = fill(tmp_path / "photos", 8, 4)
    (folder / "class00" / "0.jpg").write_bytes(b"no image")
    (folder / "class03" / "1.png").write_bytes(bomb())
    with pytest.raises(DataError) as error:
        images(str(folder), size=8)
    assert sorted(finding.where for finding in error.value.findings) == ["class00/0.jpg", "class03/1.png"]
    assert "data.unreadable=skip" in error.value.cure
    data = images(str(folder), size=8, unreadable="skip")
    assert sum(int(s.counts.sum()) for s in data.splits.values()) == 30
    assert sorted(f.where for f in data.findings if "image" in f.what or "pixels" in f.what) == [
        "class00/0.jpg",
        "class03/1.png",
    ]


def test_items_split_within_classes(tmp_path):
    folder = fill(tmp_path / "photos", 3, 6)
    with pytest.raises(ConfigError, match="the data has 3 classes"):
        images(str(folder), size=8)
    data = images(str(folder), size=8, split="items")
    assert all(s.names == ("class00", "class01", "class02") for s in data.splits.values())
    assert data.facts.classes == 3


def test_a_dark_image_of_16_bits_stays_dark_and_12_bits_are_told(tmp_path):
    deep = Image.fromarray(np.full((16, 16), 250, np.uint16))
    assert item(deep).max() == 0
    ramp = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    assert item(ramp, "TIFF", bits=12).max() > 200
    folder = fill(tmp_path / "photos", 6, 2)
    ramp.save(folder / "class00" / "dark.tif")
    Image.new("RGB", (9, 9), "gold").save(folder / "class01" / "gold.png")
    found = {f.where: f.what for f in images(str(folder)).findings}
    assert found["class00/dark.tif"].endswith("if its pixels have 10 or 12 bits, say so: data.bits=12")
    assert found["class01/gold.png"] == "is nearly of one colour"
    assert "class00/dark.tif" not in [f.where for f in images(str(folder), bits=12).findings]


def test_12_bits_are_told_also_where_scaling_makes_pixels_brighter(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    edges = np.zeros((16, 16), np.uint16)
    edges[4:12, 4:12] = 4095
    Image.fromarray(edges).save(folder / "class00" / "a.png")
    Image.fromarray((edges // 200).astype(np.uint8)).save(folder / "class00" / "b.png")  # 8 bits, at most 20
    assert item(Image.fromarray(edges), size=32).max() > 15
    dark = [f for f in images(str(folder)).findings if "black" in f.what]
    assert [f.where for f in dark] == ["class00/a.png"] and "data.bits=12" in dark[0].what


def test_files_that_use_more_bits_than_are_read_are_named(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(folder / "class00" / "a.png")
    with pytest.raises(DataError) as error:
        images(str(folder), bits=10)
    (finding,) = (f for f in error.value.findings if f.where == "data.bits")
    assert finding.blocks and "class00/a.png" in finding.items
    assert finding.what.startswith("is 10, but ") and "data.bits=" in finding.what


def deep_colours(path, values):
    """Write colours [H, W, 3], or [H, W, 4] with transparency, of 16 bits as a PNG, which Pillow cannot."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    high, wide, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    about = struct.pack(">IIBBBBB", wide, high, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_bits_of_colours(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    file = folder / "class00" / "deep.png"
    values = np.arange(8 * 8 * 3).reshape(8, 8, 3) * 5
    deep_colours(file, values)
    shape = Shape(8, fit="squash", bits=10)
    np.testing.assert_array_equal(pixels_of(opened(file.read_bytes()), shape), (values >> 2).transpose(2, 0, 1))
    with_alpha = np.concatenate([values, np.full((8, 8, 1), 65535)], 2)
    deep_colours(tmp_path / "alpha.png", with_alpha)
    transparent = opened((tmp_path / "alpha.png").read_bytes())
    np.testing.assert_array_equal(pixels_of(transparent, shape)[0], values[..., 0] >> 2)
    (told,) = (f.what for f in images(str(folder)).findings if f.where == "class00/deep.png")
    assert told.endswith("if its pixels have 10 or 12 bits, say so: data.bits=12")
    assert "class00/deep.png" not in [f.where for f in images(str(folder), bits=10).findings]
    deep_colours(file, values * 4)
    with pytest.raises(DataError, match=r"is 10, but .* data\.bits="):
        images(str(folder), bits=10)


def test_pages_that_are_not_read_are_told(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    pages = [picture(n).convert("RGB") for n in range(3)]
    for name in ("a.tif", "b.gif"):
        pages[0].save(folder / "class00" / name, save_all=True, append_images=pages[1:])
    (finding,) = (f for f in images(str(folder)).findings if f.where == "data.root")
    assert not finding.blocks and finding.items == ("class00/a.tif", "class00/b.gif")
    assert finding.what.startswith("2 files hold several pages or frames, of which the first is read")


def test_negative_pixels_are_refused():
    with pytest.raises(ValueError, match="its pixels go down to -7; save it with values from 0"):
        item(Image.fromarray(np.full((8, 8), -7, np.int32)), "TIFF")


def test_a_class_folder_alone_and_other_columns_are_told(tmp_path):
    folder = fill(tmp_path / "photos", 6, 3)
    for place in (folder / "class00", folder / ".."):
        if place != folder / "class00":
            for k in range(1, 6):
                shutil.rmtree(folder / f"class{k:02d}")
        with pytest.raises(DataError) as error:
            images(str(place))
        (finding,) = error.value.findings
        assert finding.what.endswith("a class is a folder; give the folder that has a folder for each class")
    names = [f"{k}-{i}.png" for k in range(6) for i in range(2)]
    for n, name in enumerate(names):
        picture(n).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("path,label,mass,note\n" + "".join(f"{name},{name[0]},1,x\n" for name in names))
    assert images(str(tmp_path / "t.csv")).about["not used"] == "mass, note (data=mixed uses them, too)"


def test_images_that_lie_in_no_class_folder(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    picture(0).save(folder / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png is in no class folder"):
        images(str(folder))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.doc").write_text("x")
    with pytest.raises(DataError, match=r"has no files of .png, .*; it has files of .doc"):
        images(str(tmp_path / "empty"))


def test_a_table_with_files_that_are_not_there(tmp_path):
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,x\nb.png,x\na.png,\n ,x\n")
    with pytest.raises(DataError) as error:
        images(str(tmp_path / "t.csv"))
    told = [(finding.where, finding.what) for finding in error.value.findings]
    table = f"{tmp_path / 't.csv'}"
    assert told == [
        ("b.png", f"is not in {tmp_path}"),
        (f"{table}, line 4", "has no label"),
        (f"{table}, line 5", "names no file"),
        ("data.min_items", "1 of 1 classes has fewer than 2 items and is left out"),
    ]


def test_nothing_is_written_to_the_users_folder(tmp_path):
    folder = fill(tmp_path / "photos", 6, 2)
    before = sorted(str(path) for path in folder.rglob("*"))
    images(str(folder), size=8)
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_a_folder_beside_splits_is_no_group(tmp_path):
    for split, names in {"train": "abcdef", "val": "gh", "test": "ij", "extra": "kl"}.items():
        for name, i in itertools.product(names, range(2)):
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            picture(10 * ord(name) + i).save(tmp_path / split / name / f"{i}.png")
    with pytest.raises(DataError) as error:
        images(str(tmp_path))
    (finding,) = error.value.findings  # and nothing of a split that the data does not have
    assert finding.where == "extra" and "neither train, val nor test" in finding.what
    assert error.value.rest is None


def test_numbers_of_a_table_are_labels_and_groups_also_0(tmp_path):
    rows = []
    for group, label, item in itertools.product(range(5), range(2), range(3)):
        name = f"{group}-{label}-{item}.png"
        picture(100 * group + 10 * label + item).save(tmp_path / name)
        rows.append({"path": name, "label": label, "group": group})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = images(str(tmp_path / "t.jsonl"), column={**COLUMN, "group": "group"})
    assert sorted(name for split in data.splits.values() for name in split.names) == sorted(
        {f"{row['group']}/{row['label']}" for row in rows}
    )
    assert data.protocol == "groups, seed 0"


def test_other_pictures_of_the_same_size_and_time_are_read_anew(tmp_path):
    found = []
    for root in ("one", "two"):
        for k in range(6):
            for i in range(2):
                file = tmp_path / root / f"c{k}" / f"{i}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                plain((k, i, len(found))).save(file)
                os.utime(file, ns=(1, 1))
        found.append(images(str(tmp_path / root)).fingerprint)
    assert found[0] != found[1]

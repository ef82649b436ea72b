"""Files of folders and archives: the same names and contents wherever they lie, and no way out of them."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

from metalearn_cli.core.errors import ConfigError
from metalearn_cli.data.common.files import files_in, source_of

CONTENTS = {"cat/1.png": b"one", "cat/2.png": b"two", "dog/1.png": b"three"}
JUNK = {
    "cat/._1.png": b"x",
    "__MACOSX/cat/1.png": b"x",
    "@eaDir/1.png": b"x",
    "dog/Thumbs.db": b"x",
    ".git/config": b"x",
}


def folder(path, contents):
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tarred(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, f"w:{path.suffix[1:] if path.suffix != '.tar' else ''}") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def contents(files):
    return {name: files.read(name, 100) for name in files.names}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_wherever_they_lie(tmp_path, kind):
    make = {"folder": folder, "zip": zipped, "tar": tarred, "tar.gz": tarred}[kind]
    files = files_in(make(tmp_path / f"photos.{kind}", CONTENTS | JUNK))
    assert contents(files) == CONTENTS
    assert files.skipped == {"._*": 1, "__MACOSX": 1, "@eaDir": 1, "Thumbs.db": 1, "hidden": 1}
    assert files.findings == ()


def test_shards_are_one_folder_and_other_archives_are_folders_of_their_names(tmp_path):
    tarred(tmp_path / "shard-000.tar", {"cat/1.png": b"1"})
    tarred(tmp_path / "shard-001.tar", {"cat/2.png": b"2"})
    zipped(tmp_path / "train_01.zip", {"dog/1.png": b"3"})
    zipped(tmp_path / "birds" / "crow.zip", {"1.png": b"4"})
    expected = {"cat/1.png": b"1", "cat/2.png": b"2", "train/dog/1.png": b"3", "birds/crow/1.png": b"4"}
    assert contents(files_in(tmp_path)) == expected


def test_a_file_that_is_there_twice(tmp_path):
    for name in ("a-0.tar", "a-1.tar"):
        tarred(tmp_path / name, {"cat/1.png": b"1"})
    (finding,) = files_in(tmp_path).findings
    assert (finding.blocks, finding.where) == (True, "cat/1.png")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_no_name_leads_out_of_an_archive(tmp_path, make):
    path = make(
        tmp_path / f"bad{'.zip' if make is zipped else '.tar'}", {"../x.png": b"", "/etc/x.png": b"", "a/b.png": b""}
    )
    files = files_in(path)
    assert files.names == ("a/b.png",)
    assert [f.what for f in files.findings] == ["has a name that leads out of the archive"] * 2


def test_links_and_devices_of_archives_are_no_files(tmp_path):
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"a/{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert files_in(tmp_path / "odd.tar").names == files_in(tmp_path / "odd.zip").names == ()


def test_links_in_folders_are_followed_once_and_pipes_are_not_read(tmp_path):
    folder(tmp_path / "data", {"cat/1.png": b"1"})
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "2.png").write_bytes(b"2")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "data" / "cat" / "pipe.png")
    assert contents(files_in(tmp_path / "data")) == {"cat/1.png": b"1", "dog/2.png": b"2"}


def test_a_link_to_nothing_is_left_out_and_told(tmp_path):
    folder(tmp_path, {"cat/1.png": b"1"})
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "nowhere")
    files = files_in(tmp_path)
    assert files.names == ("cat/1.png",)
    assert [(f.blocks, f.where) for f in files.findings] == [(False, "cat/2.png")]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "folder"])
def test_a_file_that_is_too_large_or_cut_short(tmp_path, kind):
    make = {"folder": folder, "zip": zipped, "tar": tarred, "tar.gz": tarred}[kind]
    path = make(tmp_path / f"x.{kind}", {"a.png": bytes(range(256)) * 40})
    with pytest.raises(ValueError, match=r"^is too large: it has more than 100 bytes"):
        files_in(path).read("a.png", 100)
    if kind == "folder":
        return
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    files = files_in(path)
    if files.names:
        with pytest.raises(ValueError):
            files.read("a.png", 1 << 20)
    else:
        assert "is damaged or cannot be read" in files.findings[0].what


def test_the_stamp_of_a_zip_is_of_contents_and_not_of_the_place(tmp_path):
    assert files_in(zipped(tmp_path / "x.zip", CONTENTS)).stamp == files_in(zipped(tmp_path / "y.zip", CONTENTS)).stamp


def test_the_stamp_changes_with_the_contents(tmp_path):
    for make, path in ((tarred, tmp_path / "c.tar"), (zipped, tmp_path / "x.zip")):
        before = files_in(make(path, CONTENTS)).stamp
        assert files_in(path).stamp == before
        assert files_in(make(path, CONTENTS | {"dog/1.png": b"other"})).stamp != before
    own = folder(tmp_path / "d", CONTENTS)
    before = files_in(own).stamp
    os.utime(own / "cat/1.png", ns=(1, 1))
    assert files_in(own).stamp != before


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_the_stamp_is_another_where_size_and_time_are_the_same(tmp_path, kind):
    make = {"folder": folder, "tar": tarred}[kind]
    one, two = (make(tmp_path / f"{n}.{kind}", {"cat/1.png": str(n).encode()}) for n in (1, 2))
    files = [path if kind == "tar" else path / "cat/1.png" for path in (one, two)]
    for file in files:
        os.utime(file, ns=(1, 1))
    before = files_in(one).stamp
    assert files_in(two).stamp != before
    os.rename(files[1], files[0])  # swapped in place
    assert files_in(one).stamp != before
    before = files_in(one).stamp
    files[0].write_bytes(files[0].read_bytes()[::-1])
    os.utime(files[0], ns=(1, 1))  # touch -d
    assert files_in(one).stamp != before


def test_a_link_to_a_folder_beside_it_is_told_and_not_read(tmp_path):
    folder(tmp_path, {"crow/1.png": b"1", "magpie/2.png": b"2"})
    (tmp_path / "crow" / "more").symlink_to("../magpie")
    (tmp_path / "magpie" / "up").symlink_to("..")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "magpie").symlink_to("../magpie")
    files = files_in(tmp_path)
    assert contents(files) == {"crow/1.png": b"1", "magpie/2.png": b"2"}
    told = {(f.blocks, f.where): f.what for f in files.findings}
    assert told.keys() == {(False, "crow/more"), (False, "magpie/up")}
    assert told[False, "crow/more"] == "is the folder magpie again, by a link: what is in it is read once"


def test_folders_that_all_link_to_each_other_are_read_once(tmp_path):
    places = [tmp_path / f"c{k}" for k in range(9)]  # 9! paths
    for place in places:
        place.mkdir()
        (place / "1.png").write_bytes(b"1")
        for other in places:
            (place / f"to-{other.name}").symlink_to(other)
    files = files_in(tmp_path)
    assert files.names == tuple(f"c{k}/1.png" for k in range(9))
    assert len(files.findings) == 81


def test_what_is_no_source(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match="neither a folder nor one of"):
        files_in(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"there is no .*b; .*/ has a\.txt"):
        source_of(str(tmp_path / "b"), "a folder")
    with pytest.raises(ConfigError, match=r"data.root: is missing: data.root=PATH, a folder"):
        source_of(None, "a folder")


def test_a_tar_that_ends_too_early(tmp_path):
    path = tarred(tmp_path / "cut.tar", {f"c{k}/{i}.png": bytes(1000) for k in range(8) for i in range(4)})
    whole = path.read_bytes()
    for length in (len(whole) // 2 // 512 * 512, len(whole) // 2 + 100):
        path.write_bytes(whole[:length])
        assert "damaged" in files_in(path).findings[0].what
    path.write_bytes(whole)
    assert files_in(path).findings == ()


def test_a_name_that_is_too_long():
    with pytest.raises(ConfigError, match="there is no xxxx"):
        source_of("x" * 5000, "a folder")

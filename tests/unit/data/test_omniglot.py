from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from drawings import SETS, members, packed, png, publish, runs
from PIL import Image, ImageOps

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError, DataError, UserError
from metalearn_cli.data import omniglot as module
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.omniglot import omniglot

MIRROR = Path(os.environ.get("MLX_DATA_DIR") or Path(__file__).parents[4] / "shared" / "data").resolve()
CHARACTERS = 8  # of each small set

real = pytest.mark.skipif(
    not (MIRROR / "omniglot" / "images_background.zip").is_file(),
    reason="needs Omniglot's files in $MLX_DATA_DIR/omniglot or ../shared/data/omniglot",
)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small archives in Omniglot's layout, taken for the published ones; the cache is empty."""
    publish(CHARACTERS, tmp_path, monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    for name in SETS:
        (root / f"{name}.zip").write_bytes(packed(members(name, CHARACTERS)))
    return root


def lake(root: Path) -> Dataset:
    return omniglot(split="lake", root=str(root))


def refusal(root: Path | None, split: str = "lake") -> str:
    with pytest.raises(UserError) as error:
        omniglot(split=split, root=root and str(root))  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.medium
def test_few_training_alphabets_are_chosen_by_the_seed(small: Path) -> None:
    chosen = set()
    for seed in range(6):
        data = omniglot(split="lake", root=str(small), alphabets=2, seed=seed)
        assert data.protocol == "lake, 2 training alphabets"
        chosen.add(frozenset(name.split("/")[0] for name in data.splits["train"].names))
        for part in ("val", "test"):
            assert data.splits[part].names == lake(small).splits[part].names
    assert len(chosen) > 1 and {len(alphabets) for alphabets in chosen} == {2}
    again = omniglot(split="lake", root=str(small), alphabets=2, seed=5)
    assert again.fingerprint == data.fingerprint != lake(small).fingerprint
    with pytest.raises(ConfigError, match=r"data\.alphabets: has no effect with split maml"):
        omniglot(split="maml", root=str(small), alphabets=2)


def test_lakes_split_parts_the_background_by_alphabets(small: Path) -> None:
    data = lake(small)
    assert {name: len(split.names) for name, split in data.splits.items()} == {"train": 3, "val": 5, "test": 8}
    assert all(name.startswith("evaalphabet") for name in data.splits["test"].names)
    assert data.facts.groups == tuple(sorted(f"{part}alphabet{k}" for part in ("bac", "eva") for k in range(8)))
    alphabets = [{name.split("/")[0] for name in data.splits[part].names} for part in ("train", "val")]
    assert alphabets[0].isdisjoint(alphabets[1])


def test_episodes_within_alphabets_are_another_protocol(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = lake(small)
    monkeypatch.setattr(module, "_drawing", None)  # both are in one file of the cache
    data = omniglot(split="lake", root=str(small), within=True)
    assert (data.protocol, data.within) == ("lake, within alphabets", True)
    assert data.fingerprint == pooled.fingerprint
    with pytest.raises(ConfigError, match="the largest one of omniglot/test has 1 classes"):
        data.episodes("test", way=2, shot=1, query=1, seed=0)


@pytest.mark.medium
def test_drawings_are_ink_on_nothing_averaged_down(small: Path) -> None:
    items = omniglot(split="lake", root=str(small), size=105).splits["test"].items
    assert set(items.unique().tolist()) == {0, 255}
    assert float(items.float().mean()) / 255 == pytest.approx(0.1, abs=0.01)  # of the pixels are ink
    # 105 = 3 * 35: each pixel is the mean of 3 x 3
    third = omniglot(split="lake", root=str(small), size=35).splits["test"].items
    expected = torch.nn.functional.avg_pool2d(items.float(), 3)
    assert (third - expected).abs().max() <= 1


def test_the_preprocessing_makes_a_file_an_item(small: Path) -> None:
    data = omniglot(split="lake", root=str(small), size=20)
    with zipfile.ZipFile(small / "images_evaluation.zip") as archive:
        paper = Image.open(io.BytesIO(archive.read("images_evaluation/evaalphabet0/character01/0000_00.png")))
    steps = data.preprocessing
    assert (steps["channels"], steps["polarity"]) == (1, "ink 1 on 0")
    filters = {"box": Image.Resampling.BOX}
    image = ImageOps.invert(paper.convert("L")).resize(steps["size"][::-1], filters[steps["resampling"]])
    item = torch.from_numpy(np.array(image))[None] / steps["divide_by"]
    x, _ = next(data.all("test", "all", 10**6))
    assert data.splits["test"].names[0] == "evaalphabet0/character01"
    assert torch.equal(x[0], item)


def test_rotations_are_classes_of_their_own(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAML_CUTS", (8, 12))
    data = omniglot(split="maml", root=str(small))
    split = data.splits["train"]
    assert [len(part.names) for part in data.splits.values()] == [4 * 8, 4 * 4, 4 * 4]
    by_name = dict(zip(split.names, split.items.reshape(-1, 20, 28, 28), strict=True))
    for name in split.names:
        character, _, turn = name.partition("/rot")
        turned = torch.rot90(by_name[f"{character}/rot000"], int(turn) // 90, dims=(-2, -1))
        assert torch.equal(by_name[name], turned)


@pytest.mark.medium
def test_folders_serve_as_well_as_archives(small: Path) -> None:
    fingerprint = lake(small).fingerprint
    for name in SETS:
        with zipfile.ZipFile(small / f"{name}.zip") as archive:
            archive.extractall(small)
        (small / f"{name}.zip").unlink()
    shutil.rmtree(small.parent / "cache")
    assert lake(small).fingerprint == fingerprint


def test_the_mirror_serves_and_root_goes_before_it(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.rename(small.parent / "omniglot")
    monkeypatch.setenv("MLX_DATA_DIR", str(small.parent))
    omniglot(split="lake")
    message = refusal(small)
    assert f"data.root: {small} is not a folder" in message
    monkeypatch.setenv("MLX_DATA_DIR", str(small))
    assert "MLX_DATA_DIR names" in refusal(None)


def test_decodes_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = lake(small).fingerprint
    monkeypatch.setattr(module, "_drawing", None)
    assert lake(small).fingerprint == fingerprint


@pytest.mark.medium
def test_a_cache_does_not_hide_that_the_files_are_gone_or_broken(small: Path) -> None:
    lake(small)
    archive = small / "images_background.zip"
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert f"{archive} is damaged or cannot be read" in refusal(small)
    archive.unlink()
    message = refusal(small)
    assert f"{small} has neither images_background.zip nor a folder images_background" in message
    assert module.IMAGES in message and "data.root=FOLDER" in message  # how to get it


def fixed(root: Path) -> Dataset:
    return omniglot(split="lake_runs", root=str(root))


def item(content: bytes) -> torch.Tensor:
    return torch.tensor(module._small(module._drawing(content), 28))[None] / 255


@pytest.mark.medium
def test_lakes_runs_are_the_test_episodes(small: Path) -> None:
    (small / "images_evaluation.zip").unlink()  # the runs have their own drawings
    (small / "all_runs.zip").write_bytes(packed(runs()))
    data = fixed(small)
    assert (data.protocol, data.facts.groups[-1], len(data.splits["train"].names)) == ("lake_runs", "run20", 3)
    sampler = data.episodes("test", way=20, shot=1, query=1, seed=3)
    assert sampler.count == 20
    names = sampler.classes(20)
    for step, way in [(0, 0), (0, 19), (6, 4), (19, 13)]:
        run, episode = f"run{step + 1:02d}", sampler.batch(step, 1).map(lambda part: part[0])
        assert names[step][way] == f"{run}/class{way + 1:02d}"
        assert torch.equal(episode.support_x[way], item(runs()[f"{run}/training/class{way + 1:02d}.png"]))
        (asked,) = episode.query_x[episode.query_y == way]
        assert torch.equal(asked, item(runs()[f"{run}/test/item{20 - way:02d}.png"]))
        assert episode.support_y.tolist() == sorted(episode.query_y.tolist()) == list(range(20))
    assert data.episodes("test", 20, 1, 1, seed=4).hash(20) == sampler.hash(20)
    assert data.limits.items == 20  # of the splits for training


@pytest.fixture
def few_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take two runs of three characters for Lake's twenty."""
    monkeypatch.setattr(module, "RUNS", ["run01", "run02"])
    monkeypatch.setattr(module, "RUN", module.RUN._replace(way=3))
    (small / "all_runs.zip").write_bytes(packed(runs(2, 3)))
    return small


@pytest.mark.medium
def test_runs_may_be_in_a_folder_and_change_the_cache(few_runs: Path) -> None:
    fingerprint = fixed(few_runs).fingerprint
    (few_runs / "all_runs.zip").write_bytes(
        packed({f"all_runs/{name}": content for name, content in runs(2, 3).items()} | {"__MACOSX/x/._y": b""})
    )
    assert fixed(few_runs).fingerprint == fingerprint
    with zipfile.ZipFile(few_runs / "all_runs.zip") as archive:
        archive.extractall(few_runs)
    (few_runs / "all_runs.zip").unlink()
    assert fixed(few_runs).fingerprint == fingerprint
    (few_runs / "all_runs" / "run01" / "test" / "item01.png").write_bytes(png(1))
    assert fixed(few_runs).fingerprint != fingerprint


LABELS = "run01/class_labels.txt"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"run02/test/item03.png": None}, {"run02/test/item03.png": "is missing"}),
        ({LABELS: None}, {LABELS: "is missing"}),
        ({LABELS: b""}, {LABELS: "must name 3 different pairs of files"}),
        ({LABELS: b"\xff" * 9}, {LABELS: "must name 3 different pairs of files"}),
        ({LABELS: b"run01/test/item01.png run01/training/class01.png\n" * 3}, {LABELS: "must name 3 different pairs"}),
        (
            {LABELS: b"".join(b"run01/%d.png run01/../../../etc/%d.png\n" % (k, k) for k in range(3))},
            {f"run01/{name}{k}.png": "is missing" for name in ("", "../../../etc/") for k in range(3)},
        ),
        (
            {"run01/test/item01.png": png(0, side=28), "run02/training/class02.png": bytes(1 << 17)},
            {
                "run01/test/item01.png": "has 28x28 pixels, expected 105x105",
                "run02/training/class02.png": "is too large: it has more than 65536 bytes",
            },
        ),
    ],
)
def test_everything_wrong_with_the_runs_is_said(
    few_runs: Path, change: dict[str, bytes | None], wrong: dict[str, str]
) -> None:
    contents = {name: content for name, content in {**runs(2, 3), **change}.items() if content is not None}
    archive = few_runs / "all_runs.zip"
    archive.write_bytes(packed(contents))
    with pytest.raises(DataError, match=r"all_runs\.zip") as error:
        fixed(few_runs)
    found = {finding.where.removeprefix(f"{archive}: "): finding.what for finding in error.value.findings}
    assert found.keys() == wrong.keys()
    assert all(told in found[name] for name, told in wrong.items())


def test_runs_that_lead_out_of_the_archive_or_are_damaged_are_refused(few_runs: Path) -> None:
    archive = few_runs / "all_runs.zip"
    archive.write_bytes(packed({**runs(2, 3), "../run03/x.png": png(0)}))
    assert "has a name that leads out of the archive" in refusal(few_runs, "lake_runs")
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError) as error:
        fixed(few_runs)
    assert "is damaged or cannot be read" in error.value.findings[0].what


def test_runs_that_are_not_there_are_asked_for(small: Path) -> None:
    message = refusal(small, "lake_runs")
    assert (
        f"{small} has neither all_runs.zip nor a folder all_runs; put all_runs.zip from {module.RUNS_FROM}" in message
    )
    assert "the twenty runs are not downloaded" in refusal(None, "lake_runs")


def damaged_member(contents: dict[str, bytes]) -> dict[str, bytes]:
    name = sorted(contents)[25]
    return contents | {name: contents[name][:60]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged_member, r"images_evaluation\.zip: evaalphabet1/character01/0001_05\.png cannot be read as an image"),
        (lambda c: c | {sorted(c)[3]: png(0, side=28)}, r"0000_03\.png has 28x28 pixels, expected 105x105"),
        (lambda c: c | {sorted(c)[3]: bytes(1 << 17)}, r"0000_03\.png is too large for a drawing \(131072 bytes\)"),
        (lambda c: dict(sorted(c.items())[:140]), "is incomplete: it has 7 of 8 characters"),
        (lambda c: dict(sorted(c.items())[:159]), "evaalphabet7/character01 has 19 of 20 drawings"),
        (lambda c: {}, "is incomplete: it has 0 of 8 characters"),
        (lambda c: c | {sorted(c)[3]: png(77777)}, "does not hold the drawings that upstream published"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(
    small: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], said: str
) -> None:
    (small / "images_evaluation.zip").write_bytes(packed(change(members("images_evaluation", CHARACTERS))))
    with pytest.raises(UserError, match=said):
        lake(small)


def test_every_drawing_that_cannot_be_used_is_named(small: Path) -> None:
    for name in SETS:
        contents = members(name, CHARACTERS)
        wrong = sorted(contents)[3:150:30]
        (small / f"{name}.zip").write_bytes(packed(contents | dict.fromkeys(wrong, b"no image")))
    with pytest.raises(DataError) as error:
        lake(small)
    assert len(error.value.findings) == 10
    assert all(finding.what.startswith("cannot be read as an image") for finding in error.value.findings)
    assert len({finding.where for finding in error.value.findings}) == 10
    assert "and 7 more" in str(error.value)


def test_every_file_of_a_folder_that_cannot_be_used_is_named(small: Path) -> None:
    for name in SETS:
        with zipfile.ZipFile(small / f"{name}.zip") as archive:
            archive.extractall(small)
        (small / f"{name}.zip").unlink()
    files = sorted((small / SETS[1]).glob("*/*/*.png"))
    files[0].write_bytes(bytes(module.LARGEST + 1))
    files[1].unlink()
    os.mkfifo(files[1])
    files[2].unlink()
    files[2].mkdir()
    other = sorted((small / SETS[0]).glob("*/*/*.png"))[7]
    other.write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        lake(small)
    message = " ".join(f"{finding.where} {finding.what}" for finding in error.value.findings)
    assert f"{SETS[0]}: {other.relative_to(small / SETS[0])} cannot be read as an image" in message
    assert f"{files[0]} is too large: it has more than 65536 bytes" in message
    assert f"{files[1]} is not a file" in message
    assert f"{files[2]} is not a file" in message


def test_a_byte_that_flipped_is_said(small: Path) -> None:
    archive = small / "images_evaluation.zip"
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(bytes(content))
    assert "images_evaluation/evaalphabet0/character01/0000_00.png" in refusal(small)


def test_nothing_is_unpacked(small: Path) -> None:
    contents = members("images_evaluation", CHARACTERS) | {"images_evaluation/../../../evil/x/y.png": png(1)}
    (small / "images_evaluation.zip").write_bytes(packed(contents))
    refusal(small)
    assert not (small.parents[1] / "evil").exists()
    assert sorted(path.name for path in small.iterdir()) == [f"{name}.zip" for name in SETS]


def test_a_failed_download_says_what_to_put_where(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def retrieve(url: str, known_hash: str, **rest: object) -> str:
        asked.append((url, known_hash))
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    message = refusal(None)
    assert asked == [(f"{module.IMAGES}images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718")]
    assert f"could not be downloaded from {module.IMAGES}images_background.zip (no network)" in message
    assert "MLX_DATA_DIR=FOLDER" in message


def test_downloads_what_nobody_has(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooch, "retrieve", lambda url, known_hash, **rest: str(small / url.rpartition("/")[2]))
    omniglot(split="lake")


def test_a_download_is_for_everyone_whom_the_umask_lets_in(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pooch downloads into a temporary file, which is its user's alone."""
    archives = {name: (small / f"{name}.zip").read_bytes() for name in SETS}

    def fetched(self: object, url: str, file: str, cache: object) -> None:
        Path(file).write_bytes(archives[Path(url).stem])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fetched)
    monkeypatch.setattr(module, "CHECKSUMS", dict.fromkeys(module.CHECKSUMS))
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "shared"))
    monkeypatch.setattr(pooch.get_logger(), "disabled", True)
    before = os.umask(0o002)
    try:
        omniglot(split="lake")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
    assert len(files) == 3 and {path.stat().st_mode & 0o777 for path in files} == {0o664}


@pytest.mark.parametrize("content", [b"Angelic/character01/rot000\n", b"", b"\xff\xfe"])
def test_another_list_is_not_taken_for_the_vinyals_split(small: Path, content: bytes) -> None:
    (small / "splits" / "vinyals").mkdir(parents=True)
    (small / "splits" / "vinyals" / "train.txt").write_bytes(content)
    message = refusal(small, "vinyals")
    assert "train.txt" in message
    assert "not the list that upstream published" in message or "cannot be read" in message


def test_refuses_naming_the_argument() -> None:
    with pytest.raises(ConfigError) as refused:
        build({"_target_": "metalearn_cli.data.omniglot.omniglot", "split": "snell", "size": 106}, "data")
    assert [tuple(problem[:2]) for problem in refused.value.problems] == [
        ("data.split", "must be one of vinyals, maml, lake, lake_runs, got 'snell'"),
        ("data.size", "must be a whole number from 8 to 105, got 106"),
    ]


@pytest.mark.medium
def test_the_shuffle_follows_the_seed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAML_CUTS", (8, 12))
    first, again, other = (omniglot(split="maml", root=str(small), seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert set(first.splits["train"].names) != set(other.splits["train"].names)


@pytest.mark.slow
@real
@pytest.mark.parametrize(
    ("split", "classes", "fingerprint"),
    [
        ("vinyals", (4112, 688, 1692), "e756d90f9e44434a994a7e08be1e1dcbeb8565839ef5a8cc7787c064761a1811"),
        ("maml", (4400, 400, 1692), "db7044987e605f53c3c919790d4d28c20619cceadd5ff93b604622ec5cf36bf2"),
        ("lake", (813, 151, 659), "94e3ea17be6c27e6596ad5a20ba0e38127e09257306953aa06aec7daa47219d7"),
    ],
)
def test_the_published_splits(
    monkeypatch: pytest.MonkeyPatch, split: str, classes: tuple[int, ...], fingerprint: str
) -> None:
    monkeypatch.setenv("MLX_DATA_DIR", str(MIRROR))
    data = omniglot(split=split)  # type: ignore[arg-type]
    assert tuple(len(data.splits[part].names) for part in ("train", "val", "test")) == classes
    assert all(set(part.counts.tolist()) == {20} for part in data.splits.values())
    characters = [{name.partition("/rot")[0] for name in part.names} for part in data.splits.values()]
    assert len(set.union(*characters)) == sum(map(len, characters)) == 1623  # no character on two sides
    assert data.fingerprint == fingerprint  # results of other versions of the split do not compare

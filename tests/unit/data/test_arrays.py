from __future__ import annotations

import json
import zipfile
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy
from sources.arrays import fill

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.arrays import arrays
from metalearn_cli.data.common.arrays import mapped, npz, npz_names, treated
from metalearn_cli.data.table import table

LABELS = np.arange(20).repeat(2)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def saved(tmp_path: Path, x: Any, y: Any = LABELS, **more: Any) -> str:
    np.savez(tmp_path / "a.npz", x=x, y=y, **more)
    return str(tmp_path / "a.npz")


def random(*shape: int, dtype: Any = float) -> Any:
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), *shape)).astype(dtype)


def refusal(root: Any, **settings: Any) -> list[str]:
    with pytest.raises((DataError, ConfigError)) as refused:
        arrays(str(root), **settings)
    error = refused.value
    told = error.findings if isinstance(error, DataError) else error.problems
    return [" ".join(str(word) for word in found if word and word is not True) for found in told]


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "facts"),
    [
        ((6,), float, "auto", ("vector", (6,), "real")),
        ((3, 2), "int16", "vector", ("vector", (6,), "real")),
        ((6,), "float32", "audio", ("audio", (6,), "real")),
        ((2, 9), float, "auto", ("audio", (2, 9), "real")),
        ((8, 9), "uint8", "auto", ("image", (1, 8, 9), "unit")),
        ((8, 9), float, "image", ("image", (1, 8, 9), "real")),
        ((8, 9, 3), "uint8", "auto", ("image", (3, 8, 9), "unit")),
        ((3, 8, 9), "uint8", "auto", ("image", (3, 8, 9), "unit")),
        ((8, 9, 3), "float16", "auto", ("image", (3, 8, 9), "real")),
    ],
)
def test_what_an_item_is(tmp_path: Path, shape: tuple[int, ...], dtype: str, kind: Any, facts: Any) -> None:
    data = arrays(saved(tmp_path, random(*shape, dtype=dtype)), kind)
    assert (data.facts.kind, data.facts.shape, data.facts.values) == facts


def test_images_are_the_pixels_of_the_file(tmp_path: Path) -> None:
    x = random(8, 9, 3, dtype="uint8")
    data = arrays(saved(tmp_path, x))
    for split in data.splits.values():
        rows = [i for name in split.names for i in np.flatnonzero(LABELS == int(name))]
        np.testing.assert_array_equal(split.items, x[rows].transpose(0, 3, 1, 2))
    assert data.preprocessing == {"kind": "image", "channels_last": True, "divide_by": 255}


@pytest.mark.parametrize(
    ("shape", "kind", "axes"), [((6,), "vector", 0), ((2, 9), "audio", (0, 2)), ((6,), "audio", None)]
)
def test_numbers_are_standardised_by_the_training_classes(tmp_path: Path, shape: Any, kind: Any, axes: Any) -> None:
    x = random(*shape)
    x[..., -1] += 1000
    data = arrays(saved(tmp_path, x), kind)
    train = data.splits["train"].items
    assert isinstance(train, torch.Tensor)
    rows = [i for name in data.splits["train"].names for i in np.flatnonzero(LABELS == int(name))]
    own = x[rows]
    np.testing.assert_allclose(np.ravel(data.preprocessing["mean"]), np.ravel(own.mean(axes)))
    np.testing.assert_allclose(np.ravel(data.preprocessing["scale"]), np.ravel(own.std(axes)))
    np.testing.assert_allclose(train.numpy().std(axes), 1, rtol=1e-5)
    np.testing.assert_allclose(train.numpy().mean(axes), 0, atol=1e-4)
    plain = json.loads(json.dumps(data.preprocessing))
    np.testing.assert_array_equal(treated(x, rows, plain), train)  # plain values alone treat a new item so


def test_a_large_array_is_treated_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = arrays(str(fill(tmp_path / "v.npz", 6)))
    monkeypatch.setattr("metalearn_cli.data.common.arrays.AT_ONCE", 6 * 8 * 7)
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "other"))
    assert arrays(str(tmp_path / "v.npz")).splits["train"].items.allclose(whole.splits["train"].items)  # type: ignore[union-attr]


def test_constant_features_stay_finite(tmp_path: Path) -> None:
    x = random(3)
    x[:, 1] = 0.1
    assert arrays(saved(tmp_path, x)).splits["test"].items[:, 1].abs().max() < 1e-6  # type: ignore[call-overload]


def test_a_pair_of_files_and_folders_of_files_are_the_same(tmp_path: Path) -> None:
    x = random(6)
    whole = arrays(saved(tmp_path, x))
    pair, folders = tmp_path / "pair", tmp_path / "folders"
    pair.mkdir()
    np.save(pair / "features.npy", x)
    np.save(pair / "labels.npy", LABELS)
    for i, (item, label) in enumerate(zip(x, LABELS, strict=True)):
        (folders / str(label)).mkdir(parents=True, exist_ok=True)
        np.save(folders / str(label) / f"{i}.npy", item)
    assert isinstance(mapped(pair / "features.npy"), np.memmap)
    found = {arrays(str(root)).fingerprint for root in (pair, pair / "features.npy", folders)}
    assert found == {whole.fingerprint}


def test_the_file_that_is_named_has_the_items(tmp_path: Path) -> None:
    x = random(6)
    for name, array in {"features": x, "mine": x[:, :4], "labels": LABELS}.items():
        np.save(tmp_path / f"{name}.npy", array)
    # one after the other, because the cache must tell them apart
    found = [arrays(str(tmp_path / name)).facts.shape for name in ("mine.npy", "features.npy", "mine.npy", "")]
    assert found == [(4,), (6,), (4,), (6,)]


def test_given_splits_and_groups(tmp_path: Path) -> None:
    words = np.array([b"training", b"val", b"test"])[LABELS % 3]
    data = arrays(saved(tmp_path, random(4), split=words, own=LABELS // 7), column={"group": "own"})
    assert data.protocol == "as given"
    assert data.facts.groups == ("0", "1", "2")
    assert {int(name.split("/")[1]) % 3 for name in data.splits["val"].names} == {1}


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    return (
        npy.magic(1, 0)
        + b"\x76\x00"
        + f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(118)
    )


def test_hostile_files_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], object), allow_pickle=True)
    (tmp_path / "declared.npy").write_bytes(header((2**28,)) + b"\0" * 8)
    (tmp_path / "fields.npy").write_bytes(header((3,), "|V8") + b"\0" * 24)
    (tmp_path / "no.npy").write_bytes(b"no array")
    (tmp_path / "empty.npy").write_bytes(header((2**33,), "<U0"))
    (tmp_path / "axis.npy").write_bytes(header((2**33, 0)))
    told = {}
    for file in tmp_path.glob("*.npy"):
        with pytest.raises(DataError) as refused:
            mapped(file)
        told[file.stem] = refused.value.findings[0].what
    assert told == {
        "objects": "holds Python objects (a pickle), which are not read; save it as numbers or text",
        "declared": "is cut short: it declares 2147483648 bytes of float64 [268435456] and holds 8",
        "fields": "holds |V8; arrays of truth values, whole numbers, numbers, text, bytes are read",
        "no": told["no"],
        "empty": "holds text without letters (<U0) of shape [8589934592]; save it with its letters",
        "axis": "has the shape [8589934592, 0]: it holds no values",
    }
    assert told["no"].startswith("cannot be read as an array (")


def test_a_bad_member_of_an_npz_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "o.npz", x=np.zeros(2), y=np.array([None, "a"], object))
    with pytest.raises(DataError) as refused:
        npz(tmp_path / "o.npz", ["x", "y"])
    assert [f.where for f in refused.value.findings] == [f"{tmp_path}/o.npz, y"]
    (tmp_path / "cut.npz").write_bytes((tmp_path / "o.npz").read_bytes()[:200])
    with pytest.raises(DataError, match=r"is damaged or no \.npz file"):
        npz_names(tmp_path / "cut.npz")
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(10**5))
    assert npz(tmp_path / "bomb.npz", ["x"])["x"].shape == (10**5,)
    monkeypatch.setattr("metalearn_cli.data.common.arrays.LARGE", 1 << 16)
    with pytest.raises(DataError, match=r"is too large: 800128 bytes packed in \d+; save it as \.npy"):
        npz(tmp_path / "bomb.npz", ["x"])


def test_the_arrays_of_an_npz_file_have_a_size_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalearn_cli.data.common.arrays.MOST_BYTES", 10**6)
    np.savez_compressed(tmp_path / "bomb.npz", **{f"x{k}": np.zeros(20_000) for k in range(8)})
    with pytest.raises(DataError, match=r"is too large: its arrays declare 1281024 bytes together") as refused:
        npz(tmp_path / "bomb.npz", npz_names(tmp_path / "bomb.npz"))
    assert [f.where for f in refused.value.findings] == [f"{tmp_path}/bomb.npz"]
    np.savez(tmp_path / "plain.npz", x=np.zeros(200_000))  # has these bytes itself
    assert npz(tmp_path / "plain.npz", ["x"])["x"].shape == (200_000,)


def test_arrays_without_a_role_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalearn_cli.data.common.arrays.MOST_BYTES", 10**5)
    x, notes = random(4), np.array([None, "of the author"], object)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=LABELS, notes=notes, more=np.zeros(10**6))
    pair = tmp_path / "pair"
    pair.mkdir()
    for name, array in {"x": x, "y": LABELS, "notes": notes}.items():
        np.save(pair / f"{name}.npy", array)
    for root in (tmp_path / "a.npz", pair):
        assert arrays(str(root)).facts.shape == (4,)
        assert "notes holds Python objects" in refusal(root, column={"x": "notes"})[0].replace(".npy", "")


def test_arrays_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 2)), label=np.arange(12))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        twin = copy(archive.filelist[0])
        twin.filename = "y.npy"
        archive.filelist.append(twin)
        archive.writestr("z", b"")  # so that the list is written again
    (told,) = refusal(tmp_path / "a.npz")
    assert told == f"{tmp_path}/a.npz is damaged or no .npz file (its files overlap; pack them again)"


def test_wrong_arrays_are_told(tmp_path: Path) -> None:
    x = random(4)
    assert refusal(saved(tmp_path, x, LABELS[:-1])) == [
        f"{tmp_path}/a.npz, y has the shape [39]; a label for each item has the shape [40]"
    ]
    assert "a label for each item has the shape [40]" in refusal(saved(tmp_path, x, np.eye(40)))[0]
    assert "has <U1 of shape [40]; items are numbers [items, ...]" in refusal(saved(tmp_path, np.array(["a"] * 40)))[0]
    assert "has float64 of shape []; items are numbers" in refusal(saved(tmp_path, np.array(1.0)))[0]
    assert "has the label 0.5, which is a number and no class" in refusal(saved(tmp_path, x, LABELS + 0.5))[0]
    row = 2 * int(arrays(saved(tmp_path, x, LABELS)).splits["train"].names[0])
    x[row, 1] = np.nan
    assert refusal(saved(tmp_path, x, LABELS)) == [f"item {row + 1} has values that are NaN or infinite"]
    (told,) = refusal(saved(tmp_path, x, LABELS), kind="image")
    assert "data.kind image does not fit items of shape [4]; there are vector [D], audio [L]" in told
    (told,) = refusal(saved(tmp_path, x, LABELS), column={"x": "z"})
    assert "has no column 'z'; it has x, y" in told


def test_numbers_too_large_to_be_standardised_are_refused(tmp_path: Path) -> None:
    x = random(3)
    x[:, 1] *= 1e200
    told = "has numbers beyond 1e+100, which cannot be standardised; divide them"
    assert refusal(saved(tmp_path, x)) == [f"column 2 {told}"]
    with pytest.raises(DataError, match=r"column b has numbers beyond 1e\+100, .* divide them, or data\.ignore=\[b\]"):
        np.savez(tmp_path / "t.npz", a=x[:, 0], b=x[:, 1], label=LABELS)
        table(str(tmp_path / "t.npz"))


def test_items_of_different_shapes_are_told_by_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "c" / name).mkdir(parents=True)
        np.save(tmp_path / "c" / name / "1.npy", np.zeros(3))
    np.save(tmp_path / "c" / "b" / "1.npy", np.zeros(4))
    assert refusal(tmp_path / "c") == ["b/1.npy has float64 of shape [4]; a/1.npy has float64 of shape [3]"]


@pytest.mark.parametrize("loader", [arrays, table])
def test_bytes_that_are_no_utf_8_are_refused(tmp_path, loader):
    y = np.array([name.encode("latin-1") for name in ("caf\xe9", "caf\xe8", "a", "b", "c", "d")]).repeat(5)
    x = np.random.default_rng(0).normal(size=(30, 2))
    parts = {"x": x} if loader is arrays else {"u": x[:, 0], "v": x[:, 1]}
    np.savez(tmp_path / "a.npz", **parts, label=y)
    with pytest.raises(DataError, match="bytes that are not UTF-8 text"):
        loader(str(tmp_path / "a.npz"))

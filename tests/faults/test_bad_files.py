"""Data files and checkpoints that are damaged, in bulk: each is refused in words, and leaves nothing behind.

`MLX_FAULTS=2000` sets the sum of what is generated here: a quarter of it are data files, a quarter manifests.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from drawings import SETS, members, packed, png, publish
from faults.generating import generated
from hypothesis import given
from hypothesis import strategies as st

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse
from metalearn_cli.records.checkpoint import FORMAT, sealed

CHARACTERS = 6  # of each small set
QUICK = 5
COUNT = int(os.environ.get("MLX_FAULTS", "0"))

Mlx = Callable[..., Any]


def refused(mlx: Mlx, folder: Path, *words: str) -> str:
    code, out, err = mlx(*words)
    assert code == 2, f"exit {code} of mlx {' '.join(words)}\n{out}\n{err}"
    assert "Traceback" not in out + err and "crashed" not in err
    assert err.startswith("error: ") and out == ""
    assert not (folder / "new").exists()
    return str(err)


@cache
def archive(name: str) -> bytes:
    return packed(members(name, CHARACTERS), zipfile.ZIP_DEFLATED)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small archives in Omniglot's layout, taken for the published ones."""
    publish(CHARACTERS, tmp_path, monkeypatch)
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


BAD_IMAGES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda seed, at: png(seed)[:at], st.integers(0, 99), st.integers(0, 300)),
    st.builds(png, st.integers(10_000, 99_999), st.sampled_from([104, 106, 1, 28, 400])),
    st.builds(lambda seed: png(seed), st.integers(10_000, 99_999)),  # another drawing
    st.just(b""),
)


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a kind of damage and an archive that has it."""
    kind = draw(st.sampled_from(["cut", "flipped", "image", "missing", "more", "renamed", "junk", "overwritten"]))
    whole, name = archive(SETS[1]), SETS[1]
    at = draw(st.integers(0, len(whole) - 1))
    contents = dict(members(name, CHARACTERS))
    chosen = draw(st.sampled_from(sorted(contents)))
    if kind == "cut":
        return kind, whole[:at]
    if kind == "flipped":
        return kind, whole[:at] + bytes([whole[at] ^ draw(st.integers(1, 255))]) + whole[at + 1 :]
    if kind == "junk":
        return kind, draw(st.binary(max_size=300))
    if kind == "overwritten":
        length = draw(st.integers(8, 4096))
        return kind, whole[:at] + bytes(length) + whole[at + length :]
    if kind == "image":
        contents[chosen] = draw(BAD_IMAGES)
    elif kind == "missing":
        del contents[chosen]
    elif kind == "more":
        folder = draw(st.sampled_from(["eva", "../x", "/", "C:"]))
        contents[f"{name}/{folder}/character09/0.png"] = draw(BAD_IMAGES)
    else:
        to = draw(st.sampled_from(["..", "a/b", "x", "\x1b[2J", "\u00e9"]))
        contents[f"{name}/{to}/character01/0.png"] = contents.pop(chosen)
    return kind, packed(contents)


def _bad_data(mlx: Mlx, folder: Path, root: Path, count: int) -> None:
    """Refuse `count` archives; a flipped bit that leaves every pixel as it was, in a date say, is no damage."""
    kinds: Counter[str] = Counter()
    intact = json.loads(_checked(mlx, root, archive(SETS[1])).out)["data"]["fingerprint"]

    @generated(4 * count)
    @given(damage())
    def one(drawn: tuple[str, bytes]) -> None:
        kind, content = drawn
        if kinds.total() - kinds["harmless"] >= count:
            return
        (root / "images_evaluation.zip").write_bytes(content)
        if kind in ("flipped", "overwritten", "cut"):
            answer = _checked(mlx, root, content)
            found = json.loads(answer.out)
            if found["data"]:  # it could be read
                assert found["data"]["fingerprint"] == intact
                kinds["harmless"] += 1
                return
        words = ("data=omniglot", "data.split=lake", "data.root=root", "runs_dir=new")
        assert "images_evaluation.zip" in refused(mlx, folder, "pretrain", *words)
        kinds[kind] += 1

    one()
    harmless = kinds.pop("harmless", 0)
    assert kinds.total() == count
    print(f"\n{count} bad data files: 0 tracebacks, 0 run folders, exit 2 each; {dict(kinds)}; {harmless} harmless")


def _checked(mlx: Mlx, root: Path, content: bytes) -> Any:
    (root / "images_background.zip").write_bytes(archive(SETS[0]))
    (root / "images_evaluation.zip").write_bytes(content)
    shutil.rmtree(root.parent / "cache", ignore_errors=True)
    return mlx("--json", "data", "check", "data=omniglot", "data.split=lake", "data.root=root", "way=2", "query=1")


@pytest.fixture
def checkpoint(settings: Callable[..., dict[str, Any]], said: Any) -> Path:
    """Return a checkpoint's folder."""
    run = stages.run("meta-train", parse(STAGES["meta-train"], settings("meta-train", steps=2)), said)
    return Path(run["checkpoint"])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
FORMS = {
    # key of a manifest: the JSON types that it may have; whatever is drawn is of another one
    "format": (),
    "run": (str,),
    "stage": (),
    "step": (int,),
    "metrics": (dict,),
    "model": (dict,),
    "data": (dict,),
    "signature": (dict,),
    "files": (),
    "model.backbone": (dict, type(None)),
    "model.shape": (list,),
    "model.algorithm": (dict, type(None)),
    "model.backbone._target_": (),
    "model.backbone.hidden": (int,),
    "data.spec": (dict, type(None)),
    "data.spec._target_": (),
    "data.spec.items": (int,),
    "files.model.safetensors": (),
}


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str, Any]:
    """Return a key of a manifest and what must not stand there; "" stands for the text of the whole file."""
    key = draw(st.sampled_from(["", *FORMS]))
    if not key:
        return key, draw(st.one_of(st.binary(max_size=80), JSON.map(lambda v: json.dumps(v).encode())))
    wrong = JSON.filter(lambda v: not isinstance(v, FORMS[key] or ()) and v != FORMAT)
    return key, draw(wrong)


def _bad_manifests(mlx: Mlx, folder: Path, checkpoint: Path, count: int) -> None:
    kinds: Counter[str] = Counter()
    path = checkpoint / "manifest.json"
    good = path.read_text()

    @generated(count)
    @given(manifests())
    def one(drawn: tuple[str, Any]) -> None:
        key, wrong = drawn
        value = json.loads(good)
        del value["sha256"]
        if key:
            *groups, name = ["files", "model.safetensors"] if key.startswith("files.") else key.split(".")
            part = value
            for group in groups:
                part = part[group]
            part[name] = wrong
            path.write_bytes(sealed(value))  # as a stranger can do it too
        else:
            path.write_bytes(wrong)
        refused(mlx, folder, "evaluate", f"ckpt={checkpoint}", "way=2", "query=2", "episodes=2", "runs_dir=new")
        kinds[key or "the whole file"] += 1

    one()
    print(f"\n{kinds.total()} bad manifests: 0 tracebacks, 0 run folders, exit 2 each; {dict(kinds)}")


@pytest.mark.medium
def test_bad_data(mlx: Mlx, tmp_path: Path, root: Path) -> None:
    _bad_data(mlx, tmp_path, root, QUICK)


@pytest.mark.medium
def test_bad_manifests(mlx: Mlx, tmp_path: Path, checkpoint: Path) -> None:
    _bad_manifests(mlx, tmp_path, checkpoint, QUICK)


@pytest.mark.slow
def test_many_bad_data(mlx: Mlx, tmp_path: Path, root: Path) -> None:
    _bad_data(mlx, tmp_path, root, (COUNT or 400) // 4)


@pytest.mark.slow
def test_many_bad_manifests(mlx: Mlx, tmp_path: Path, checkpoint: Path) -> None:
    _bad_manifests(mlx, tmp_path, checkpoint, (COUNT or 400) // 4)

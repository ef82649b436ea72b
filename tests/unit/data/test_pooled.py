from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image
from sources import arrays, images

from metalearn_cli.core.build import build, problems_of
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.data.common.splits import names_of_items

ARRAYS, IMAGES = "metalearn_cli.data.arrays.arrays", "metalearn_cli.data.images.images"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    roots = [arrays.fill(tmp_path / f"{k}.npz", 4, classes=12, items=3, seed=k) for k in range(2)]
    return {name: {"_target_": ARRAYS, "root": str(root)} for name, root in zip("ab", roots, strict=True)}


def pooled(parts: dict[str, Any], **settings: Any) -> Any:
    return build({"_target_": "metalearn_cli.data.pooled.pooled", "parts": parts, **settings}, "data")


def refusal(parts: dict[str, Any], **settings: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        pooled(parts, **settings)
    return {problem.key: problem.message for problem in refused.value.problems}


def test_each_class_stays_in_its_split_under_the_name_of_its_data(parts: Any) -> None:
    data = pooled(parts)
    for split, own in data.splits.items():
        single = [build(parts[name], "data").splits[split] for name in "ab"]
        assert own.names == tuple(f"{part}/{name}" for part, s in zip("ab", single, strict=True) for name in s.names)
        assert torch.equal(own.items, torch.cat([s.items for s in single]))
        assert own.counts.tolist() == [3] * len(own.names)
    assert data.facts.groups == ("a", "b")
    assert data.preprocessing["parts"].keys() == {"a", "b"}  # each was standardised by its own numbers
    assert pooled(parts).fingerprint == data.fingerprint


def test_what_its_numbers_mean_and_which_groups_meet(tmp_path: Path, parts: Any) -> None:
    assert not any("same groups" in finding.what for finding in pooled(parts).findings)
    roots = []
    for names in ("size,mass", "size,age"):
        rows = [f"{'abcdef'[i % 6]}{i % 2},{i * i % 7},{i * i % 5},{i % 2}" for i in range(36)]
        roots.append(tmp_path / f"{names}.csv")
        roots[-1].write_text("\n".join([f"label,{names},group", *rows]))
    table = "metalearn_cli.data.table.table"
    both = {name: {"_target_": table, "root": str(root)} for name, root in zip("ab", roots, strict=True)}
    told = [finding for finding in pooled(both).findings if finding.where == "data.parts.b"]
    assert [f.what for f in told] == ["has other columns than a: their numbers mean different things"]
    for own in both.values():
        own |= {"split": "classes", "column": {"group": "group"}}
    assert {f.where for f in pooled(both).findings if "same groups" in f.what} >= {"a, train and val"}


def test_files_that_were_renamed_and_findings_that_changed_are_told_anew(tmp_path: Path) -> None:
    both = {}
    for k, name in enumerate("ab"):
        root = tmp_path / name
        for label, i in product("uvwxyz", range(2)):
            (root / label).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(1000 * k + 10 * ord(label) + i).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
        both[name] = {"_target_": IMAGES, "root": str(root), "size": 8}
    before = pooled(both)
    assert before.findings == ()
    (tmp_path / "a" / "u" / "1.png").rename(tmp_path / "a" / "u" / "new.png")
    (tmp_path / "b" / "U").mkdir()
    (tmp_path / "b" / "U" / "1.png").write_bytes((tmp_path / "b" / "u" / "1.png").read_bytes())
    after = pooled(both)
    assert after.fingerprint == before.fingerprint
    assert [finding.where for finding in after.findings] == ["b, data.min_items"]
    places = [place for split in after.splits.values() for place in names_of_items(split)]
    assert "a: u/new.png" in places and "a: u/1.png" not in places


def test_another_domain_for_the_test(parts: Any) -> None:
    data = pooled(parts, train=["a"], test=["b"])
    groups = {split: {name[0] for name in own.names} for split, own in data.splits.items()}
    assert groups == {"train": {"a"}, "val": {"a"}, "test": {"b"}}
    assert data.protocol == "a: classes, seed 0; b: classes, seed 0; train of a, val of a, test of b"


def test_folds_are_those_of_all_parts_together(parts: Any) -> None:
    parts["a"]["fold"] = "1/3"
    assert refusal(parts) == {"data.parts.a.fold": ANY}
    parts["a"]["fold"] = None
    with pytest.raises(ConfigError, match="pooled has 2 groups, so that 2 folds are the most; got 3"):
        pooled(parts).fold(1, 3)


def test_episodes_within_one_data_set(parts: Any) -> None:
    for names in pooled(parts, within=True).episodes("test", way=2, shot=1, query=1, seed=0).classes(9):
        assert len({name[0] for name in names}) == 1


def test_what_does_not_go_together_is_told_with_the_cure(tmp_path: Path, parts: Any) -> None:
    for name in "cd":
        images.fill(tmp_path / name, 12, 2)
        parts[name] = {"_target_": IMAGES, "root": str(tmp_path / name), "size": 8, "channels": 1}
    told = refusal({name: parts[name] for name in "ac"})
    assert told == {
        "data.parts.c": "items of a are vector (real) of shape [4], those of c image (unit) of shape [1, 8, 8]; "
        "pool data of one kind"
    }
    parts["d"] |= {"size": 9, "channels": 3}
    told = refusal({name: parts[name] for name in "cd"})
    assert told["data.parts.d"].endswith("make them equal: data.parts.d.size=8 data.parts.d.channels=1")
    wave = {"_target_": "metalearn_cli.data.sinusoid.sinusoid"}
    assert refusal({"w": wave, "z": wave}) == {
        "data.parts.w": "has no stored items; it cannot be pooled",
        "data.parts.z": "has no stored items; it cannot be pooled",
    }


def test_wrong_settings_are_told_at_once(parts: Any) -> None:
    assert refusal({}) == {
        "data.parts": "has 0 data sets; choose two or more: data@data.parts.NAME=CHOICE data.parts.NAME.root=PATH"
    }
    assert refusal(parts, train=["c"], test=[]) == {
        "data.train": "'c' is no part; there are a, b",
        "data.test": "names no part; null stands for all",
    }
    parts["b"]["root"] = "nowhere"
    assert "there is no nowhere" in refusal(parts)["data.parts.b.root"]


@pytest.mark.parametrize(
    "target", ["os.system", "metalearn_cli.backbones.mlp.Mlp", "metalearn_cli.data.common.rows.named"]
)
def test_parts_are_data_sets_and_nothing_else(parts: Any, target: str) -> None:
    spec = {"_target_": "metalearn_cli.data.pooled.pooled", "parts": {**parts, "x": {"_target_": target}}}
    (problem,) = problems_of(spec, "data")
    assert problem.key == "data.parts.x._target_"
    assert "may not be built" in problem.message
    with pytest.raises(ConfigError, match=r"data\.parts\.x\._target_"):
        build(spec, "data")
    assert "of what data=NAME chooses" in refusal({**parts, "x": {"command": "true"}})["data.parts.x"]


def test_settings_of_parts_are_checked_before_anything_is_built(parts: Any) -> None:
    parts["a"] |= {"kynd": "vector", "seed": -1}
    parts["b"] = {"root": "anywhere"}
    found = problems_of({"_target_": "metalearn_cli.data.pooled.pooled", "parts": parts}, "data")
    assert [(p.key, p.hint) for p in found] == [
        ("data.parts.a.kynd", "kind"),
        ("data.parts.a.seed", ""),
        ("data.parts.b", ""),
    ]

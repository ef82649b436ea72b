"""What every data set must be: disjoint, deterministic, in its range, and a source of episodes.

The data sets are found by listing configs/data, so that a new one is tested by being there.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import sources
import torch
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.core.build import build, problems_of
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.core.items import Kind, size
from metalearn_cli.core.types import Dataset
from metalearn_cli.data.common.splits import group_of, parts_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "data"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MIRROR = Path(os.environ.get("MLX_DATA_DIR") or ROOT.parent / "shared" / "data").resolve()
NEEDS = {"omniglot": MIRROR / "omniglot" / "images_background.zip"}
SPLITS = ("train", "val", "test")
TASKS, SHOT, QUERY = 3, 1, 15


SOURCES = tempfile.TemporaryDirectory()
"""The files of data sets that read them; removed at the end of the process."""


@cache
def source(name: str) -> dict[str, Any]:
    """Return the settings that let a data set read its small source."""
    return sources.written(name, Path(SOURCES.name, name)) if sources.has(name) else {}


def load(name: str) -> dict[str, Any]:
    settings = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    return {**settings, **source(name)}  # type: ignore[dict-item]


def make(name: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DATA_DIR", str(MIRROR))
        return build(load(name), "data")


made = cache(make)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in NEEDS else name for name in NAMES])
def name(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS and not NEEDS[request.param].is_file():
        pytest.skip(f"needs {NEEDS[request.param].name} in $MLX_DATA_DIR/{request.param} or ../shared/data")
    return request.param


@pytest.fixture
def data(name: str) -> Any:
    return made(name)


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    return request.param


def test_has_what_every_data_set_has(data: Any) -> None:
    assert [attribute for attribute in Dataset.__annotations__ if not hasattr(data, attribute)] == []
    assert data.limits.way >= 1


def way_of(data: Any) -> int:
    return 1 if data.facts.regression else 5


def sampler_of(data: Any, split: str, seed: int = 0) -> Any:
    return data.episodes(split, way=way_of(data), shot=SHOT, query=QUERY, seed=seed)


def of_part(told: Any, name: str) -> Any:
    """Return what facts say of a part of an item; of an item that is no dict, the only part has the name ""."""
    return told.get(name, 0) if isinstance(told, dict) else told


def check_items(data: Any, x: Any, *leading: int) -> None:
    facts = data.facts
    for name, part in parts_of(x).items():
        assert part.shape == (*leading, *of_part(facts.shape, name))
        check_range(of_part(facts.values, name), of_part(facts.vocabulary, name), part)


def check_range(values: str, vocabulary: int, x: Tensor) -> None:
    if values == "ids":
        assert x.dtype == torch.int64
        assert 0 <= x.min() and x.max() < vocabulary
        assert (x != 0).any(-1).all()  # padding alone is no item
        return
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    if values == "unit":
        assert x.min() >= 0 and x.max() <= 1
        assert x.max() > 0.5  # not scaled twice
    else:
        assert values == "real"
        assert x.min() < -0.5 and x.max() > 0.5


def flat(x: Any, leading: int) -> Tensor:
    """Return items with all their numbers in one dimension, after the leading ones."""
    return torch.cat([part.flatten(leading).double() for part in parts_of(x).values()], -1)


def test_its_config_is_free_of_problems(name: str) -> None:
    assert problems_of(load(name), "data") == []


def test_says_what_it_is(name: str, data: Any) -> None:
    assert data.name == name
    assert data.protocol
    assert len(data.fingerprint) == 64
    assert data.to("cpu").fingerprint == data.fingerprint
    assert data.facts.kind in get_args(Kind)
    assert json.loads(json.dumps(data.preprocessing)) == data.preprocessing
    assert not any(finding.blocks for finding in data.findings)


def test_facts_are_of_classes_or_of_targets(data: Any) -> None:
    facts = data.facts
    if data.facts.regression:
        assert (facts.classes, facts.groups) == (0, ())
        assert sampler_of(data, "train").batch(0, 1).query_y.shape[-1] == facts.outputs > 0
    else:
        assert (facts.classes, facts.outputs) == (len(data.splits["train"].names), 0)
        names = {name for split in data.splits.values() for name in split.names}
        assert {group_of(name) for name in names} == set(facts.groups or ("",))


def test_is_a_function_of_its_settings(name: str, data: Any) -> None:
    assert make(name).fingerprint == data.fingerprint


def test_splits_share_no_class(data: Any) -> None:
    names = [name for split in data.splits.values() for name in split.names]
    assert len(set(names)) == len(names)
    if not data.facts.regression:
        assert tuple(data.splits) == SPLITS


def test_episodes_have_the_promised_shapes_labels_and_range(data: Any, split: str) -> None:
    way = way_of(data)
    sampler = sampler_of(data, split)
    assert (sampler.way, sampler.regression) == (way, data.facts.regression)
    episodes = sampler.batch(0, TASKS)
    check_items(data, episodes.query_x, TASKS, way * QUERY)
    assert {len(part[0]) for part in parts_of(episodes.support_x).values()} == {way * SHOT}
    for y, per_class in ((episodes.support_y, SHOT), (episodes.query_y, QUERY)):
        if data.facts.regression:
            assert y.shape == (TASKS, per_class, 1)
            assert y.dtype == torch.float32
        else:
            assert y.dtype == torch.int64
            assert all(task.bincount(minlength=way).tolist() == [per_class] * way for task in y)


def test_the_order_of_queries_says_nothing_of_their_classes(data: Any, split: str) -> None:
    if data.facts.regression:
        pytest.skip("tasks without classes")
    sampler = sampler_of(data, split)
    right = torch.stack([sampler.batch(step, 1).query_y[0] for step in range(100)])
    way = way_of(data)
    by_position = torch.arange(way * QUERY) // QUERY
    assert abs((right == by_position).float().mean().item() - 1 / way) < 0.05


def test_classes_of_episodes_are_named(data: Any, split: str) -> None:
    sampler = sampler_of(data, split)
    names = sampler.classes(7)
    assert len(names) == 7
    if data.facts.regression:
        assert names == [()] * 7
    else:
        assert all(len(set(episode)) == way_of(data) for episode in names)
        assert set().union(*names) <= set(data.splits[split].names)


def test_support_and_query_share_no_item(data: Any, split: str) -> None:
    episodes = sampler_of(data, split).batch(1, TASKS)
    for items in torch.cat([flat(episodes.support_x, 2), flat(episodes.query_x, 2)], 1):
        assert len(torch.unique(items, dim=0)) == len(items)


def test_episodes_are_a_function_of_seed_split_and_step(data: Any, split: str) -> None:
    def query(data: Any = data, split: str = split, seed: int = 0, step: int = 7) -> Tensor:
        return flat(sampler_of(data, split, seed).batch(step, 2).query_x, 2)

    first = query()
    torch.rand(1)
    assert torch.equal(first, query())
    assert not torch.equal(first, query(seed=1))
    assert not torch.equal(first, query(step=8))
    assert not torch.equal(first, query(split=SPLITS[SPLITS.index(split) - 1]))


def test_the_hash_is_of_the_episodes(data: Any) -> None:
    hashes = [sampler_of(data, split, seed).hash(9) for split in SPLITS for seed in (0, 1)]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == sampler_of(data, "train").hash(9) != sampler_of(data, "train").hash(10)


def test_impossible_episodes_are_refused(data: Any, split: str) -> None:
    for wrong in ({"way": 10**6}, {"way": 0}, {"shot": 0}, {"query": 0}):
        with pytest.raises(ConfigError) as error:
            data.episodes(split, **{"way": way_of(data), "shot": SHOT, "query": QUERY, "seed": 0} | wrong)
        assert [problem.key for problem in error.value.problems] == list(wrong)
    with pytest.raises(UserError, match="no split"):
        data.episodes("nonsense", way_of(data), SHOT, QUERY, 0)


def test_batches_and_held_out_items(data: Any, split: str) -> None:
    if data.facts.regression:
        pytest.skip("regression tasks are made on the spot: no items, no classes")
    classes = len(data.splits[split].names)
    for part in ("all", "fit", "held_out"):
        x, y = data.batch(split, part, 40, seed=0, step=0)
        check_items(data, x, 40)
        assert y.dtype == torch.int64
        assert 0 <= y.min() and y.max() < classes
    x, y = next(data.all(split, "held_out", 10**6))
    assert size(x) == len(y)
    assert y.unique().tolist() == list(range(classes))
    assert size(x) <= size(data.splits[split].items) / 4

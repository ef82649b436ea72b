"""What is wrong with a data set: each kind of fault is put in and has to be told, with its class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import Finding
from metalearn_cli.core.items import Items
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.findings import episode_findings, findings_of, near_copies
from metalearn_cli.data.common.splits import SPLITS, Split, packed
from metalearn_cli.data.sinusoid import sinusoid

COUNT, FEATURES = 6, 5


def items(seed: int, classes: int = 3) -> Tensor:
    return torch.randn(classes * COUNT, FEATURES, generator=torch.Generator().manual_seed(seed))


def splits(**changes: Items) -> dict[str, Split]:
    """Three splits of three classes of six vectors; `changes` gives a split other ones."""
    parts = {name: changes.get(name, items(seed)) for seed, name in enumerate(SPLITS)}
    return {name: Split(x, torch.full((3,), COUNT), tuple(f"{name}{k}" for k in range(3))) for name, x in parts.items()}


def dataset(**changes: Items) -> Dataset:
    return Dataset.of("toy", "by hand", splits(**changes), "vector")


def test_nothing_is_wrong_with_good_data() -> None:
    assert findings_of(splits()) == []
    assert dataset().findings == sinusoid().findings == ()
    assert episode_findings(dataset(), way=3, shot=2, query=4) == []
    assert episode_findings(sinusoid(), way=1, shot=2, query=4) == []


def test_fixed_episodes_are_checked_with_their_numbers() -> None:
    data = replace(dataset(), fixed={"test": EpisodeShape(way=3, shot=2, query=4)})
    assert episode_findings(data, way=2, shot=1, query=1) == []
    assert {f.where.partition(":")[0] for f in episode_findings(data, way=2, shot=1, query=9)} == {"train", "val"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(value: float) -> None:
    x = items(7)
    x[COUNT, 2] = x[COUNT + 1, 0] = value
    expected = Finding(True, "val: val1", "has 2 items with values that are not finite (NaN or infinite)")
    assert findings_of(splits(val=x)) == [expected._replace(items=("val1 #1", "val1 #2"))]
    told = episode_findings(dataset(val=torch.full_like(x, value)), way=2, shot=1, query=1)
    assert {(f.blocks, f.where) for f in told} == {(True, "val")}


def test_targets_that_are_no_numbers() -> None:
    y = torch.zeros(18, 2)
    y[COUNT, 1] = float("nan")
    y[0, 0] = -1e9
    good = {name: replace(split, targets=split.items[:, :2].clone()) for name, split in splits().items()}
    assert findings_of(good) == []
    assert findings_of({**good, "val": replace(good["val"], targets=y)}) == [
        Finding(True, "val: val1", "has 1 target with values that are not finite (NaN or infinite)", ("val1 #1",)),
        Finding(False, "val: val0", "has 1 target with values beyond 1e+06; standardise them", ("val0 #1",)),
    ]


def test_the_same_items_with_other_targets_are_no_copies() -> None:
    x = items(7)
    same = {name: replace(split, targets=torch.ones(18, 1)) for name, split in splits(val=x, test=x).items()}
    assert {f.what.partition(":")[0] for f in findings_of(same)} == {"leaks into another split"}
    assert findings_of({**same, "val": replace(same["val"], targets=torch.zeros(18, 1))}) == []


def test_values_that_are_too_large_are_told_and_do_not_block() -> None:
    x = items(7)
    x[0, 0] = 1e7
    (finding,) = findings_of(splits(val=x))
    assert not finding.blocks
    assert finding.what == "has 1 item with values beyond 1e+06; standardise them"


def test_a_class_renamed_and_put_into_another_split_blocks() -> None:
    x = items(7)
    x[2 * COUNT :] = splits()["train"].items[:COUNT].flip(0)
    (finding,) = findings_of(splits(test=x))
    assert (finding.blocks, finding.where) == (True, "test: test2")
    assert finding.what == "leaks into another split: 6 of its items are those of train: train0"


def test_most_of_a_class_is_a_class() -> None:
    train = splits()["train"].items
    for copied, blocks in ((COUNT // 2, True), (COUNT // 2 - 1, False)):
        x = items(7)
        x[:copied] = train[:copied]
        (finding,) = findings_of(splits(test=x))
        assert finding.blocks is blocks
    assert finding == Finding(False, "test", "shares 2 single items with train", finding.items)
    assert finding.items == ("test0 #1 = train0 #1", "test0 #2 = train0 #2")


def test_a_class_that_is_twice_in_a_split_is_told() -> None:
    x = items(7)
    x[COUNT : 2 * COUNT] = x[:COUNT]
    (finding,) = findings_of(splits(train=x))
    told = (False, "train: train0", "is in the data twice: 6 of its items are those of train: train1")
    assert (finding[:3], len(finding.items)) == (told, 6)


def test_items_that_repeat_within_a_class_are_told() -> None:
    x = items(7)
    x[1] = x[2] = x[0]
    own = splits(train=x)
    own["train"] = replace(own["train"], sources=packed(f"a/{i}.png" for i in range(18)))
    told = Finding(
        False, "train: train0", "has 2 items that repeat others of it", ("a/1.png = a/0.png", "a/2.png = a/0.png")
    )
    assert findings_of(own) == [told]


def test_images_are_compared_by_content_too() -> None:
    x = torch.randint(0, 256, (3 * COUNT, 1, 4, 4), dtype=torch.uint8)
    (finding,) = findings_of(splits(train=x, val=x[:1].repeat(3 * COUNT, 1, 1, 1) ^ 1, test=x ^ 3))[:1]
    assert not finding.blocks  # val repeats one image, which is in no other split
    assert {f.where for f in findings_of(splits(train=x, val=x ^ 3, test=x)) if f.blocks} == {
        "test: test0",
        "test: test1",
        "test: test2",
    }


def test_items_of_several_parts_are_those_of_all_of_them() -> None:
    def parts(seed: int) -> dict[str, Tensor]:
        return {"ids": torch.zeros(3 * COUNT, 2, dtype=torch.int64), "sound": items(seed)}

    assert findings_of(splits(**{name: parts(seed) for seed, name in enumerate(SPLITS)})) == []
    test = parts(2)
    test["sound"][:COUNT] = parts(0)["sound"][:COUNT]
    test["sound"][-1, 0] = torch.nan
    told = findings_of(splits(train=parts(0), val=parts(1), test=test))
    assert [(f.blocks, f.where, f.what.split()[0]) for f in told] == [
        (True, "test: test2", "has"),
        (True, "test: test0", "leaks"),
    ]


def test_every_class_with_too_few_items_is_named() -> None:
    data = dataset()
    counts = torch.tensor([COUNT + 2, COUNT - 3, COUNT + 1])
    ragged = {**data.splits, "val": replace(data.splits["val"], counts=counts)}
    told = episode_findings(replace(data, splits=ragged), way=4, shot=2, query=5)
    small = [f for f in told if f.what == "has 3 items; shot + query = 2 + 5 needs 7"]
    assert [(f.blocks, f.where) for f in small] == [(True, "val: val1")]
    assert len([f for f in told if f.what == "has 6 items; shot + query = 2 + 5 needs 7"]) == 6
    assert Finding(True, "val", "has 3 classes; way = 4 needs 4") in told


def test_a_split_that_is_missing() -> None:
    some = splits()
    del some["test"]
    missing = [Finding(True, "test", "is a split that is missing")]
    assert findings_of(some) == missing
    assert list(Dataset.of("toy", "by hand", some, "vector").findings) == missing


def test_what_a_stream_of_tasks_cannot_give() -> None:
    told = episode_findings(sinusoid(), way=5, shot=1, query=1)
    assert [f.where for f in told] == ["train", "val", "test"]
    assert "cannot give episodes: way sinusoid is regression" in told[0].what


@pytest.mark.parametrize(
    ("data", "target", "what"),
    [
        (dataset(), 7, "gives support labels from 7 to 7; they must be from 0 to 1"),
        (dataset(), -1, "gives support labels from -1 to -1; they must be from 0 to 1"),
        (sinusoid(), float("nan"), "gives support targets with values that are not finite (NaN or infinite)"),
    ],
)
def test_targets_out_of_range(monkeypatch: pytest.MonkeyPatch, data: Any, target: float, what: str) -> None:
    way = 1 if data.facts.regression else 2
    sampler = type(data.episodes("train", way=way, shot=1, query=1, seed=0))
    batch = sampler.batch

    def marked(self: Any, step: int, tasks: int) -> Any:
        episode = batch(self, step, tasks)
        return episode._replace(support_y=torch.full_like(episode.support_y, target))

    monkeypatch.setattr(sampler, "batch", marked)
    told = episode_findings(data, way=way, shot=1, query=1)
    assert told == [Finding(True, name, what) for name in ("train", "val", "test")]


def test_an_item_that_is_everywhere_is_told_once() -> None:
    x = items(7, classes=60)
    x[::COUNT] = 0
    split = Split(x, torch.full((60,), COUNT), tuple(map(str, range(60))))
    (finding,) = findings_of({**splits(), "train": split})
    told = (True, "train: 0", "has an item, perhaps an empty one, that 59 other classes have too", ("0 #1",))
    assert finding == told


def test_groups_with_classes_in_two_splits() -> None:
    named = {name: replace(s, names=("Latin/a", f"Greek/{name}", f"{name}0")) for name, s in splits().items()}
    named["test"] = replace(named["test"], names=("Thai/a", "Greek/x", "test0"))
    told = [(f.blocks, f.where, f.told) for f in findings_of(named)]
    assert told == [
        (False, "train and val", "have classes of the same groups: Greek; Latin"),
        (False, "train and test", "have classes of the same groups: Greek"),
        (False, "val and test", "have classes of the same groups: Greek"),
    ]


def pictures(seed: int, count: int = 6) -> Tensor:
    """Return smooth random images, with differences in all places."""
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (255 * interpolate(small, (32, 32), mode="bicubic").clamp(0, 1)).byte()


def test_images_that_look_the_same_in_two_splits() -> None:
    x = {name: pictures(seed) for seed, name in enumerate(SPLITS)}
    smaller = interpolate(x["train"][4:5].float(), (20, 20), mode="area")
    x["test"][1] = (interpolate(smaller, (32, 32), mode="bicubic")[0] * 0.9 + 10).clamp(0, 255).byte()
    found = {
        name: Split(part, torch.tensor([2, 2, 2]), (f"{name}0", f"{name}1", f"{name}2")) for name, part in x.items()
    }
    (finding,) = near_copies(found)
    assert (finding.blocks, finding.where) == (False, "train and test")
    assert finding.told == "share 1 pair of images that look the same: train2 #1 and test0 #2"
    fade = torch.linspace(0, 200, 32)[None, None, None]  # as transparency leaves it
    faded = {
        n: replace(s, items=(55 + s.items * 0.1 + fade).clamp(0, 255).byte()) for n, s in found.items() if n != "test"
    }
    assert near_copies(faded) == []
    plain = {name: replace(s, items=torch.zeros_like(s.items)) for name, s in found.items()}
    assert near_copies(plain) == []
    assert near_copies(splits()) == []

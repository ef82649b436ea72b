from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import Split

COUNTS = {"train": (7, 12, 5, 9, 30, 5), "val": (10, 5), "test": (6, 6, 6)}


def split(counts: tuple[int, ...], prefix: str) -> Split:
    """Items that know where they are: [class, position]."""
    items = [[k, i] for k, count in enumerate(counts) for i in range(count)]
    names = tuple(f"{prefix}{k}" for k in range(len(counts)))
    return Split(torch.tensor(items, dtype=torch.float32), torch.tensor(counts), names)


@pytest.fixture
def data() -> Dataset:
    return Dataset.of("marked", "by hand", {name: split(counts, name) for name, counts in COUNTS.items()}, "vector")


def rows(x: Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in x.tolist()]


def test_an_episode_draws_classes_and_items_without_replacement_from_ragged_classes(data: Dataset) -> None:
    episodes = data.episodes("train", way=4, shot=2, query=3, seed=0).batch(0, 300)
    assert [part.shape for part in episodes] == [(300, 8, 2), (300, 8), (300, 12, 2), (300, 12)]
    seen = set()
    for support_x, support_y, query_x, query_y in zip(*episodes, strict=True):
        items = rows(torch.cat([support_x, query_x]))
        assert len(set(items)) == 20  # support and query share nothing
        classes = {}
        for (k, position), label in zip(items, torch.cat([support_y, query_y]).tolist(), strict=True):
            assert 0 <= position < COUNTS["train"][int(k)]
            assert classes.setdefault(label, k) == k  # one class per label ...
            seen.add((k, position))
        assert sorted(classes) == [0, 1, 2, 3]
        assert len(set(classes.values())) == 4  # ... and one label per class
        assert support_y.bincount().tolist() == [2] * 4
        assert query_y.bincount().tolist() == [3] * 4
    assert len(seen) == sum(COUNTS["train"])  # every item has its turn, the last of the largest class too


def test_episodes_are_uniform_over_classes_and_over_a_classs_items(data: Dataset) -> None:
    x = data.episodes("train", way=2, shot=1, query=4, seed=1).batch(0, 6000).support_x
    k = x[..., 0].flatten().long()
    assert (k.bincount() / len(k) - 1 / 6).abs().max() < 0.015
    positions = x[..., 1].flatten()[k == 0].long()
    assert (positions.bincount() / len(positions) - 1 / 7).abs().max() < 0.03


def test_batches_are_a_function_of_seed_split_and_step(data: Dataset) -> None:
    def drawn(split: str = "train", seed: int = 0, step: int = 0) -> Tensor:
        return data.episodes(split, way=2, shot=1, query=3, seed=seed).batch(step, 5).query_x

    torch.manual_seed(1)
    first = drawn()
    torch.manual_seed(2)
    assert torch.equal(first, drawn())
    for other in (drawn(seed=1), drawn(step=1), drawn(split="val")):
        assert not torch.equal(first, other)


def test_the_first_episodes_of_a_batch_do_not_depend_on_how_many_there_are(data: Dataset) -> None:
    sampler = data.episodes("train", way=3, shot=1, query=2, seed=0)
    for few, many in zip(sampler.batch(4, 2), sampler.batch(4, 9), strict=True):
        assert torch.equal(few, many[:2])


@pytest.fixture
def grouped() -> Dataset:
    """Groups of 3, 4, 2 and 1 classes in "train"; the classes of a group are not next to each other in "val"."""
    groups = {"train": "aaabbbbccd", "val": "efefe"}
    counts = {"train": (7, 12, 5, 9, 30, 5, 6, 5, 5, 8), "val": (5, 6, 7, 8, 9)}
    made = {}
    for name, letters in groups.items():
        names = tuple(f"{letter}/{k}" for k, letter in enumerate(letters))
        made[name] = replace(split(counts[name], ""), names=names)
    return Dataset.of("marked", "by hand", made, "vector")


@pytest.mark.medium
def test_episodes_within_groups_draw_a_group_then_its_classes(grouped: Dataset) -> None:
    data = grouped.within_groups("letters")
    assert (data.within, data.protocol, data.fingerprint) == (True, "by hand, within letters", grouped.fingerprint)
    names = data.episodes("train", way=2, shot=1, query=2, seed=0).classes(1500)
    groups = Counter()
    classes = Counter()
    for episode in names:
        assert len(set(episode)) == 2
        (group,) = {name[0] for name in episode}
        groups[group] += 1
        classes.update(episode)
    assert groups.keys() == {"a", "b", "c"}  # d has one class
    assert max(abs(n / 1500 - 1 / 3) for n in groups.values()) < 0.04  # uniform over groups, not over classes
    for group, size in (("a", 3), ("b", 4), ("c", 2)):
        shares = [n / groups[group] for name, n in classes.items() if name[0] == group]
        assert shares == pytest.approx([2 / size] * size, abs=0.06)
    pairs = Counter(name[0] for episode in data.episodes("val", 2, 1, 2, 0).classes(50) for name in episode)
    assert pairs.keys() == {"e", "f"} and all(count % 2 == 0 for count in pairs.values())


def test_episodes_within_groups_are_items_of_their_classes(grouped: Dataset) -> None:
    sampler = grouped.within_groups("letters").episodes("val", way=2, shot=2, query=3, seed=1)
    names = sampler.classes(4)
    few, many = sampler.batch(2, 1), sampler.batch(2, 7)
    assert all(torch.equal(part, whole[:1]) for part, whole in zip(few, many, strict=True))
    assert len(set(rows(torch.cat([few.support_x[0], few.query_x[0]])))) == 10
    owners = [grouped.splits["val"].names[int(k)] for k in few.query_x[0, :, 0]]
    assert owners == [names[2][label] for label in few.query_y[0].tolist()]


def test_groups_change_the_episodes_and_their_hash(grouped: Dataset) -> None:
    data = grouped.within_groups("letters")
    hashes = [each.episodes("train", 2, 1, 2, seed).hash(20) for each in (grouped, data) for seed in (0, 1)]
    assert len(set(hashes)) == 4
    assert data.episodes("train", 2, 1, 2, 0).hash(20) == hashes[2]


def test_groups_that_are_too_small_or_missing_are_refused(data: Dataset, grouped: Dataset) -> None:
    within = grouped.within_groups("letters")
    assert (within.limits.way, grouped.limits.way) == (3, 5)  # of "val", which has fewer
    within.episodes("train", way=4, shot=1, query=2, seed=0)
    with pytest.raises(ConfigError) as error:
        within.episodes("train", way=5, shot=1, query=9, seed=0)
    assert {p.key: p.message for p in error.value.problems} == {
        "way": "an episode is within one group, and the largest one of marked/train has 4 classes; "
        "way must be from 2 to 4",
        "query": "a class of marked/train has only 5 items; shot + query must be <= 5, got 1 + 9",
    }
    with pytest.raises(ValueError, match="within needs a group for every class; train0 has none"):
        data.within_groups("letters")


@pytest.fixture
def listed() -> Dataset:
    """A split "test" of three fixed episodes, of two classes with two labelled items of three."""
    made = {"val": split(COUNTS["val"], "val"), "test": split((3,) * 6, "test")}
    data = Dataset.of("marked", "by hand", made, "vector")
    return replace(data, fixed={"test": EpisodeShape(way=2, shot=2, query=1)})


def test_fixed_episodes_are_the_classes_in_their_order(listed: Dataset) -> None:
    sampler = listed.episodes("test", way=2, shot=2, query=1, seed=5)
    assert sampler.count == 3
    assert sampler.classes(3) == [("test0", "test1"), ("test2", "test3"), ("test4", "test5")]
    episode = sampler.batch(1, 1)
    assert rows(episode.support_x[0]) == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert episode.support_y.tolist() == [[0, 0, 1, 1]]
    assert sorted(rows(episode.query_x[0])) == [(2, 2), (3, 2)]
    assert [int(k) - 2 for k in episode.query_x[0, :, 0]] == episode.query_y[0].tolist()
    orders = {tuple(sampler.batch(step, 1).query_y[0].tolist()) for step in range(30)}
    assert orders == {(0, 1), (1, 0)}
    assert sampler.hash(3) == listed.episodes("test", way=2, shot=2, query=1, seed=6).hash(3)
    assert listed.episodes("val", way=2, shot=1, query=1, seed=0).count is None
    assert listed.limits.items == 5  # of "val"


def test_fixed_episodes_have_their_numbers(listed: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        listed.episodes("test", way=5, shot=2, query=15, seed=0)
    why = "as marked/test has 3 fixed episodes: way=2 shot=2 query=1 episodes=3"
    assert {p.key: p.message for p in error.value.problems} == {
        "way": f"must be 2, {why}",
        "query": f"must be 1, {why}",
    }
    for shape in (EpisodeShape(4, 2, 1), EpisodeShape(2, 2, 2)):
        with pytest.raises(ValueError, match="fixed episodes must use up test"):
            replace(listed, fixed={"test": shape})


def test_the_hash_names_the_episodes(data: Dataset) -> None:
    def hash_of(data: Dataset = data, split: str = "test", shot: int = 1, seed: int = 0, episodes: int = 20) -> str:
        return data.episodes(split, way=2, shot=shot, query=2, seed=seed).hash(episodes)

    other = {**data.splits, "train": split((7, 12), "train")}
    different = [
        hash_of(),
        hash_of(split="val"),
        hash_of(shot=2),
        hash_of(seed=1),
        hash_of(episodes=21),
        hash_of(Dataset.of("marked", "by hand", other, "vector")),
    ]
    assert hash_of() == different[0]
    assert len(set(different)) == len(different)


def test_the_hash_stays_what_it_was(data: Dataset) -> None:
    # Recorded results name their episodes by it. If it changes, results before and after are not on the same episodes:
    # say so in CHANGELOG.md and pin the new one.
    sampler = data.episodes("test", way=2, shot=1, query=2, seed=0)
    assert sampler.hash(5) == "eec376d3c02d7694a274840069217f205ebfa50cd26d42cfd7542c33afa158b6"


def test_impossible_episodes_are_refused_with_every_problem(data: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        data.episodes("val", way=3, shot=0, query=9, seed=0)
    assert {p.key: p.message for p in error.value.problems} == {
        "way": "marked/val has 2 classes; way must be from 2 to 2",
        "shot": "must be >= 1, got 0",
        "query": "a class of marked/val has only 5 items; shot + query must be <= 5, got 0 + 9",
    }
    with pytest.raises(ConfigError) as error:
        data.episodes("val", way=2, shot=5, query=1, seed=0)
    assert [p.key for p in error.value.problems] == ["shot"]  # no query would do
    with pytest.raises(ConfigError, match="way must be from 2 to 6"):
        data.episodes("train", way=1, shot=1, query=1, seed=0)
    with pytest.raises(UserError, match="no split 'dev'; it has train, val, test"):
        data.episodes("dev", way=2, shot=1, query=1, seed=0)


def test_classes_are_named_by_label(data: Dataset) -> None:
    sampler = data.episodes("train", way=3, shot=2, query=2, seed=4)
    names = sampler.classes(6)
    for step, episode in enumerate(names):
        support_x, support_y, query_x, query_y = (part[0] for part in sampler.batch(step, 1))
        for x, y in ((support_x, support_y), (query_x, query_y)):
            owners = [data.splits["train"].names[int(k)] for k in x[:, 0]]  # the first number is the class
            assert owners == [episode[label] for label in y.tolist()]


def test_an_episode_may_use_up_the_split() -> None:
    data = Dataset.of("tiny", "by hand", {"train": split((3, 3), "c")}, "vector")
    episode = data.episodes("train", way=2, shot=1, query=2, seed=0).batch(0, 1)
    assert len(set(rows(torch.cat([episode.support_x[0], episode.query_x[0]])))) == 6


def test_parts_hold_every_item_once_and_hold_out_the_last_fifth(data: Dataset) -> None:
    parts = {part: next(data.all("train", part, 99)) for part in ("all", "fit", "held_out")}
    for x, y in parts.values():
        assert torch.equal(x[:, 0].long(), y)
    assert rows(parts["all"][0]) == rows(data.splits["train"].items)
    assert sorted(rows(parts["fit"][0]) + rows(parts["held_out"][0])) == sorted(rows(parts["all"][0]))
    held_out = parts["held_out"][1].bincount().tolist()
    assert held_out == [1, 2, 1, 1, 6, 1]
    last = {k: count - held for k, (count, held) in enumerate(zip(COUNTS["train"], held_out, strict=True))}
    assert all(position >= last[int(k)] for k, position in rows(parts["held_out"][0]))


def test_all_items_come_in_equal_batches(data: Dataset) -> None:
    items = len(data.splits["train"].items)
    batches = list(data.all("train", "all", items // 2))
    sizes = [len(x) for x, _ in batches]
    assert sum(sizes) == items
    assert len(sizes) == 2 + items % 2
    assert max(sizes) - min(sizes) <= 1
    whole = next(data.all("train", "all", items))
    for parts, one in zip(zip(*batches, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(parts), one)


@pytest.mark.parametrize("part", ["all", "fit", "held_out"])
def test_a_batch_is_uniform_over_a_part_with_its_labels(data: Dataset, part: str) -> None:
    x, y = data.batch("train", part, 20000, seed=0, step=3)
    assert x.shape == (20000, 2)
    assert torch.equal(x[:, 0].long(), y)
    allowed = rows(next(data.all("train", part, 99))[0])
    drawn = Counter(rows(x))
    assert drawn.keys() == set(allowed)
    assert max(abs(n * len(allowed) / 20000 - 1) for n in drawn.values()) < 0.25


def test_a_batch_is_a_function_of_its_arguments(data: Dataset) -> None:
    first = data.batch("train", "all", 50, seed=0, step=0)[0]
    torch.manual_seed(5)
    assert torch.equal(first, data.batch("train", "all", 50, seed=0, step=0)[0])
    assert not torch.equal(first, data.batch("train", "all", 50, seed=0, step=1)[0])
    assert not torch.equal(first, data.batch("train", "all", 50, seed=1, step=0)[0])


def test_images_come_out_between_0_and_1() -> None:
    images = torch.tensor([0, 51, 255, 102], dtype=torch.uint8).reshape(4, 1, 1, 1)
    data = Dataset.of("grey", "by hand", {"train": Split(images, torch.tensor([2, 2]), ("a", "b"))}, "image")
    assert (data.facts.values, data.facts.shape) == ("unit", (1, 1, 1))
    assert next(data.all("train", "all", 99))[0].flatten().tolist() == pytest.approx([0, 0.2, 1, 0.4])
    assert data.batch("train", "all", 3, seed=0, step=0)[0].dtype == torch.float32
    assert data.episodes("train", way=2, shot=1, query=1, seed=0).batch(0, 1).query_x.max() <= 1
    assert data.splits["train"].items.max() == 255  # as it was


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_items_are_those_of_plain_indexing(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    items = (torch.randn(30, *shape, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    data = Dataset.of("any", "by hand", {"train": Split(items, torch.tensor([12, 18]), ("a", "b"))}, "vector")
    sampler = data.episodes("train", 2, 3, 4, 0)
    expected = items[sampler._index(5, 6)]
    if dtype == torch.uint8:
        expected = expected.float() / 255
    episodes = sampler.batch(5, 6)
    support, query = expected[:, :, :3].flatten(1, 2), expected[:, :, 3:].flatten(1, 2)
    shuffled = torch.stack([q[order] for q, order in zip(query, sampler._order(5, 6), strict=True)])
    for x, wanted in ((episodes.support_x, support), (episodes.query_x, shuffled)):
        assert x.dtype == wanted.dtype
        assert torch.equal(x, wanted)


def test_the_facts_follow_from_the_splits(data: Dataset) -> None:
    assert data.facts == Facts("vector", (2,), "real", classes=6)
    some = {
        name: replace(split, names=tuple(f"{k % 2}{name}/{k}" for k in range(len(split.names))))
        for name, split in data.splits.items()
    }
    groups = ("0test", "0train", "0val", "1test", "1train", "1val")
    assert Dataset.of("grouped", "by hand", some, "audio").facts == data.facts._replace(kind="audio", groups=groups)
    assert Dataset.of("tested", "by hand", {"test": data.splits["test"]}, "vector").facts.classes == 0


def texts(split: Split) -> Split:
    """Return the same items as ids and the share of them that counts: a dict of two tensors."""
    return replace(split, items={"mask": split.items / 30, "ids": split.items.long()})


def test_items_may_have_several_parts(data: Dataset) -> None:
    parts = {name: texts(split) for name, split in data.splits.items()}
    text = Dataset.of("text", "by hand", parts, "text", vocabulary={"ids": 30, "mask": 0})
    two = {"ids": (2,), "mask": (2,)}
    assert text.facts == Facts("text", two, {"ids": "ids", "mask": "real"}, 6, 0, {"ids": 30, "mask": 0})
    assert text.findings == data.findings
    pairs = [
        (text.episodes("train", 3, 1, 2, 0).batch(1, 4), data.episodes("train", 3, 1, 2, 0).batch(1, 4)),
        (text.batch("train", "fit", 9, 0, 1), data.batch("train", "fit", 9, 0, 1)),
        *zip(text.all("val", "all", 4), data.all("val", "all", 4), strict=True),
        *zip(text.to("cpu").all("val", "held_out", 4), data.all("val", "held_out", 4), strict=True),
    ]
    for of_parts, plain in pairs:
        for a, b in zip(of_parts, plain, strict=True):
            if isinstance(a, dict):
                assert a.keys() == {"ids", "mask"}
                assert torch.equal(a["ids"], b.long())
                assert torch.equal(a["mask"], b / 30)
            else:
                assert torch.equal(a, b)


def pairs(split: Split) -> Split:
    """Return the same items, each with its own place as two targets."""
    return replace(split, targets=split.items @ torch.tensor([[1.0, 0.0], [0.0, -1.0]]))


@pytest.fixture
def tasks(data: Dataset) -> Dataset:
    """The same items as tasks of a regression."""
    return Dataset.of("marked", "by hand", {name: pairs(split) for name, split in data.splits.items()}, "vector")


def test_a_regression_has_targets_instead_of_classes(data: Dataset, tasks: Dataset) -> None:
    assert tasks.facts == data.facts._replace(classes=0, outputs=2)
    assert tasks.facts.regression
    assert tasks.limits == data.limits._replace(way=1)
    assert tasks.fingerprint != data.fingerprint
    other = {**tasks.splits, "val": replace(tasks.splits["val"], targets=torch.zeros(15, 2))}
    assert Dataset.of("marked", "by hand", other, "vector").fingerprint != tasks.fingerprint
    for x, y in (tasks.batch("train", "fit", 9, 0, 1), *tasks.all("val", "all", 4)):
        assert torch.equal(y, x[:, 0].long())  # the index of the task


def test_an_episode_of_a_regression_is_of_one_task(tasks: Dataset) -> None:
    sampler = tasks.episodes("train", way=1, shot=2, query=3, seed=0)
    assert (sampler.way, sampler.regression) == (1, True)
    episodes = sampler.batch(0, 300)
    assert [part.shape for part in episodes] == [(300, 2, 2), (300, 2, 2), (300, 3, 2), (300, 3, 2)]
    for x, y in ((episodes.support_x, episodes.support_y), (episodes.query_x, episodes.query_y)):
        assert torch.equal(y, x * torch.tensor([1.0, -1.0]))
    task = torch.cat([episodes.support_x, episodes.query_x], 1)
    assert all(len(set(one[:, 0].tolist())) == 1 and len(set(rows(one))) == 5 for one in task)
    assert (task[:, 0, 0].long().bincount() / 300 - 1 / 6).abs().max() < 0.1
    assert sampler.classes(4) == [(f"train{int(sampler.batch(step, 1).query_x[0, 0, 0])}",) for step in range(4)]
    assert sampler.hash(9) != tasks.episodes("train", 1, 2, 3, 1).hash(9)


def test_impossible_episodes_of_a_regression_are_refused(tasks: Dataset) -> None:
    with pytest.raises(ConfigError) as error:
        tasks.episodes("val", way=2, shot=5, query=1, seed=0)
    assert {p.key: p.message for p in error.value.problems} == {
        "way": "marked is regression, without classes; way must be 1, got 2",
        "shot": "a task of marked/val has only 5 items; shot + query must be <= 5, got 5 + 1",
    }


def test_targets_that_do_not_fit_are_refused(data: Dataset, tasks: Dataset) -> None:
    train = data.splits["train"]
    for wrong in (torch.zeros(68), torch.zeros(67, 1), torch.zeros(68, 0), torch.zeros(68, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"targets must be float32 \[68, 1 or more\], got torch"):
            replace(train, targets=wrong)
    with pytest.raises(ValueError, match="val has 0 numbers as an item's target, another split has 2"):
        Dataset.of("marked", "by hand", {**tasks.splits, "val": data.splits["val"]}, "vector")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_draws_the_same(data: Dataset) -> None:
    moved = data.to("cuda")
    assert moved.fingerprint == data.fingerprint
    pairs = [
        (moved.episodes("train", 3, 1, 2, 0).batch(1, 4), data.episodes("train", 3, 1, 2, 0).batch(1, 4)),
        (moved.batch("train", "fit", 9, 0, 1), data.batch("train", "fit", 9, 0, 1)),
        (next(moved.all("val", "held_out", 99)), next(data.all("val", "held_out", 99))),
    ]
    for there, here in pairs:
        for a, b in zip(there, here, strict=True):
            assert a.is_cuda
            assert torch.equal(a.cpu(), b)
    assert moved.episodes("val", 2, 1, 2, 0).hash(3) == data.episodes("val", 2, 1, 2, 0).hash(3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_draws_the_same_targets(tasks: Dataset) -> None:
    there, here = (each.episodes("val", 1, 1, 2, 0).batch(1, 4) for each in (tasks.to("cuda"), tasks))
    assert all(a.is_cuda and torch.equal(a.cpu(), b) for a, b in zip(there, here, strict=True))


def test_splits_that_share_a_class_or_a_wrong_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share no class; c0 is in train and test"):
        Dataset.of("bad", "by hand", {"train": split((2, 2), "c"), "test": split((2,), "c")}, "vector")
    with pytest.raises(ValueError, match="named train, val, test, got 'dev'"):
        Dataset.of("bad", "by hand", {"dev": split((2, 2), "c")}, "vector")
    wide = Split(torch.zeros(2, 3), torch.tensor([2]), ("d",))
    whole = Split(torch.zeros(2, 2, dtype=torch.int64), torch.tensor([2]), ("d",))
    for other in (wide, whole, replace(whole, items={"": torch.zeros(2, 2)})):
        with pytest.raises(ValueError, match=r"real items of shape \(2,\); test does not"):
            Dataset.of("bad", "by hand", {"train": split((2, 2), "c"), "test": other}, "vector")

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foreign import encoded, example, put, record
from sources.meta_dataset import records, spec

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.meta_dataset import meta_dataset

SMALL = {"TRAIN": 3, "VALID": 2, "TEST": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def small(folder: Path, specification: dict[str, Any] | None = None, classes: int = 7) -> Path:
    return records(folder, specification or spec(SMALL, 2), classes, 2)


def read(root: Path, **rest: Any) -> Dataset:
    return meta_dataset(root=str(root), size=8, **rest)


def findings(root: Path) -> list[str]:
    with pytest.raises(DataError) as error:
        read(root)
    return [f"{finding.where} {finding.what}" for finding in error.value.findings]


def names(data: Dataset) -> list[tuple[str, ...]]:
    return [found.names for found in data.splits.values()]


def test_classes_are_numbered_train_val_test(tmp_path: Path) -> None:
    data = read(small(tmp_path / "aircraft"))
    assert data.protocol == "published"
    assert names(data) == [("F-0A-B", "F-1A-B", "F-2A-B"), ("F-3A-B", "F-4A-B"), ("F-5A-B", "F-6A-B")]
    assert data.about["data set"] == "aircraft"
    assert data.facts.groups == ()  # a "/" in a name separates no group
    assert not [finding for finding in data.findings if "benchmark" in finding.what]


def test_alphabets_are_groups(tmp_path: Path) -> None:
    specification = {
        "name": "omniglot",
        "superclasses_per_split": {"TRAIN": 2, "VALID": 1, "TEST": 1},
        "classes_per_superclass": {"0": 1, "1": 2, "2": 2, "3": 2},
        "images_per_class": {str(k): 2 for k in range(7)},
        "superclass_names": {"0": "Greek", "1": "Latin", "2": "Thai", "3": "Lao"},
        "class_names": {str(k): f"character{k}" for k in range(7)},
    }
    data = read(small(tmp_path / "omniglot", specification))
    assert names(data)[0] == ("Greek/character0", "Latin/character1", "Latin/character2")
    assert data.facts.groups == ("Greek", "Lao", "Latin", "Thai")


def test_the_leaves_of_imagenets_graphs_are_classes(tmp_path: Path) -> None:
    def graph(leaves: int) -> list[dict[str, Any]]:
        top = {"wn_id": "n0", "words": "entity", "children_ids": ["n1"], "parents_ids": []}
        return [top, *({"wn_id": f"n{k}", "words": "x", "children_ids": []} for k in range(leaves))]

    specification = {
        "name": "ilsvrc_2012",
        "split_subgraphs": {part: graph(count) for part, count in SMALL.items()},
        "images_per_class": {str(k): 2 for k in range(7)},
        "class_names": {str(k): f"n{k:08d}" for k in range(7)},
    }
    assert [len(own) for own in names(read(small(tmp_path / "ilsvrc_2012", specification)))] == [3, 2, 2]


def test_names_that_are_there_twice_are_told_apart(tmp_path: Path) -> None:
    specification = spec(SMALL, 2)
    specification["class_names"] = {"0": "crane", "5": "crane", "1": "bird"}
    found = names(read(small(tmp_path / "copy", specification)))
    assert found == [("bird", "class 2", "crane (0)"), ("class 3", "class 4"), ("class 6", "crane (5)")]


def test_data_without_training_classes_can_be_split_anew(tmp_path: Path) -> None:
    root = small(tmp_path / "traffic_sign", spec({"TRAIN": 0, "VALID": 0, "TEST": 7}, 2))
    told = r"data\.split: dataset_spec\.json has 0/0/7 classes of train/val/test; data\.split=classes splits them anew"
    with pytest.raises(ConfigError, match=told):
        read(root)
    first, again, other = (read(root, split="classes", seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert names(first) != names(other)
    assert sum(map(len, names(first))) == 7


def test_every_file_that_the_specification_names_must_be_there(tmp_path: Path) -> None:
    root = small(tmp_path / "copy")
    for k in (1, 4):
        (root / f"{k}.tfrecords").unlink()
    told = "is not there, but dataset_spec.json names its class"
    assert findings(root) == [f"{k}.tfrecords {told}" for k in (1, 4)]


def test_records_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    root = small(tmp_path / "copy")
    content = (root / "1.tfrecords").read_bytes()
    put(root / "1.tfrecords", content[:-9])
    put(root / "3.tfrecords", record(example(picture=b"x", label=3)))
    told = findings(root)
    assert told[0].startswith("1.tfrecords is cut short: the record at byte")
    assert told[1] == "3.tfrecords has no image in record 0"
    put(root / "1.tfrecords", content)
    put(root / "3.tfrecords", record(example(image=b"x", label=3)) + record(example(image=encoded(1), label=3)))
    assert findings(root)[0].startswith("3.tfrecords: image 0 is no image")


def test_fewer_images_than_the_specification_says_are_a_warning(tmp_path: Path) -> None:
    data = read(small(tmp_path / "copy", spec(SMALL, 20)))
    told = "have 14 of the benchmark's 140 images: results do not compare"
    assert told in [finding.what for finding in data.findings if not finding.blocks]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[" * 10**5,
        "[1]",
        "{}",
        json.dumps({"classes_per_split": {"TRAIN": 1}}),
        json.dumps({"classes_per_split": {"TRAIN": -1, "VALID": 1, "TEST": 1}}),
        json.dumps({"classes_per_split": {"TRAIN": 10**12, "VALID": 1, "TEST": 1}}),
        json.dumps({"classes_per_split": {"TRAIN": 1, "VALID": 1, "TEST": 1}, "class_names": {"x": "y"}}),
        json.dumps({"superclasses_per_split": {"TRAIN": 1}, "classes_per_superclass": [1]}),
        json.dumps({"split_subgraphs": {"TRAIN": [1], "VALID": [], "TEST": []}}),
    ],
)
def test_a_specification_that_cannot_be_used_is_named(content: str, tmp_path: Path) -> None:
    root = small(tmp_path / "copy")
    put(root / "dataset_spec.json", content)
    (told,) = findings(root)
    assert told.startswith("dataset_spec.json ")


def test_the_folder_of_one_data_set_is_asked_for(tmp_path: Path) -> None:
    for name in ("dtd", "aircraft"):
        small(tmp_path / "records" / name)
    with pytest.raises(ConfigError, match="has several data sets, aircraft, dtd; give the folder of one"):
        read(tmp_path / "records")


def test_another_folder_is_told_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "copy" / "0.tfrecords", record(example(image=encoded(1), label=0)))
    with pytest.raises(DataError, match=r"dataset_spec\.json and 0\.tfrecords"):
        read(tmp_path / "copy")

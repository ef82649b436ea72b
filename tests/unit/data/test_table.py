from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sources.table import fill

from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError, DataError, UserError
from metalearn_cli.data.common.rows import columns_of
from metalearn_cli.data.common.tables import vectors
from metalearn_cli.data.table import table


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


def refusal(file: Path, **settings: Any) -> list[str]:
    with pytest.raises(DataError) as refused:
        table(str(file), **settings)
    return [f"{finding.where} {finding.what}".replace(str(file), file.name) for finding in refused.value.findings]


def written(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "t.csv"
    file.write_text("\n".join(rows))
    return file


def test_rows_become_standardised_vectors(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    data = table(str(file))
    assert (data.facts.kind, data.facts.values, data.facts.shape) == ("vector", "real", (8,))
    assert data.about["numbers"] == ["length", "width", "mass"]
    assert data.about["categories"] == ["colour"]
    train = data.splits["train"].items
    assert isinstance(train, torch.Tensor)
    assert train[:, 0].mean().abs() < 1e-5 and (train[:, 0].std(correction=0) - 1).abs() < 1e-5
    assert set(train[:, 2].tolist()) == {0.0, 1.0}  # whether the width is missing
    assert train[:, 4:].sum(1).eq(1).all()


def test_preprocessing_treats_new_rows_as_the_loader_does(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    data = table(str(file))
    columns = columns_of(file)
    for split in data.splits.values():
        rows = [i for name in split.names for i, label in enumerate(columns["species"]) if label == name]
        own = {name: [values[i] for i in rows] for name, values in columns.items()}
        np.testing.assert_array_equal(split.items, vectors(own, data.preprocessing["columns"]))


def test_classes_beyond_training_teach_nothing(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    data = table(str(file))
    rows = file.read_text().split("\n")
    strange = {name for split in ("val", "test") for name in data.splits[split].names}
    changed = [f"{row.split(',')[0]},1e6,1e6,1e6,odd" if row.split(",")[0] in strange else row for row in rows]
    file.write_text("\n".join(changed))
    again = table(str(file))
    assert again.preprocessing == data.preprocessing
    assert torch.equal(again.splits["train"].items, data.splits["train"].items)


def test_columns_of_an_npz_file_are_those_of_a_table(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    columns = columns_of(file)
    np.savez_compressed(tmp_path / "plants.npz", **{name: np.array(values) for name, values in columns.items()})
    assert table(str(tmp_path / "plants.npz")).fingerprint == table(str(file)).fingerprint


def test_a_changed_file_or_list_is_read_again(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    lists = tmp_path / "lists.json"
    names = [f'"species{k:02d}"' for k in range(20)]
    lists.write_text(f'{{"train": [{",".join(names[:10])}], "val": [{names[10]}], "test": [{names[11]}]}}')
    first = table(str(file), split=str(lists))
    lists.write_text(f'{{"train": [{",".join(names[:9])}], "val": [{names[10]}], "test": [{names[11]}]}}')
    assert len(table(str(file), split=str(lists)).splits["train"].names) == 9 < len(first.splits["train"].names)
    file.write_text(file.read_text().replace("species10", "species1o"))
    with pytest.raises(ConfigError, match="there is no class species10"):
        table(str(file), split=str(lists))


def test_everything_wrong_is_told_in_one_list(tmp_path: Path) -> None:
    rows = ["id,label,size,code,split"]
    rows += [f"{i},{'abcdefghij'[i % 10]},{i % 7 + 0.5},{'zyxwvutsrq'[i % 10]},train" for i in range(40)]
    rows += ["40,,inf,z,train", "41,2.5,3,z,training set"]
    assert refusal(written(tmp_path, *rows)) == [
        "t.csv, line 42 has no label",
        "t.csv, line 43 has the label 2.5, which is a number and no class; for a regression over tasks of a table, "
        "data.column.target=NAME data.column.task=NAME",
        "t.csv, line 43 has the split 'training set'; a split is one of train, val, test",
        "t.csv, column id numbers the rows; data.ignore=[id] leaves it out",
        "t.csv, line 42 has an infinite size: inf",
    ]


def test_an_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    rows = [f"{3 * i},{'abcdefghij'[i % 10]},{i % 7}" for i in reversed(range(40))]
    file = written(tmp_path, ",label,size", *rows)
    data = table(str(file))
    assert data.about["numbers"] == ["size"]
    told = "has no name and another whole number in each row, as an index of pandas has: left out"
    assert (False, f"{file}, column 1", told) in [finding[:3] for finding in data.findings]
    rows[0] = rows[1]
    assert table(str(written(tmp_path, ",label,size", *rows))).about["numbers"] == ["", "size"]


def test_a_column_with_the_name_of_splits_may_be_another(tmp_path: Path) -> None:
    file = written(tmp_path, "label,size,fold", *(f"{'abcdefghij'[i % 10]},{i % 7},{i % 3}" for i in range(40)))
    assert refusal(file) == [
        "t.csv, column fold is taken for the split, but has 0, 1, 2; a split is one of train, val, test; "
        "data.column.split='' makes it a column like any other"
    ]
    assert table(str(file), column={"split": ""}).about["numbers"] == ["size", "fold"]
    assert table(str(file), ignore=["fold"]).about["numbers"] == ["size"]


def test_a_folder_of_tables_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "plants.csv")
    with pytest.raises(ConfigError, match=r"is a folder, .* give one, such as .*plants\.csv, or join them"):
        table(str(tmp_path))


def test_what_the_label_follows_from_is_refused(tmp_path: Path) -> None:
    rows = ["label,size,code", *(f"{'abcdefghij'[i % 10]},{i % 7},{'zyxwvutsrq'[i % 10]}" for i in range(40))]
    (told,) = refusal(written(tmp_path, *rows))
    assert "column code tells the label" in told
    assert table(str(tmp_path / "t.csv"), ignore=["code"]).about["categories"] == []


def test_constant_columns_are_left_out_and_told(tmp_path: Path) -> None:
    rows = ["label,size,same", *(f"{'abcdefghij'[i % 10]},{i % 7},3" for i in range(40))]
    data = table(str(written(tmp_path, *rows)))
    assert ("same", "is constant in the training data and is left out") in [f[1:3] for f in data.findings]
    assert data.facts.shape == (1,)
    rows = ["label,same", *(f"{'abcdefghij'[i % 10]},3" for i in range(40))]
    assert refusal(written(tmp_path, *rows)) == ["t.csv has no column of features that varies in the training data"]


def test_one_class_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the data has 1 class; train, val and test need different classes"):
        table(str(written(tmp_path, "label,size", *(f"a,{i % 4}" for i in range(9)))))


def test_settings_name_columns(tmp_path: Path) -> None:
    file = fill(tmp_path / "plants.csv")
    with pytest.raises(ConfigError) as refused:
        table(str(file), ignore=["colr"], categorical=["none"])
    assert [(p.key, p.hint) for p in refused.value.problems] == [("data.categorical", ""), ("data.ignore", "[colour]")]
    with pytest.raises(ConfigError, match="a task is a group"):
        table(str(file), column={"task": "colour", "group": "colour"})


def tasks(tmp_path: Path, numbers: bool) -> Path:
    """Write a table of 12 tasks of 3 classes, or of numbers in two columns."""
    random = np.random.default_rng(0)
    rows = ["machine,kind,load,speed,heat"]
    for row in range(12 * 3 * 6):
        task, kind = row % 12, "abc"[row // 12 % 3]
        load = random.normal()
        rows.append(f"m{task:02d},{'' if numbers else kind},{load:.4f},{task * load:.4f},{load + 400:.4f}")
    return written(tmp_path, *rows)


def test_a_task_is_a_group_within_which_episodes_are(tmp_path: Path) -> None:
    data = table(str(tasks(tmp_path, numbers=False)), column={"task": "machine", "label": "kind"})
    assert data.protocol == "groups, seed 0, within tasks"
    for names in data.episodes("train", way=3, shot=1, query=2, seed=0).classes(5):
        assert len({name.split("/")[0] for name in names}) == 1
    assert len(data.facts.groups) == 12


def test_a_table_without_labels_may_be_a_regression(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"label=NAME, or for a regression data.column.target=NAME data.column.task="):
        table(str(tasks(tmp_path, numbers=True)), column={})


def test_what_is_missing_is_shown_as_missing(tmp_path: Path) -> None:
    shown = " ".join(text for *_, text in table(str(fill(tmp_path / "plants.csv"))).about["examples"])
    assert "colour (missing)" in shown and "colour ," not in shown


def test_targets_make_a_regression_over_tasks(tmp_path: Path) -> None:
    file, column = tasks(tmp_path, numbers=True), {"task": "machine", "target": ["speed", "heat"]}
    data = table(str(file), ignore=["kind"], column=column)
    assert (data.facts.outputs, data.facts.classes, data.facts.shape) == (2, 0, (1,))
    assert {split: len(own.names) for split, own in data.splits.items()} == {"train": 6, "val": 3, "test": 3}
    y = data.splits["train"].targets
    assert y is not None
    assert y.mean(0).abs().max() < 1e-4 and (y.std(0, correction=0) - 1).abs().max() < 1e-4
    episode = data.episodes("val", way=1, shot=3, query=4, seed=0).batch(0, 2)
    load, speed = data.preprocessing["columns"][0], data.preprocessing["targets"][0]
    x = episode.query_x[..., 0] * load["scale"] + load["mean"]
    slopes = (episode.query_y[..., 0] * speed["scale"] + speed["mean"]) / x
    assert (slopes - slopes.round()).abs().max() < 0.05  # each episode is of one task: its slope is its number
    assert table(str(file), ignore=["kind"], column=column).fingerprint == data.fingerprint  # from the cache


def test_wrong_targets_are_told(tmp_path: Path) -> None:
    file = tasks(tmp_path, numbers=True)
    file.write_text(file.read_text() + "\n,,1,fast,1\nm01,,2,,2")
    column = {"task": "machine", "target": "speed"}
    assert refusal(file, ignore=["kind"], column=column) == [
        "t.csv, line 218 has no task",
        "t.csv, line 218 has no finite number as its speed: 'fast'",
        "t.csv, line 219 has no finite number as its speed: ''",
    ]
    with pytest.raises(ConfigError) as refused:
        table(str(file), column={"target": 3, "label": "kind"})  # type: ignore[dict-item]
    assert [p.key for p in refused.value.problems] == ["data.column.target", "data.column.label", "data.column.task"]
    with pytest.raises(ConfigError, match=r"data\.column\.target: .* has no column 'sped'"):
        table(str(file), column={**column, "target": "sped"})


def test_a_feature_that_is_the_target_is_refused(tmp_path: Path) -> None:
    rows = ["task,x,y,z", *(f"t{i % 8},{i % 5},{i % 7 + 0.5},{i % 7 + 0.5}" for i in range(40))]
    (told,) = refusal(written(tmp_path, *rows), column={"task": "task", "target": "y"})
    assert told == "t.csv, column z is the target y; data.ignore=[z] leaves it out"


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for root in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(ConfigError, match=r"is not a file of \.csv, .*\.npz"):
            table(str(root))
    with pytest.raises(ConfigError, match=r"data\.root=PATH, a CSV"):
        table()


def test_without_scikit_learn_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install 'metalearn-cli\[table\]'"):
        build({"_target_": "metalearn_cli.data.table.table", "root": str(fill(tmp_path / "plants.csv"))}, "data")

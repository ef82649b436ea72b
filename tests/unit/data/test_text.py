"""Own texts: every layout, and everything that cannot be used."""

import csv
import io
import json
import zipfile
from itertools import chain, product

import pyarrow
import pytest
from pyarrow import ipc, parquet
from sources.text import sentences, word

from metalearn_cli.core.errors import ConfigError, DataError
from metalearn_cli.data.common.texts import encoded
from metalearn_cli.data.text import text

CLASSES = 8
ROWS = [{"text": sentence, "label": word(label)} for sentence, label in sentences(CLASSES, 3)]
NAMES = {row["label"] for row in ROWS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "source"
    made.mkdir()
    return made


def made(root, **settings):
    return text(root=str(root), **{"vocabulary": 128, "length": 24, **settings})


def names(data):
    return {split: set(own.names) for split, own in data.splits.items()}


def everything(data):
    return set(chain(*names(data).values()))


def items(data):
    """Return the items of each class, as sets."""
    return {
        name: {tuple(item.tolist()) for item in own}
        for split in data.splits.values()
        for name, own in zip(split.names, split.items.split(split.counts.tolist()), strict=True)
    }


def as_csv(rows, delimiter=","):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def save_to_disk(folder, rows, classes, split=None, metadata=True):
    """Write a folder as `datasets.Dataset.save_to_disk` does it."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": classes, "_type": "ClassLabel"}}
    own = [{**row, "label": classes.index(row["label"])} for row in rows]
    about = json.dumps({"info": {"features": features}}).encode()
    files = []
    for shard, part in enumerate((own[::2], own[1::2])):
        table = pyarrow.Table.from_pylist(part).replace_schema_metadata({b"huggingface": about} if metadata else None)
        files.append({"filename": f"data-{shard:05d}-of-00002.arrow"})
        with ipc.new_stream(folder / files[-1]["filename"], table.schema) as writer:
            writer.write_table(table)
    (folder / "cache-1234.arrow").write_bytes(b"of a former program")
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": split}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


@pytest.mark.parametrize(
    "layout", ["csv", "tsv", "jsonl", "tokens", "parquet", "zip", "shards", "saved", "files", "folders"]
)
def test_layouts(folder, layout):
    if layout == "csv":
        (folder / "a.csv").write_text(as_csv(ROWS))
    elif layout == "tsv":
        (folder / "a.tsv").write_text(as_csv(ROWS, "\t"))
    elif layout == "jsonl":
        (folder / "a.jsonl").write_text(as_lines(ROWS))
    elif layout == "tokens":
        (folder / "a.jsonl").write_text(as_lines([{**row, "text": row["text"].split()} for row in ROWS]))
    elif layout == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
    elif layout == "zip":
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.writestr("inside/a.csv", as_csv(ROWS))
            archive.writestr("__MACOSX/inside/._a.csv", "junk")
    elif layout == "shards":
        for shard in range(3):
            (folder / f"part-{shard}.jsonl").write_text(as_lines(ROWS[shard::3]))
    elif layout == "saved":
        save_to_disk(folder, ROWS, sorted(NAMES))
    elif layout == "files":
        for name in NAMES:
            (folder / f"{name}.txt").write_text("\n\n".join(r["text"] for r in ROWS if r["label"] == name) + "\n")
    else:
        for number, row in enumerate(ROWS):
            path = folder / "inside" / row["label"] / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row["text"])
        (folder / "README.txt").write_text("about these texts")
    data = made(folder)
    assert everything(data) == NAMES
    assert data.protocol == "classes, seed 0"
    assert data.facts[:3] == ("text", (24,), "ids")
    expected = {
        name: {tuple(encoded([r["text"]], data.preprocessing).ids[0].tolist()) for r in ROWS if r["label"] == name}
        for name in NAMES
    }
    assert items(data) == expected
    assert data.about["texts"] == len(ROWS)


@pytest.mark.parametrize(
    ("layout", "where", "told"),
    [
        (("{label}.txt", "backup/{label}.txt"), [f"{name}.txt" for name in sorted(NAMES)], "is in no class folder"),
        (("{label}/1.txt", "notes.txt"), ["notes.txt"], "is in no class folder"),
        (("{label}/1.txt", "{label}/more/2.txt"), sorted(NAMES), "holds files and folders of files"),
        (("train/{label}/1.txt", "holdout/{label}/1.txt"), ["train"], "but holdout beside it is not"),
        (("train/{label}.txt", "test/{label}x.txt", "stray.txt"), ["stray.txt"], "is in no class folder"),
    ],
)
def test_text_files_in_places_of_two_kinds(folder, layout, where, told):
    for place, row in product(layout, ROWS):
        path = folder / "inside" / place.format(**row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    with pytest.raises(DataError) as error:
        made(folder)
    assert [finding.where.removeprefix("inside/") for finding in error.value.findings] == where
    assert all(told in finding.what for finding in error.value.findings)


def test_a_link_that_is_left_out_is_told_and_refuses_nothing(folder):
    (folder / "a.csv").write_text(as_csv(ROWS))
    (folder / "again").symlink_to(folder)
    data = made(folder)
    assert everything(data) == NAMES
    assert (data.findings[0].blocks, data.findings[0].where) == (False, "again")


def test_one_table_without_its_folder(folder):
    (folder / "other.csv").write_text("nonsense")
    (folder / "a.csv").write_text(as_csv(ROWS))
    assert everything(made(folder / "a.csv")) == NAMES


GIVEN = {name: ("train", "validation", "test")[min(k // 2, 2)] for k, name in enumerate(sorted(NAMES))}


@pytest.mark.parametrize("layout", ["column", "files", "hub", "saved", "class files", "class folders"])
def test_given_splits(folder, layout):
    rows = {split: [row for row in ROWS if GIVEN[row["label"]] == split] for split in dict.fromkeys(GIVEN.values())}
    if layout == "column":
        (folder / "a.csv").write_text(as_csv([{**row, "split": split} for split in rows for row in rows[split]]))
    elif layout == "saved":
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
    for split, own in rows.items():
        if layout == "files":
            (folder / f"{split}.jsonl").write_text(as_lines(own))
        elif layout == "hub":
            (folder / "data").mkdir(exist_ok=True)
            table = pyarrow.Table.from_pylist(own)
            parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
        elif layout == "saved":
            save_to_disk(folder / split, own, sorted(NAMES), split, metadata=False)
        elif layout.startswith("class"):
            for number, row in enumerate(own):
                place = folder / split / row["label"]
                path = place / f"{number}.txt" if layout == "class folders" else place.with_suffix(".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    file.write(row["text"] + "\n")
    data = made(folder)
    assert data.protocol == "as given"
    assert names(data) == {
        split: {name for name, own in GIVEN.items() if own[:3] == split[:3]} for split in ("train", "val", "test")
    }


def test_splits_that_share_their_classes_are_one_command_away(folder):
    for split, own in (("train", ROWS[::3] + ROWS[1::3]), ("test", ROWS[2::3])):
        (folder / f"{split}.jsonl").write_text(as_lines(own))
    with pytest.raises(ConfigError, match=r"8 classes are in more than one split.*data\.split=classes"):
        made(folder)
    assert everything(made(folder, split="classes")) == NAMES
    same = made(folder, split="items", min_items=1)
    assert same.protocol.startswith("items of the same classes")
    assert names(same) == dict.fromkeys(("train", "val", "test"), NAMES)


def test_groups_stay_together(folder):
    rows = [{**row, "speaker": f"s{number % 4}"} for number, row in enumerate(ROWS * 4)]
    (folder / "a.csv").write_text(as_csv(rows))
    column = {"text": None, "label": None, "split": None, "group": "speaker"}
    data = made(folder, column=column)
    assert data.protocol == "groups, seed 0"
    groups = [{name.partition("/")[0] for name in own} for own in names(data).values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 4
    assert made(folder, column=column, within=True).protocol == "groups, seed 0, within groups"


def test_numbers_are_labels(folder):
    (folder / "a.jsonl").write_text(as_lines([{"text": f"text {i}", "label": float(i // 3)} for i in range(24)]))
    assert everything(made(folder)) == set("01234567")


def test_a_quoted_newline_is_part_of_a_text(folder):
    rows = [{**row, "text": row["text"].replace(" ", "\n", 1)} for row in ROWS]
    (folder / "a.csv").write_text(as_csv(rows))
    assert made(folder).about["rows"] == len(ROWS)


def test_empty_texts_are_named_and_left_out(folder):
    (folder / "a.csv").write_text(as_csv([*ROWS, {"text": " ", "label": "x"}]))
    data = made(folder)
    assert data.about["empty"] == 1
    assert [f.items for f in data.findings if "without a text" in f.what] == [(f"a.csv, line {len(ROWS) + 2}",)]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", as_csv([*ROWS, {"text": "x", "label": ""}]), r"1 row without a label.*: a\.csv, line 26"),
        ("a.jsonl", as_lines([*ROWS, {"text": "x"}]), r"1 row without a label.*: a\.jsonl, line 25"),
        ("a.csv", as_csv(ROWS).encode() + "\u00e9,x\n".encode("latin1"), r"a\.csv, line 26 is not UTF-8.*iconv"),
        ("a.csv", as_csv([{"text": r["text"], "label": "one"} for r in ROWS]), "the data has 1 class; .* 6 or more"),
        (
            "a.csv",
            as_csv([{"text": f"t{i}", "label": f"l{i}"} for i in range(10_000)]),
            "10000 of 10000 classes have fewer than 2 items",
        ),
        ("a.csv", as_csv([{"words": "x", "y": "1"}]), r"has the columns words, y; say which one is the text"),
        (
            "a.csv",
            as_csv([{**row, "split": "first"} for row in ROWS]),
            r"column split is taken for the split, but has first",
        ),
        (
            "a.csv",
            as_csv([{**row, "split": "first" if i < 2 else "train"} for i, row in enumerate(ROWS)]),
            r"line 2 has the split 'first'.*line 3 has the split 'first'",
        ),
        ("a.jpg", b"", r"data\.root has neither tables \(.*\) nor texts \(\.txt\); it has files of \.jpg"),
        ("a.txt", b"caf\xe9", r"a\.txt, line 1 is not UTF-8"),
        ("a.parquet", b"PAR1", r"a\.parquet is damaged or cut short"),
        ("state.json", b"{", r"state\.json is not JSON"),
    ],
)
def test_what_cannot_be_used(folder, name, content, error):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ConfigError, DataError), match=error):
        made(folder)


def test_a_column_with_the_name_of_splits_may_be_another(folder):
    (folder / "a.csv").write_text(as_csv([{**row, "fold": str(i % 3)} for i, row in enumerate(ROWS)]))
    with pytest.raises(DataError, match=r"a\.csv, column fold is taken for the split, but has 0, 1, 2; .*split=''"):
        made(folder)
    assert "fold" in made(folder, column={"text": None, "label": None, "split": ""}).about["not used"]


def test_a_saved_folder_with_parts_that_are_not_whole(folder):
    save_to_disk(folder, ROWS, sorted(NAMES))
    first, second = sorted(folder.glob("data-*.arrow"))
    content = first.read_bytes()
    first.write_bytes(content[:-200])
    second.write_bytes(b"")
    with pytest.raises(DataError) as error:
        made(folder)
    told = [f"{finding.where} {finding.what}" for finding in error.value.findings]
    assert told[0].startswith("data-00000-of-00002.arrow is damaged or cut short")
    assert told[1:] == ["data-00001-of-00002.arrow is empty"]
    assert error.value.cure == "copy the whole folder again, or write it again with save_to_disk"
    second.unlink()
    first.write_bytes(content)
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow is missing; state\.json lists it; copy the whole"):
        made(folder)
    (folder / "state.json").write_text('{"_data_files": [3]}')
    with pytest.raises(DataError, match=r"state\.json is not as `datasets` writes it"):
        made(folder)


def test_settings_that_cannot_be_used(folder):
    (folder / "a.csv").write_text(as_csv(ROWS))
    for settings, error in (
        ({"column": {"text": "txet"}}, "has no column 'txet'; it has text, label"),
        ({"column": {"speaker": "x"}}, r"data\.column\.speaker: no such setting"),
        ({"tokenizer": "letters"}, r"data\.tokenizer: is words, bytes or a folder"),
    ):
        with pytest.raises(ConfigError, match=error):
            made(folder, **settings)
    with pytest.raises(ConfigError, match=r"data\.root: is missing: data\.root=PATH, a table of texts"):
        text()


@pytest.mark.parametrize("ending", ["csv", "txt"])
def test_what_lies_beside_splits_is_no_class(folder, ending):
    for number, split in enumerate(("train", "val", "test", "extra")):
        own = [row for row in ROWS if GIVEN[row["label"]][:3] == split[:3]] or ROWS[:2]
        if ending == "csv":
            (folder / f"{split}.csv").write_text(as_csv(own))
        else:
            (folder / split).mkdir()
            (folder / split / f"class{number}.txt").write_text("one\ntwo")
    with pytest.raises(DataError) as error:
        made(folder)
    (finding,) = error.value.findings
    assert finding.where.startswith("extra") and "neither train, val nor test" in finding.what

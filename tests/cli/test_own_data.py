"""Own data from the command line: what is understood of it, its pictures, and settings that follow from it."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile
import sources
from PIL import Image
from sources import arrays, audio, mixed
from sources.images import fill

from metalearn_cli.cli.composing import Composer
from metalearn_cli.data.common import decoding
from metalearn_cli.data.common.sources import recognised
from metalearn_cli.records import fonts


@pytest.fixture
def photos(tmp_path):
    """Make 12 classes of 15 photographs in the current folder, with what systems leave behind."""
    folder = fill(tmp_path / "my photos (1)", 12, 15)
    (folder / "class00" / "._0.jpg").write_text("x")
    (folder / "notes.md").write_text("x")
    return folder.name


@pytest.mark.medium
def test_what_is_understood_of_a_folder(mlx, photos, tmp_path):
    answer = mlx("data", "make", photos, "data.size=12")
    assert (answer.code, answer.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in answer.out.splitlines()[1:8])
    assert rows["images"] == "180"
    assert "._* 1" in rows["skipped"] and "of other kinds 1" in rows["skipped"]
    assert "RGB" in rows["modes"] and "I;16" in rows["modes"]
    assert rows["train"].startswith("6 classes, 90 items: class")
    assert "an episode   way 3, shot 1, query 14" in answer.out
    assert f"mlx run data=images \"data.root='{photos}'\" data.size=12" in answer.out
    told = 'whether a stage helps is "not clear", as an episode has each of the 3 test classes; way=2 gives verdicts'
    assert f"verdicts     {told}" in answer.out
    assert "verdicts" not in mlx("data", "make", photos, "data.size=12", "way=2").out
    words = ("data=images", f"data.root='{photos}'", "data.size=12")
    assert f"verdicts: {told}" in mlx("data", "check", *words).out
    found = json.loads(mlx("--json", "data", "make", photos, "data.size=12").out)
    assert found["data"]["episode"] == {"way": 3, "shot": 1, "query": 14}
    assert sorted(found["data"]["splits"]["test"]["names"]) == found["data"]["splits"]["test"]["names"]


def test_its_picture(mlx, photos, tmp_path):
    answer = mlx("data", "show", photos, "data.size=12")
    assert (answer.code, answer.out) == (0, f"data-{photos}.png\n")
    with Image.open(f"data-{photos}.png") as picture:
        assert picture.height > 12 * 60


@pytest.mark.medium
def test_its_picture_does_not_become_one_of_the_data(mlx, photos, monkeypatch, tmp_path):
    for place in (tmp_path / photos, tmp_path / photos / "class00"):
        monkeypatch.chdir(place)
        answer = mlx("data", "show", "data=images", f"data.root='{tmp_path / photos}'", "data.size=12")
        assert (answer.code, answer.out) == (2, "")
        assert "go to another folder first: cd " in answer.err
    monkeypatch.chdir(tmp_path / photos)
    assert mlx("data", "make", ".", "data.size=12").code == 0


def test_how_many_classes_are_not_shown(mlx, tmp_path):
    rows = [f"{group}{k} wants {n},{group}{k},{group}" for group in "abc" for k in range(9) for n in range(4)]
    Path("q.csv").write_text("text,label,group\n" + "\n".join(rows))
    answer = mlx("data", "show", "q.csv", "data.split=classes")
    assert answer.out.endswith("18 of 27 classes\n")
    train = [line.split()[1] for line in answer.out.splitlines() if line.startswith("train")]
    assert {name[0] for name in train} == {"a", "b", "c"}
    shown = json.loads(mlx("--json", "data", "show", "q.csv", "data.split=classes").out)
    assert (shown["shown"], shown["classes"]) == (18, 27)


@pytest.mark.medium
def test_a_number_stands_for_a_name_that_no_font_has(mlx, photos, monkeypatch):
    font_of = fonts.font_of
    monkeypatch.setattr(fonts, "font_of", lambda text: None if "猫" in text else font_of(text))
    (Path(photos) / "class03").rename(Path(photos) / "猫")
    out = mlx("data", "show", photos, "data.size=12").out
    assert out.startswith(
        f"data-{photos}.png\nno font of this computer has the letters of some names; in the picture, "
    )
    assert [line.split() for line in out.splitlines()[2:] if line] == [["#1", "test:", "猫"]]
    assert json.loads(mlx("--json", "data", "show", photos, "data.size=12").out)["numbers"] == {"#1": "test: 猫"}


def test_rows_where_there_is_no_picture(mlx, tmp_path):
    answer = mlx("data", "show", "data=gaussian", "data.items=60", "data.classes=12")
    assert answer.code == 0
    assert sum(line.startswith(("train", "val", "test")) for line in answer.out.splitlines()) == 12
    assert mlx("data", "show", "data=sinusoid").out == "there is nothing to show: each episode is generated\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("make", "nothing"), "there is no file or folder nothing"),
        (("make", "."), "holds no file of a known kind"),
        (("make", "data=images"), "data.root is missing: data.root=PATH, a folder"),
        (("show", "data=images", "data.root=nowhere"), "there is no nowhere"),
        (("make", "data=images", "data.root=.", "data.column.lable=x"), "no such setting; there are path, label"),
        (("look", "x"), "there is no mlx data 'look'; there are make, show, check"),
    ],
)
def test_what_cannot_be_made(mlx, tmp_path, words, told):
    answer = mlx("data", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in " ".join(answer.err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_all_problems_of_a_folder_are_told_at_once_and_by_file(mlx, photos):
    folder = Path(photos)
    (folder / "class00" / "broken.jpg").write_bytes(b"no picture")
    (folder / "lonely").mkdir()
    for place in ("stray.png", "lonely/one.png", *(f"class{k:02d}/same.png" for k in range(12))):
        shutil.copy(folder / "class00" / "1.png", folder / place)
    answer = mlx("data", "check", "data=images", f"data.root='{photos}'", "data.size=12", "--json")
    assert answer.code == 2
    found = json.loads(answer.out)
    told = [(f["where"], f["what"]) for f in found["findings"]]
    assert ("stray.png", "is in no class folder") in [(where, what.partition(";")[0]) for where, what in told]
    assert "is no image" in dict(told)["class00/broken.jpg"]
    assert any(f["where"] == "data.min_items" and f["items"] == ["lonely"] for f in found["findings"])
    assert ["class00/same.png = class00/1.png"] in [f["items"] for f in found["findings"]]
    shared = [f["items"] for f in found["findings"] if "single item" in f["what"]]
    assert max(map(len, shared)) > 5
    assert found["data"]["splits"] and found["cure"].endswith("data.unreadable=skip")
    assert mlx("data", "show", "data=images", f"data.root='{photos}'", "data.size=12").code == 2


@pytest.mark.medium
def test_items_of_parts_are_shown_with_picture_and_caption(mlx, tmp_path):
    sources.written("mixed", tmp_path)
    answer = mlx("data", "show", "data=mixed", "data.root=things.csv", "data.column.text=caption", "data.size=16")
    assert answer.out.count("caption a ") == len(answer.out.split("pictures/")) - 1 > 10
    assert "\ndata-things.csv.png\n" in answer.out and Path("data-things.csv.png").exists()


@pytest.mark.medium
def test_look_alikes_among_the_pictures_of_parts_are_told(mlx, tmp_path):
    sources.written("mixed", tmp_path)
    with Image.open("pictures/0-0.png") as image:
        for k in range(20):
            image.resize((40 + k, 40 + k)).save(f"pictures/{k}-1.png")
    out = mlx("data", "check", "data=mixed", "data.root=things.csv", "data.column.text=caption").out
    assert "of images that look the same" in out


def test_a_row_without_a_label_hides_nothing(mlx, tmp_path):
    rows = [f"{c}{n % 3} is it,{c}" for c in "abcdefgh" for n in range(4)] + ["nobody's,", ",a", "alone,z"]
    Path("q.csv").write_text("text,label\n" + "\n".join(rows))
    answer = mlx("data", "check", "data=text", "data.root=q.csv")
    out = " ".join(answer.out.split())
    assert answer.code == 2
    for told in ("without a label", "line 34", "without a text: left out: q.csv, line 35", "left out: z"):
        assert told in out
    assert "has 1 item that repeats others of it: q.csv, line 5 = q.csv, line 2" in out


def test_near_copies_across_splits(mlx, photos):
    with Image.open(Path(photos) / "class00" / "1.png") as image:
        for k in range(12):  # scaled and recompressed, in every class
            image.convert("RGB").resize((50, 50)).save(Path(photos) / f"class{k:02d}" / "twin.jpg", quality=95)
    answer = mlx("data", "check", "data=images", f"data.root='{photos}'")
    assert answer.code == 0
    assert "pairs of images that look the same" in " ".join(answer.out.split())


def test_recordings_that_look_the_same_are_not_told(mlx, tmp_path):
    def check(loudness):
        tone = audio.sound(99, 0.2)
        for k in range(6):
            audio.save(tmp_path / "sounds" / f"c{k}" / "0.wav", k)
            soundfile.write(tmp_path / "sounds" / f"c{k}" / "1.wav", tone * (1 - loudness * k), audio.RATE)
        words = ("data.rate=4000", "data.seconds=0.2", "data.mels=16", "data.hop=0.01")
        found = json.loads(mlx("--json", "data", "check", "data=audio", "data.root=sounds", *words).out)["findings"]
        return [finding["what"] for finding in found]

    assert not any("look the same" in what for what in check(0.1))
    assert any("have too" in what or "of its items are those of" in what for what in check(0))


@pytest.mark.parametrize(
    ("name", "content", "data"),
    [
        ("a.csv", "text,label\nx,y\n", "text"),
        ("a.csv", "Image_Path;label\nx;y\n", "images"),
        ("a.tsv", "filename\tlabel\nx\ty\n", "images"),
        ("a.csv", "age,income,class\n1,2,3\n", "table"),
        ("a.jsonl", '{"sentence": "x", "label": "y"}\n', "text"),
        ("a.csv", "\ufefftext;label\rx;y\r", "text"),
        ("a.csv", "file,bird,who\na/1.WAV,crow,anna\n", "audio"),
        ("a.csv", 'bird;"file"\ncrow;"a/1.wav"\n', "audio"),
        ("a.jsonl", '{"path": "1.flac", "label": "y"}\n', "audio"),
        ("a.csv", "shot,species\na/1.jpg,crow\n", "images"),
        ("d/x.wav", "", "audio"),
        ("d/x.txt", "", "text"),
        ("d/train.csv", "text,category\nx,y\n", "text"),
        ("d/train.csv", "age,income,class\n1,2,3\n", "table"),
        ("d/x.npz", "", "arrays"),
        ("x.npy", "", "arrays"),
    ],
)
def test_kinds_of_sources(tmp_path, name, content, data):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert recognised(str(path if path.parent == tmp_path else path.parent)) == data


def test_the_columns_that_are_named_tell_what_a_table_is_about(mlx, tmp_path):
    Path("q.csv").write_text("no,Frage,Was ist es\n" + "".join(f"{i},wo ist {i},t{i % 12}\n" for i in range(60)))
    answer = mlx("data", "make", "q.csv", "data.column.text=Frage", "data.column.label=Was ist es")
    assert (answer.code, answer.out.splitlines()[0]) == (0, "text")
    assert recognised("q.csv", ["label", "target"]) == "table"


def test_a_guess_that_fails_is_told_with_the_command_for_sentences(mlx, tmp_path):
    Path("q.csv").write_text("no,Frage,Was ist es\n1,wo,a\n")
    answer = mlx("data", "make", "q.csv")
    command = "mlx data make q.csv data=text data.column.text=NAME data.column.label=NAME"
    assert answer.code == 2 and "q.csv was taken for data=table, numbers and categories" in answer.err
    assert f"type: {command}\n" in answer.err and answer.err.endswith("see all settings: mlx ls data table\n")
    assert f"type: {command}\n" in mlx("data", "show", "q.csv").err
    filled = command.replace("NAME", "Frage", 1).replace("NAME", "no")
    assert "was taken for" not in mlx(*filled.split()[1:]).err
    answer = mlx("data", "make", "q.csv", "data.ignore=no")
    assert "was taken for" not in answer.err and "did you mean: data.ignore=[no]" in answer.err
    answer = mlx("data", "make", "q.csv", "data=text")
    assert "was taken for" not in answer.err and answer.err.endswith("see all settings: mlx ls data text\n")
    assert "2 problems" in answer.err
    assert "data.column.text=NAME" in answer.err and "data.column.label=NAME" in answer.err
    answer = mlx("data", "make", "q.csv", "data=text", "data.column.txt=Frage")
    assert answer.err.endswith("see all settings: mlx ls data text\n")


@pytest.mark.parametrize(
    ("words", "backbone"),
    [
        (("data=gaussian",), "mlp"),
        (("data=glyphs",), "conv4"),
        (("backbone=conv4", "data=gaussian"), "conv4"),
        ((), "conv4"),
    ],
)
def test_the_data_chooses_the_backbone_if_the_user_does_not(mlx, words, backbone):
    printed = mlx("meta-train", *words, "--cfg", "job", "-p", "backbone").out
    assert f"backbones.{backbone}." in printed


def test_an_unknown_backbone_in_a_file_of_ones_own_is_ignored(mlx, tmp_path):
    own = tmp_path / "mine" / "data"
    own.mkdir(parents=True)
    (own / "odd.yaml").write_text("# @backbone ../../x\n# Odd data.\n_target_: metalearn_cli.data.gaussian.gaussian\n")
    assert "conv4" in mlx("meta-train", "data=odd", "-cd", "mine", "--cfg", "job", "-p", "backbone").out


@pytest.mark.slow
def test_a_chain_on_own_pictures(mlx, photos):
    short = [
        f"{stage}.{key}={n}"
        for stage in ("pretrain", "transfer", "meta_train")
        for key, n in (("steps", 1), ("val_episodes", 2))
    ]
    words = ("data=images", f"data.root='{photos}'", "data.size=16", "backbone.hidden=4", "evaluate.episodes=4")
    answer = mlx("run", *words, *short, "pretrain.batch_size=4", "transfer.batch_size=4", "meta_train.tasks=1")
    assert answer.code == 0, answer.err
    assert "3-way 1-shot 14-query on 4 episodes of test classes, images (classes, seed 0), transductive" in answer.out
    assert "as many as images allows: way 3 (usually 5), query 14 (usually 15)" in " ".join(answer.err.split())
    (record,) = Path("runs/pretrain").glob("*/splits.json")
    lists = json.loads(record.read_text())
    assert sorted(len(lists[split]) for split in ("train", "val", "test")) == [3, 3, 6]
    again = mlx(
        "data", "make", "data=images", f"data.root='{photos}'", "data.size=16", f"data.split={record}", "--json"
    )
    assert json.loads(again.out)["data"]["splits"]["val"]["names"] == lists["val"]


def test_long_reading_is_told(mlx, photos, monkeypatch):
    monkeypatch.setattr(decoding, "PATIENCE", 0.0)
    answer = mlx("data", "make", photos, "data.size=13")
    told = [line for line in answer.err.splitlines() if line.startswith("reading ")]
    assert len(told) == 3
    assert told[0].startswith("reading 90 items of train takes about ") and " seconds; " in told[0]


def test_own_texts(mlx, tmp_path):
    sources.written("text", tmp_path)
    answer = mlx("data", "make", "texts.csv")
    assert (answer.code, answer.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in answer.out.splitlines()[1:6])
    assert rows["rows"] == rows["texts"] == "320"
    assert rows["columns"] == "text text, label label"
    assert "an item         text 32" in answer.out
    assert "mlx run data=text data.root=texts.csv" in answer.out
    shown = mlx("data", "show", "texts.csv").out.splitlines()
    assert sum(line.startswith(("train", "val", "test")) and "Do you" in line for line in shown) == 8 + 5 + 5


@pytest.mark.medium
def test_meta_training_on_own_texts(mlx, tmp_path):
    sources.written("text", tmp_path)
    short = ("meta_train.steps=1", "meta_train.val_episodes=2", "meta_train.tasks=1", "evaluate.episodes=4")
    answer = mlx("run", "data=text", "data.root=texts.csv", "stages=[meta-train]", "backbone.hidden=8", *short)
    assert answer.code == 0, answer.err
    assert "5-way 1-shot 15-query on 4 episodes of test classes, text" in answer.out
    (manifest,) = Path("runs/meta-train").glob("*/checkpoints/step-000001/manifest.json")
    assert json.loads(manifest.read_text())["data"]["preprocessing"]["tokenizer"] == "words"


@pytest.mark.medium
def test_several_data_sets_as_one_have_the_backbone_of_the_first(mlx, tmp_path):
    for seed, name in enumerate("ab"):
        arrays.fill(tmp_path / f"{name}.npz", 4, classes=12, items=3, seed=seed)
    words = [w for name in "ab" for w in (f"data@data.parts.{name}=arrays", f"data.parts.{name}.root={name}.npz")]
    answer = mlx("data", "check", "data=pooled", *words)
    assert answer.code == 0, answer.err
    assert "pooled" in answer.out
    assert "    b:\n      _target_: metalearn_cli.data.arrays" in mlx("run", "data=pooled", *words, "--cfg", "job").out
    composer = Composer("meta-train")
    composed = composer.compose([composer.forced(composer.read(word)) for word in ("data=pooled", *words)])
    assert composed.values["backbone"]["_target_"] == "metalearn_cli.backbones.mlp.Mlp"
    answer = mlx("data", "check", "data=pooled", *words, "data.parts.a.kynd=vector")
    assert answer.code == 2
    assert "data.parts.a.kynd" in answer.err


@pytest.mark.medium
def test_the_next_command_suits_the_data(mlx, tmp_path):
    runs = [f"m{k},{n},{k * n}" for k in range(8) for n in range(4)]
    (tmp_path / "machines.csv").write_text("\n".join(["machine,load,speed", *runs]))
    out = mlx("data", "make", "machines.csv", "data.column.target=speed", "data.column.task=machine").out
    assert "4 tasks, 16 items" in out
    assert "stages=[meta-train]" in out.splitlines()[-1] and out.splitlines()[-1].endswith("algorithm=maml")
    mixed.fill(tmp_path / "things.csv", 6, 2)
    out = mlx("data", "make", "things.csv", "data=mixed", "data.column.text=caption", "data.size=16").out
    *_, command = out.splitlines()
    assert command.endswith(" model=classifier")
    assert mlx("validate", *shlex.split(command)[1:]).code == 0
    answer = mlx("data", "make")
    assert answer.code == 2 and "mlx data make needs a file or folder" in answer.err


def test_the_command_that_was_typed_and_the_nearest_column_are_named(mlx, tmp_path):
    (tmp_path / "plants.csv").write_text("label,size\n" + "".join(f"c{i % 12},{i / 7}\n" for i in range(60)))
    for words in (("data", "make", "plants.csv"), ("data", "show", "plants.csv"), ("data", "check", "plants.csv")):
        err = " ".join(mlx(*words, "data.column.label=lable").err.split())
        assert f"in the settings of `mlx {' '.join(words[:2])}`" in err
        assert "did you mean: data.column.label=label see" in err
    answer = mlx("run", "data=table", "data.root=plants.csv", "data.column.label=lable")
    assert answer.code == 2 and "did you mean: data.column.label=label\n" in answer.err


def test_a_column_is_named_as_the_shell_takes_it(mlx, tmp_path):
    (tmp_path / "a.csv").write_text('"weight, kg",label,"size [cm]"\n' + "".join(f"{i},c{i},2\n" for i in range(9)))
    answer = mlx("data", "make", "a.csv", "data.ignore=[weight]", "data.categorical=[Size]")
    err = " ".join(answer.err.split())
    assert """did you mean: "data.ignore=['weight, kg']\"""" in err and " -m " not in err
    assert """did you mean: "data.categorical=['size [cm]']\"""" in err
    answer = mlx("data", "make", "a.csv", "data.column.label=weight")
    assert """did you mean: "data.column.label='weight, kg'\"""" in " ".join(answer.err.split())
    assert "has no column" not in mlx("data", "make", "a.csv", "data.ignore=['weight, kg']").err


def test_a_regression_has_tasks_and_no_classes(mlx, tmp_path):
    rows = [f"m{k},{n},{k * n + 0.5}" for k in range(12) for n in range(20)]
    (tmp_path / "machines.csv").write_text("\n".join(["machine,load,speed", *rows]))
    words = ("data=table", "data.root=machines.csv", "data.column.target=speed", "data.column.task=machine")
    out = mlx("data", "check", *words).out
    assert out.startswith("table (tasks, seed 0; train 6 tasks, 120 items; ")
    assert mlx("data", "show", *words).out.split()[:3] == ["split", "task", "item"]
    told = " ".join(mlx("data", "check", *words, "data.min_items=21").out.split())
    assert "12 of 12 tasks have fewer than 21 items" in told
    (tmp_path / "machines.csv").write_text("\n".join(["machine,load,speed", *rows[:60]]))
    told = " ".join(mlx("data", "check", *words).err.split())
    assert "the data has 3 tasks; train, val and test need different tasks: 6 or more in all" in told
    assert "class" not in told


def test_a_broken_archive_is_named(mlx, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK no zip")
    answer = mlx("data", "make", "cut.zip")
    assert answer.code == 2 and "cut.zip is damaged or cannot be read" in " ".join(answer.err.split())


def test_ordinary_classification_is_named_in_the_title():
    from metalearn_cli.cli.views import heading_of
    from metalearn_cli.core.metric import SAME_CLASSES

    first = {"way": 3, "shot": 1, "name": "test/accuracy", "over": {"episodes": 9, "trainings": 1}}
    title = heading_of(first, {"data": {"name": "images", "protocol": f"{SAME_CLASSES} classes, seed 0"}})
    assert title.endswith("9 episodes of test items, images (ordinary classification: the classes of training)")
    title = heading_of(
        first | {"name": "test/mse"}, {"data": {"name": "table", "protocol": f"{SAME_CLASSES} tasks, seed 0"}}
    )
    assert title.endswith("9 episodes of test items, table (the tasks of training)")
    assert heading_of(first | {"name": "test/mse"}, {}).endswith("9 episodes of test tasks")

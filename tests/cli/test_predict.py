"""`mlx predict`: files, folders, tables and texts in, a class for each out."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image
from sources import audio, images
from sources.text import sentence
from trainings import GRAY, meta_trained

from metalearn_cli.core import machine
from metalearn_cli.engine.runtime import usual_threads


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("text", tmp_path_factory.mktemp("texts"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with examples of three classes, and two new files."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("crow", "jay", "wren")):
        (tmp_path / "examples" / name).mkdir(parents=True)
        for i in range(3):
            images.picture(10 * k + i, "L").save(tmp_path / "examples" / name / f"{i}.png")
    (tmp_path / "new").mkdir()
    for i in range(2):
        shutil.copy(tmp_path / "examples" / "jay" / f"{i}.png", tmp_path / "new" / f"{i}.png")
    return tmp_path


@pytest.mark.medium
def test_each_file_gets_a_class(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    code, out, err = mlx("predict", f"ckpt={of_pictures}", "support=examples", "new", "new/0.png", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["classes"] == {"crow": 3, "jay": 3, "wren": 3}
    assert found["ckpt"]["checkpoint"] == str(of_pictures)
    assert [answer["file"] for answer in found["answers"]] == ["0.png", "1.png", "new/0.png"]
    for answer, nearest in zip(found["answers"], ("jay/0.png", "jay/1.png", "jay/0.png"), strict=True):
        assert answer["nearest"] == nearest
        assert (
            answer["probability"] == max(answer["probabilities"].values()) == answer["probabilities"][answer["class"]]
        )
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    first, _, again = found["answers"]
    assert first["probability"] == pytest.approx(again["probability"], abs=1e-6)  # whatever is beside it
    assert "3 classes: crow 3, jay 3, wren 3" in err


@pytest.mark.medium
def test_a_table_or_csv_of_the_answers(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    words = ("predict", f"ckpt={of_pictures}", "support=examples", "new")
    code, out, _ = mlx(*words)
    assert code == 0
    assert out.splitlines()[0].split() == ["file", "class", "probability", "%", "distance", "nearest", "example"]
    assert "0.png" in out and "jay/0.png" in out
    code, out, _ = mlx(*words, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["file"] for row in rows] == ["0.png", "1.png"]
    assert {"class", "probability", "distance", "nearest"} <= rows[0].keys()


@pytest.mark.medium
def test_names_of_files_are_shown_on_one_line(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    name = "a\nb\t\x1b[1m.png"
    Image.new("L", (20, 20)).save(Path("new", name))
    Path("examples/jay/0.png").rename(Path("examples/jay", "0\n.png"))
    words = ("predict", f"ckpt={of_pictures}", "support=examples", "new")
    code, out, err = mlx(*words)
    assert code == 0 and len(out.splitlines()) == 2 + 3 + 1, out
    assert r"a\nb\t\x1b[1m.png " in out and r"jay/0\n.png" in out and r": a\nb\t\x1b[1m.png" in err
    (*_, last) = csv.DictReader(io.StringIO(mlx(*words, "--csv").out))
    assert last["file"] == json.loads(mlx(*words, "--json").out)["answers"][2]["file"] == name
    out = mlx("explain", *words[1:], "method=occlusion").out
    assert len(out.splitlines()) == 2 + 3 + 2 and r"a\nb\t\x1b[1m.png " in out, out


def test_threads_are_those_of_the_settings(
    mlx: Callable, of_pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 3)
    words = ("predict", f"ckpt={of_pictures}", "support=examples", "new")
    before = torch.get_num_threads()
    try:
        for typed, number in (("2", 2), ("1", 1), ("null", usual_threads()[0])):
            torch.set_num_threads(3)
            code, _, err = mlx(*words, f"runtime.threads={typed}")
            assert code == 0 and torch.get_num_threads() == number, err
    finally:
        torch.set_num_threads(before)
    code, _, err = mlx(*words, "runtime.threads=4")
    assert code == 2 and "runtime.threads: this machine has 3 cores; must be at most that, or null, got 4" in err
    code, _, err = mlx(*words, "runtime.threads=0")
    assert code == 2 and "runtime.threads must be a number of threads, 1 or more, or null, got '0'" in err


def test_examples_that_look_mislabelled_are_named(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    shutil.copy("examples/jay/0.png", "examples/crow/9.png")
    for i in (1, 2):
        shutil.copy("examples/jay/0.png", f"examples/jay/{i}.png")
    code, out, err = mlx("predict", f"ckpt={of_pictures}", "support=examples", "new", "audit=true", "--json")
    assert code == 0, err
    wrong = {one["example"]: one for one in json.loads(out)["suspects"]}["crow/9.png"]
    assert (wrong["class"], wrong["answer"]) == ("crow", "jay") and wrong["margin"] > 0
    assert "audit: learnt from all other examples, crow/9.png is taken for jay, not crow (margin" in err


def test_the_newest_run_is_used(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    runs = str(of_pictures.parents[3])
    code, _, err = mlx("predict", "support=examples", "new", "--runs-dir", runs)
    assert code == 0 and f"predict: latest -> {of_pictures}" in err
    code, _, err = mlx("predict", "support=examples", "new")
    assert code == 2 and "ckpt=latest: no completed run of pretrain or transfer or meta-train in runs" in err


def test_texts_are_typed(mlx: Callable, of_texts: Path, tmp_path: Path) -> None:
    rows = [f'"{sentence(k, i)}",{topic}' for k, topic in enumerate(("music", "food")) for i in range(3)]
    Path("examples.csv").write_text("\n".join(["text,label", *rows]))
    code, out, err = mlx("predict", f"ckpt={of_texts}", "support=examples.csv", sentence(0, 1), "--json")
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    assert answer["file"] == sentence(0, 1) and answer["nearest"] == "examples.csv, line 3"


@pytest.mark.medium
def test_texts_and_recordings_unlike_the_examples_are_named(
    mlx: Callable, of_texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [f'"{sentence(k, i)}",{topic}' for k, topic in enumerate(("music", "food")) for i in range(2)]
    Path("examples.csv").write_text("\n".join(["text,label", *rows]))
    long = " ".join([sentence(0, 1)] * 3)
    code, out, err = mlx("predict", f"ckpt={of_texts}", "support=examples.csv", sentence(1, 2), long, "--json")
    assert code == 0 and json.loads(out)["unlike"] == [f"longer: {long}"] and "warning: unlike the examples" in err
    sounds = meta_trained("audio", tmp_path_factory.mktemp("sounds"))
    for k, name in enumerate(("low", "high", "other")):
        audio.save(Path("examples", name, "0.wav"), k)
    samples, rate = soundfile.read("examples/other/0.wav")
    soundfile.write("loud.wav", samples, rate)
    soundfile.write("quiet.wav", samples[: len(samples) // 3] / 100, rate)
    shutil.rmtree("examples/other")
    words = ("predict", f"ckpt={sounds}", "support=examples", "loud.wav", "quiet.wav", "--json")
    code, out, err = mlx(*words)
    assert code == 0 and json.loads(out)["unlike"] == ["shorter: quiet.wav", "quieter: quiet.wav"], err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["new"], "new is no artefact, and support is missing: support=FOLDER, a folder with a folder of examples"),
        (["support=examples"], "support=examples FILE|FOLDER|TABLE"),
        (["suport=examples", "new"], "mlx predict has no setting suport; did you mean support?; it has ckpt, support"),
        (["support=examples", "new", "audit=yes"], "audit must be true or false, got 'yes'"),
        (["support=gone", "new"], "there is no file or folder gone"),
        (["support=gone", "new", "lost.png"], "there is no file or folder lost.png"),  # both are told
        (["support=examples", "gone.png"], "there is no file or folder gone.png"),
        (["support=single", "new"], "single has 1 file in one folder, such as 0.png: a class is a folder"),
        (["support=examples/jay", "new"], "examples/jay has 3 files in one folder, such as 0.png: a class is a folder"),
        (["support=examples", "new", "statistics=query"], "statistics must be support or train, got 'query'"),
        (["support=examples", "notes.txt"], "notes.txt is no image"),
    ],
)
def test_what_cannot_be_used_is_told(
    mlx: Callable, of_pictures: Path, folder: Path, words: list[str], told: str
) -> None:
    Path("notes.txt").write_text("not a picture")
    Path("single").mkdir()
    shutil.copy("new/0.png", "single/0.png")
    code, out, err = mlx("predict", f"ckpt={of_pictures}", *words)
    assert (code, out) == (2, "") and told in err
    assert "Traceback" not in err

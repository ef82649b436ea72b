"""`mlx explain`: a picture and numbers for each file, whatever it is."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sources import audio, images
from sources.text import sentence
from trainings import GRAY, meta_trained


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with examples of two classes, and two new files."""
    monkeypatch.chdir(tmp_path)
    for k, place in enumerate(("examples/crow", "examples/jay", "new")):
        Path(place).mkdir(parents=True)
        for i in range(2):
            images.picture(10 * k + i, "L").save(Path(place) / f"{i}.png")
    return tmp_path


def explanations(mlx: Callable, *words: str) -> list[dict]:
    code, out, err = mlx("explain", *words, "--json")
    assert code == 0, err
    told = json.loads(out)
    whole = json.loads(Path(told["numbers"]).read_text())["explanations"]
    assert [{k: v for k, v in one.items() if k != "values"} for one in whole] == told["explanations"]
    for one in whole:
        with Image.open(one["picture"]) as picture:
            assert min(picture.size) > 100
    return whole


@pytest.mark.parametrize("method", ["gradients", "occlusion"])
@pytest.mark.medium
def test_pictures(mlx: Callable, of_pictures: Path, folder: Path, method: str) -> None:
    found = explanations(mlx, f"ckpt={of_pictures}", "support=examples", "new", f"method={method}", "out=why")
    assert [one["file"] for one in found] == ["0.png", "1.png"]
    assert [one["picture"] for one in found] == ["why/001-0.png", "why/002-1.png"]
    for one in found:
        assert one["method"] == method and -1 <= one["sanity"] <= 1
        assert {own["example"] for own in one["examples"]} == {"crow/0.png", "crow/1.png", "jay/0.png", "jay/1.png"}


@pytest.mark.medium
def test_a_table_for_people(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    code, out, _ = mlx("explain", f"ckpt={of_pictures}", "support=examples", "new")
    assert code == 0 and "explained/002-1.png" in out and "numbers: explained/explanations.json" in out
    assert out.splitlines()[0].split() == "file class probability % sanity strongest example picture".split()


@pytest.mark.slow
def test_recordings(mlx: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("audio", tmp_path_factory.mktemp("sounds"))
    for k, name in enumerate(("low", "high")):
        for i in range(2):
            audio.save(Path("examples") / name / f"{i}.wav", 10 * k + i)
    (one,) = explanations(mlx, f"ckpt={checkpoint}", "support=examples", "examples/low/0.wav")
    assert (len(one["values"]), len(one["values"][0])) == (8, 5)  # bands and frames


@pytest.mark.medium
def test_texts(mlx: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("text", tmp_path_factory.mktemp("texts"))
    rows = [f'"{sentence(k, i)}",{topic}' for k, topic in enumerate(("music", "food")) for i in range(2)]
    Path("examples.csv").write_text("\n".join(["text,label", *rows]))
    (one,) = explanations(mlx, f"ckpt={checkpoint}", "support=examples.csv", sentence(0, 3))
    assert one["parts"][0]["part"] == "do"
    code, _, err = mlx("explain", f"ckpt={checkpoint}", "support=examples.csv", "a text", "method=gradients")
    assert code == 2 and "method=gradients is for pictures and recordings; type method=occlusion" in err


@pytest.mark.medium
def test_rows(mlx: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("table", tmp_path_factory.mktemp("table"))
    rows = ["species,length,width,mass,colour", "a,1,2,3,red", "a,1,3,NA,red", "b,5,NA,9,green", "b,5,5,7,blue"]
    Path("examples.csv").write_text("\n".join(rows) + "\n")
    found = explanations(mlx, f"ckpt={checkpoint}", "support=examples.csv", "examples.csv")
    assert [part["part"] for part in found[0]["parts"]] == ["length", "width", "mass", "colour"]
    assert found[0]["file"] == "examples.csv, line 2"


@pytest.mark.medium
def test_what_columns_are_worth(mlx: Callable, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("table", tmp_path_factory.mktemp("table"))
    words = ("explain", f"ckpt={checkpoint}", "method=permutation", "episodes=3")
    code, out, err = mlx(*words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {one["column"] for one in told["columns"]} == {"length", "width", "mass", "colour"}
    assert json.loads(Path(told["numbers"]).read_text())["columns"] == told["columns"]
    with Image.open(told["picture"]) as picture:
        assert min(picture.size) > 100
    out = mlx(*words).out
    assert "3-way 1-shot, accuracy" in out and "on 3 validation episodes" in out and "sanity: " in out


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.medium
def test_a_map_of_examples_and_files(mlx: Callable, of_pictures: Path, folder: Path, method: str) -> None:
    words = ("explain", f"ckpt={of_pictures}", "support=examples", f"method={method}")
    code, out, err = mlx(*words, "new")
    assert code == 0 and f"4 examples and 2 files by {method}" in out, err
    page = Path("explained/map.html").read_text()
    assert page.count('<g class="new">') == 2 and page.count("<title>crow/0.png, an example of the class crow<") == 1
    answers = json.loads(mlx("predict", *words[1:3], "new", "--json").out)["answers"]
    for answer in answers:
        assert f"<title>{answer['file']}, a file, answered with the class {answer['class']}</title>" in page
    rows = list(csv.DictReader(io.StringIO(Path("explained/map.csv").read_text())))
    assert [row["new"] for row in rows] == ["False"] * 4 + ["True"] * 2
    assert rows[0].keys() == {"item", "class", "new", "x", "y"}
    code, out, _ = mlx(*words, "--json")
    assert code == 0 and len(json.loads(out)["points"]) == 4


def test_the_blocks_of_a_network(mlx: Callable, of_pictures: Path) -> None:
    code, out, err = mlx("explain", f"ckpt={of_pictures}", "method=network")
    assert code == 0 and "Conv4 with ProtoNet" in out and "4x8x8" in out and "in training" in out, err
    code, out, _ = mlx("explain", f"ckpt={of_pictures}", "method=network", "--json")
    assert code == 0 and len(json.loads(out)["blocks"]) == 4


@pytest.mark.slow
def test_a_learner_that_adapts_its_network(
    mlx: Callable, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    maml = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_steps": 1}
    checkpoint = meta_trained("images", tmp_path_factory.mktemp("maml"), GRAY, algorithm=maml, way=2)
    code, out, err = mlx("explain", f"ckpt={checkpoint}", "support=examples", "new/0.png", "--json")
    assert code == 0, err
    assert json.loads(out)["explanations"][0]["examples"] == []
    assert "the influence of examples is not known: each is the only one of its class, or the learner adapts" in err


@pytest.mark.slow
def test_maps_that_show_only_the_item_are_told(
    mlx: Callable, of_pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalearn_cli.deploy import explained

    words = ("explain", f"ckpt={of_pictures}", "support=examples", "new")
    assert "shuffled weights" not in mlx(*words).err
    monkeypatch.setattr(explained, "shuffled", lambda enrolled, x, seed: enrolled)
    assert "networks with shuffled weights give nearly the same maps" in mlx(*words).err


@pytest.mark.medium
def test_an_answer_without_an_explanation_is_told(
    mlx: Callable, of_pictures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metalearn_cli.deploy import explained

    explain = explained.explained

    def certain(*args: object) -> list[dict]:
        return [{**one, "sum": 0.0, "difference": 30.0} for one in explain(*args)]

    words = ("explain", f"ckpt={of_pictures}", "support=examples", "new")
    assert "to the last digit" not in mlx(*words).err
    monkeypatch.setattr(explained, "explained", certain)
    assert "warning: the probability of the answer to 0.png is 1 to the last digit" in mlx(*words).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["new"], "new is no artefact, and support is missing: support=FOLDER, a folder with a folder of examples"),
        (["support=examples", "new", "out="], "out must be a folder, got nothing"),
        (["support=examples"], "there is nothing to explain: mlx explain"),
        (["support=examples", "new", "method=lime"], "method must be one of gradients, occlusion, permutation, pca"),
        (["method=permutation", "new"], "takes no new; type: mlx explain ckpt="),
        (["method=permutation"], "method=permutation is for tables; type method=gradients or method=occlusion"),
        (["method=permutation", "episodes=1"], "episodes must be a number of episodes, 2 or more, got '1'"),
        (["method=network", "ckpt=a1", "support=b"], "takes no support=; type: mlx explain ckpt=a1 method=network"),
        (["support=examples", "new", "episodes=5"], "episodes is for method=permutation; leave it out"),
        (["method=pca"], "support is missing: support=FOLDER"),
        (["support=examples", "new", "metod=occlusion"], "mlx explain has no setting metod; did you mean method?"),
        (["support=examples", "new", "out=notes.txt"], "out=notes.txt is no folder"),
        (["support=examples", "gone.png"], "there is no file or folder gone.png"),
        (["support=examples", "notes.txt"], "notes.txt is no image"),
    ],
)
def test_what_cannot_be_used_is_told(
    mlx: Callable, of_pictures: Path, folder: Path, words: list[str], told: str
) -> None:
    Path("notes.txt").write_text("not a picture")
    code, out, err = mlx("explain", f"ckpt={of_pictures}", *words)
    assert (code, out) == (2, "") and told in err and not Path("explained").exists()


@pytest.mark.slow
def test_recordings_as_samples_are_refused(mlx: Callable, tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone = {"_target_": "metalearn_cli.backbones.cnn1d.Cnn1d", "hidden": 4}
    folder = tmp_path_factory.mktemp("raw")
    checkpoint = meta_trained("audio", folder, {"features": "raw"}, backbone=backbone)
    shutil.copytree(folder / "sounds" / "class00", "examples/low")
    shutil.copytree(folder / "sounds" / "class01", "examples/high")
    code, _, err = mlx("explain", f"ckpt={checkpoint}", "support=examples", "examples/low/2.wav")
    assert code == 2 and "recordings as samples (data.features=raw) have no map" in err


@pytest.mark.medium
def test_pictures_of_before_do_not_stay(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    asked = (f"ckpt={of_pictures}", "support=examples")
    explanations(mlx, *asked, "new")
    (folder / "explained" / "002-mine.png").touch()
    explanations(mlx, *asked, "new/1.png")
    left = {path.name for path in Path("explained").iterdir()}
    assert left == {"001-1.png", "002-mine.png", "explanations.json"}


@pytest.mark.medium
def test_files_unlike_the_examples_are_named(mlx: Callable, of_pictures: Path, folder: Path) -> None:
    with Image.open("new/0.png") as picture:
        picture.point(lambda value: value // 8 + 200).save("pale.png")
    code, _, err = mlx("explain", f"ckpt={of_pictures}", "support=examples", "pale.png")
    assert code == 0 and "warning: unlike the examples" in err and "pale.png" in err

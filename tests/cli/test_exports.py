"""`mlx export`, `enrol`, `unenrol` and `classes`, without the exporter of ONNX, which need not be installed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from sources import images
from sources.text import sentence
from trainings import GRAY, meta_trained

import metalearn_cli
from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy import artefact, changes, deployed, exporting, quantizing
from metalearn_cli.deploy.folder import changing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture(autouse=True)
def without_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: object())
    for module in (artefact, changes, exporting):
        monkeypatch.setattr(module, "graph_of", lambda enrolled, tried: enrolled.embedded.numpy().tobytes())
    monkeypatch.setattr(exporting, "latency", lambda graph, items: len(graph) / 1e6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_pictures: Path) -> Path:
    """Go to a folder with a run, examples of two classes, and files of a third."""
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(of_pictures.parents[3])
    for k, place in enumerate(("examples/crow", "examples/jay", "more/wren", "new")):
        Path(place).mkdir(parents=True)
        for i in range(3):
            images.picture(10 * k + i, "L").save(Path(place) / f"{i}.png")
    return tmp_path


@pytest.mark.medium
def test_a_learner_is_exported_and_answers_as_before(mlx: Callable, folder: Path) -> None:
    code, out, err = mlx("export", "support=examples", "name=birds", "calibration=0", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["folder"] == "exports/birds" and told["result"] is None and told["quantize"] is None
    size = told["files"]["encoder.onnx"]["bytes"]
    assert told["encoder"] == {"float": {"bytes": size, "seconds": size / 1e6}}
    assert set(told["files"]) | {"artefact.json"} == {path.name for path in Path("exports/birds").iterdir()}
    before, after = (
        json.loads(mlx("predict", *words, "new", "--json").out) for words in (["support=examples"], ["exports/birds"])
    )
    for one, two in zip(before["answers"], after["answers"], strict=True):
        assert one["probability"] == pytest.approx(two.pop("probability"), abs=1e-6)
        assert {key: one[key] for key in ("file", "class", "nearest")} == {
            k: two[k] for k in ("file", "class", "nearest")
        }


@pytest.mark.medium
def test_probabilities_are_calibrated_and_the_unknown_is_told(mlx: Callable, folder: Path) -> None:
    code, _, err = mlx("export", "support=examples", "calibration=4", "unknown.keep=0.5")
    assert (
        code == 0 and "fitted on 4 validation episodes of 2 classes with 3 examples each; within a distance of" in err
    )
    about = json.loads(Path("exports/examples/artefact.json").read_text())["calibration"]
    words = ["calibration=4", "unknown.keep=0.5"]
    for own in (["support=examples", *words], ["exports/examples"]):
        _, out, err = mlx("predict", *own, "new", "examples/jay/0.png", "--json")
        told = json.loads(out)
        assert told["calibration"] == pytest.approx(about) and "within a distance of" in err
        for answer in told["answers"]:
            assert answer["unknown"] == (answer["distance"] > about["threshold"])
    out = mlx("predict", "exports/examples", "new").out
    assert out.splitlines()[0].split()[-1] == "unknown"


def test_without_its_data_a_learner_is_exported_uncalibrated(
    mlx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(checkpoint: object) -> None:
        raise UserError("data.root: there is no photos")

    monkeypatch.setattr(deployed, "data_of", gone)
    code, _, err = mlx("export", "support=examples")
    assert code == 0 and "not calibrated: data.root: there is no photos" in err
    assert json.loads(Path("exports/examples/artefact.json").read_text())["calibration"] is None
    code, _, err = mlx("export", "support=examples", "calibration=5", "name=other")
    assert code == 2 and "there is no photos" in err and not Path("exports/other").exists()


@pytest.mark.medium
def test_answers_of_an_artefact_are_explained_as_before(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    before, after = (
        json.loads(mlx("explain", *words, "new/0.png", "--json").out)["explanations"]
        for words in (["support=examples"], ["exports/examples"])
    )
    assert before[0]["sum"] == pytest.approx(after[0]["sum"], abs=1e-5)
    assert [one["example"] for one in before[0]["examples"]] == [one["example"] for one in after[0]["examples"]]
    code, _, err = mlx("explain", "exports/examples", "ckpt=latest", "new")
    assert code == 2 and "ckpt is not for an artefact, which has its own" in err


def test_classes_come_and_go(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    birds = Path("exports/examples")
    before = {path.name: path.read_bytes() for path in birds.iterdir()}
    code, out, _ = mlx("enrol", str(birds), "wren", "more/wren/0.png", "more/wren/1.png")
    assert code == 0 and out.split() == f"{birds} class examples {'─' * 16} crow 3 jay 3 wren 2".split()
    assert json.loads(mlx("classes", str(birds), "--json").out)["classes"] == {"crow": 3, "jay": 3, "wren": 2}
    assert (
        json.loads(mlx("predict", str(birds), "more/wren/0.png", "--json").out)["answers"][0]["nearest"] == "wren/0.png"
    )
    code, out, _ = mlx("unenrol", str(birds), "wren", "--json")
    assert code == 0 and json.loads(out)["classes"] == {"crow": 3, "jay": 3}
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before


def test_names_may_begin_with_a_dash(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    shutil.copy("new/0.png", "-0.png")
    code, _, err = mlx("enrol", "exports/examples", "-wren", "-0.png")
    told = "if it is a name, all names go behind --, as in: mlx enrol -- ARTEFACT -wren"
    assert code == 2 and told in err
    code, out, err = mlx("enrol", "--json", "--", "exports/examples", "-wren", "-0.png")
    assert code == 0 and json.loads(out)["classes"] == {"-wren": 1, "crow": 3, "jay": 3}, err
    assert mlx("unenrol", "--", "exports/examples", "-wren").code == 0


def test_names_may_look_like_settings(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    code, _, err = mlx("enrol", "exports/examples", "size=7", "more/wren")
    told = "mlx enrol has no setting size; it has column.label, column.path, column.text; if it is a name, all names go"
    assert code == 2 and f"{told} behind --, as in: mlx enrol -- ARTEFACT size=7" in err
    for name in ("size=7", "column.label=species"):
        code, out, err = mlx("enrol", "--json", "column.path=file", "--", "exports/examples", name, "more/wren")
        assert code == 0 and json.loads(out)["classes"] == {name: 3, "crow": 3, "jay": 3}, err
        assert mlx("unenrol", "--", "exports/examples", name).code == 0


def test_a_folder_of_classes_is_not_one_class(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    shutil.copytree("new", "more/heron")
    code, _, err = mlx("enrol", "exports/examples", "wren", "more/")
    told = "more/ has items in several folders, heron, wren, and a class is one folder; name that one: more/wren"
    assert code == 2 and told in err
    shutil.make_archive("more", "zip", "more")
    code, _, err = mlx("enrol", "exports/examples", "wren", "more.zip")
    assert code == 2 and "more.zip has items in several folders, heron, wren" in err and "; unpack it" in err
    shutil.rmtree("more/heron")
    code, out, err = mlx("enrol", "exports/examples", "wren", "more", "--json")
    assert code == 0 and json.loads(out)["classes"]["wren"] == 3, err


def test_rows_of_a_class_are_enrolled(mlx: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("table", tmp_path_factory.mktemp("table"))
    head, *rows = "species,length,width,mass,colour a,1,2,3,red a,1,3,NA,red b,5,NA,9,green c,5,5,7,blue".split()
    Path("plants.csv").write_text("\n".join([head, *rows]))
    Path("two.csv").write_text("\n".join([head, *rows[:3]]))
    Path("bare.csv").write_text("\n".join(row.partition(",")[2] for row in [head, *rows]))
    assert mlx("export", f"ckpt={checkpoint}", "support=two.csv", "calibration=0").code == 0

    def enrolled(name: str, *words: str) -> dict[str, int]:
        code, out, err = mlx("enrol", "exports/two", name, *words, "--json")
        assert code == 0, err
        found: dict[str, int] = json.loads(out)["classes"]
        return found

    assert enrolled("c", "plants.csv") == {"a": 2, "b": 1, "c": 1}
    assert enrolled("all", "plants.csv", "column.label=")["all"] == 4
    assert enrolled("bare", "bare.csv")["bare"] == 4
    code, _, err = mlx("enrol", "exports/two", "d", "plants.csv")
    told = "plants.csv has no items of the class d; its column species has a, b, c; with column.label= all its items"
    assert code == 2 and told in err
    code, _, err = mlx("enrol", "exports/two", "d", "plants.csv", "column.label=kind")
    assert code == 2 and "plants.csv has no column 'kind'" in err


def test_texts_of_a_class_are_enrolled(mlx: Callable, tmp_path_factory: pytest.TempPathFactory) -> None:
    checkpoint = meta_trained("text", tmp_path_factory.mktemp("texts"))
    rows = [f'"{sentence(k, i)}",{k}' for k in range(3) for i in range(2)]
    Path("two.csv").write_text("\n".join(["text,label", *rows[:4]]))
    Path("three.csv").write_text("\n".join(["text,label", *rows]))
    assert mlx("export", f"ckpt={checkpoint}", "support=two.csv", "calibration=0").code == 0
    code, out, err = mlx("enrol", "exports/two", "2", "three.csv", "--json")
    assert code == 0 and json.loads(out)["classes"] == {"0": 2, "1": 2, "2": 2}, err
    short = json.loads(mlx("predict", "exports/two", "do", sentence(0, 1), "--json").out)
    assert short["unlike"] == ["shorter: do"]  # than the examples that the artefact was made with


def test_names_of_classes_are_checked_before_an_export(mlx: Callable, folder: Path) -> None:
    Path("examples/jay").rename("examples/ jay")
    code, _, err = mlx("export", "support=examples", "calibration=0")
    assert code == 2 and "the name of a class must be printable, without spaces around it, got ' jay'" in err


def test_a_failed_export_leaves_no_folder(mlx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise UserError("it has no graph")

    monkeypatch.setattr(artefact, "write_artefact", refuse)
    assert mlx("export", "support=examples", "calibration=0").code == 2
    assert not Path("exports").exists()
    Path("exports").mkdir()
    assert mlx("export", "support=examples", "calibration=0").code == 2
    assert Path("exports").exists()


def test_two_exports_at_once_do_not_mix(mlx: Callable, folder: Path) -> None:
    Path("exports").mkdir()
    with changing(Path("exports/birds")):
        code, _, err = mlx("export", "support=examples", "calibration=0")
    assert code == 4 and "is being changed by another mlx process" in err
    assert not list(Path("exports").iterdir())


def test_a_link_to_an_artefact_stays_one(mlx: Callable, folder: Path) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    Path("birds").symlink_to("exports/examples")
    assert mlx("enrol", "birds", "wren", "more/wren").code == 0
    assert Path("birds").is_symlink()
    assert json.loads(mlx("classes", "exports/examples", "--json").out)["classes"]["wren"] == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("export", "support is missing: support=FOLDER"),
        ("export support=examples", "exports/examples exists; remove it, or choose another name: name=NAME"),
        ("export support=examples name=a/b", "name must be a name without folders, got 'a/b'"),
        ("export support=examples new", "mlx export takes no 'new'"),
        ("export support=examples name=small quantize=int4", "quantize must be int8, got 'int4'"),
        ("export support=examples calibration=many", "calibration must be a whole number of validation episodes"),
        ("export support=examples calibration=1", "episodes, 2 or more, or 0 for none, got '1'"),
        ("predict support=examples new calibration=1", "episodes, 2 or more, or 0 for none, got '1'"),
        ("export support=examples unknown.keep=1", "unknown.keep must be a number between 0 and 1, got '1'"),
        ("enrol exports/examples wren", "mlx enrol needs an artefact, the name of a class and its files"),
        ("enrol exports/examples jay new", "the class jay exists, with 3 examples"),
        ("enrol exports/examples wren gone", "there is no file or folder gone"),
        ("enrol examples wren new", "examples is no artefact: it has no artefact.json"),
        ("unenrol exports/examples", "mlx unenrol needs an artefact and the name of a class"),
        ("unenrol exports/examples jay", "without jay there would be a single class"),
        ("unenrol exports/examples jya", "there is no class jya; did you mean jay?"),
        ("predict exports/examples ckpt=latest new", "ckpt is not for an artefact, which has its own"),
        ("predict exports/examples", "there is nothing to predict"),
        (
            "predict support=exports/examples new",
            "which has its own examples: mlx predict exports/examples FILE",
        ),
        ("classes examples", "examples is no artefact"),
    ],
)
def test_what_cannot_be_used_is_told(mlx: Callable, folder: Path, words: str, told: str) -> None:
    assert mlx("export", "support=examples", "calibration=0").code == 0
    before = {path: path.read_bytes() for path in Path("exports").rglob("*") if path.is_file()}
    code, out, err = mlx(*words.split())
    assert (code, out) == (2, "") and told in err
    assert {path: path.read_bytes() for path in Path("exports").rglob("*") if path.is_file()} == before


def test_packages_that_are_missing_are_named_before_any_work(
    mlx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    code, _, err = mlx("export", "support=examples")
    assert code == 2 and "pip install 'metalearn-cli[export]'" in err and not Path("exports").exists()


CHANGE = {"float": 0.5, "int8": 0.4, "gain": -0.1, "half_width": 0.2, "evaluation": "e", "over": {"episodes": 2}}
MADE = {
    "type": "int8",
    "items": {"split": "train", "count": 9, "sha256": "0" * 64},
    "float_sha256": "1" * 64,
    "change": CHANGE,
}


def test_what_integers_cost_is_told(mlx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = mlx("export", "support=examples", "calibration=0", "quantize=int8")
    assert code == 2 and "type first: mlx evaluate ckpt=2" in err and not Path("exports").exists()
    assert mlx("evaluate", "episodes=2", "query=2").code == 0
    monkeypatch.setattr(quantizing, "int8", lambda learner, episodes, graph: (b"integers" * len(graph), MADE))
    monkeypatch.setattr(deployed, "session_of", lambda graph: graph)
    monkeypatch.setattr(deployed, "outputs_of", lambda graph, x: (torch.ones(len(x), 4), torch.eye(len(x), 2)))
    code, out, err = mlx("export", "support=examples", "calibration=0", "quantize=int8")
    assert code == 0, err
    assert "In 8-bit integers the accuracy is 40.0 %, 50.0 % in floats: -10.00 +- 20.00 percentage points" in out
    assert "Here int8 is slower than float, 8.00 times as long for one item." in out
    about = json.loads(Path("exports/examples/artefact.json").read_text())
    card = Path("exports/examples/README.md").read_text()
    assert about["quantize"] == MADE and "In 8-bit integers" in card and "Before it was put into integers" in card
    answers = json.loads(mlx("predict", "exports/examples", "new", "--json").out)["answers"]
    assert [answer["class"] for answer in answers] == ["crow", "jay", "crow"]
    for words, told in (("explain", "explain its checkpoint, or an artefact"), ("stream", "stream to an artefact")):
        code, _, err = mlx(words, "exports/examples", "examples")
        assert code == 2 and f"{told} in floats" in err
    with pytest.raises(UserError, match=r"load its checkpoint, or classify with mlx predict or predict\.py"):
        metalearn_cli.load("exports/examples")


@pytest.mark.medium
def test_classes_of_an_artefact_in_integers_come_and_go(
    mlx: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mlx("evaluate", "episodes=2", "query=2").code == 0
    monkeypatch.setattr(quantizing, "quantized", lambda graph, items: b"integers" + graph)
    monkeypatch.setattr(quantizing, "scores_of", lambda learner, graph, episodes: torch.zeros(2))
    assert mlx("export", "support=examples", "calibration=0", "quantize=int8").code == 0
    birds = Path("exports/examples")
    before = {path.name: path.read_bytes() for path in birds.iterdir()}
    code, out, err = mlx("enrol", str(birds), "wren", "more/wren", "--json")
    assert code == 0 and json.loads(out)["classes"]["wren"] == 3, err
    graph, about = (birds / "encoder.onnx").read_bytes(), json.loads((birds / "artefact.json").read_text())
    assert "both with the batch statistics of the examples at the export)" in (birds / "README.md").read_text()
    assert graph.startswith(b"integers") and graph != before["encoder.onnx"]
    assert about["quantize"]["float_sha256"] == sha256(graph.removeprefix(b"integers")).hexdigest()
    assert mlx("unenrol", str(birds), "wren").code == 0
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before
    monkeypatch.setattr(quantizing, "ITEMS", quantizing.ITEMS - 1)
    code, _, err = mlx("enrol", str(birds), "wren", "more/wren")
    assert code == 2 and "the training data of this artefact in integers (quantize=int8) have changed" in err
    Path("runs").unlink()
    code, _, err = mlx("enrol", str(birds), "wren", "more/wren")
    assert code == 2 and "needs training items to change its classes, and " in err and "without quantize" in err
    assert {path.name: path.read_bytes() for path in birds.iterdir()} == before


SHORT = {
    "evaluate": "episodes=2 query=2",
    "compress": "steps=1 val_episodes=2 query=2 evaluate.episodes=2",
}
"""Settings that make commands of the page short."""


@pytest.mark.slow
def test_the_commands_of_the_page(
    mlx: Callable, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), flags=re.DOTALL)
    known = "mlx (?!serve)"  # which tests/cli/test_serve.py runs
    lines = [line for block in blocks for line in block.splitlines() if re.match(known, line)]
    assert len(lines) == 22
    monkeypatch.setattr(quantizing, "int8", lambda learner, episodes, graph: (graph, MADE))
    shutil.copytree("examples", "sightings")
    for line in lines:
        more: list[str] = []
        if "# texts" in line:
            more = ["--runs-dir", str(meta_trained("text", tmp_path_factory.mktemp("texts")).parents[3])]
            rows = [f'"{sentence(k, i)}",{k}' for k in range(2) for i in range(2)]
            Path("questions.csv").write_text("\n".join(["text,label", *rows]))
            shutil.copy("questions.csv", "more_questions.csv")
        if words := SHORT.get(line.split()[1]):
            more = words.split()
        if "# for tables" in line:
            more = ["--runs-dir", str(meta_trained("table", tmp_path_factory.mktemp("table")).parents[3]), "episodes=2"]
        code, _, err = mlx(*shlex.split(line, comments=True)[1:], *more)
        assert code == 0, f"{line}\n{err}"

"""`mlx stream`: labelled items one by one for an artefact; the exporter of ONNX need not be installed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sources import images, table
from trainings import GRAY, meta_trained

from metalearn_cli.deploy import artefact, exporting


@pytest.fixture(autouse=True)
def without_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: object())
    for module in (artefact, exporting):
        monkeypatch.setattr(module, "graph_of", lambda enrolled, tried: b"graph")
    monkeypatch.setattr(exporting, "latency", lambda graph, tried: 0.001)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("table", tmp_path_factory.mktemp("table"))


@pytest.fixture
def plants(mlx: Callable, checkpoint: Path) -> Path:
    """Export a learner of two species, and return a table of five, with eight rows of each."""
    found = table.fill(Path("plants.csv"), 5, 8)
    Path("two.csv").write_text("".join(found.read_text().splitlines(keepends=True)[:15]))
    assert mlx("export", f"ckpt={checkpoint}", "support=two.csv", "calibration=0", "name=plants").code == 0
    return found


def test_a_table_is_streamed(mlx: Callable, plants: Path) -> None:
    code, out, err = mlx("stream", "exports/plants", "plants.csv", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {f"plants.csv, line {n}" for n in range(2, 16)} <= {*found["again"]} and len(found["again"]) < 20
    assert "of 40 items are examples already, such as plants.csv, line 2: their answers are better" in err
    assert (found["known"], found["new"], found["items"], found["saved"]) == (2, 3, 30, False)
    assert found["held_out"]["over"] == {"items": 10} and found["repeated"]["value"] > 0.8
    assert [one["class"] for one in found["answers"]] == sorted(one["class"] for one in found["answers"])
    code, out, _ = mlx("stream", "exports/plants", "plants.csv", "order=shuffled", "seed=3", "--json")
    assert code == 0 and json.loads(out)["repeated"]["value"] < 0.6
    code, out, _ = mlx("stream", "exports/plants", "plants.csv", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 30 and rows[0].keys() == {"item", "class", "answer", "right"}
    assert [row["right"] for row in rows].count("") == 3  # the first of each new class
    code, out, _ = mlx("stream", "exports/plants", "plants.csv")
    assert code == 0 and "prequential" in out and "flatters" in out and "10 items" in out


def test_the_items_of_a_stream_are_saved(mlx: Callable, plants: Path) -> None:
    code, out, err = mlx("stream", "exports/plants", "plants.csv", "save=true")
    assert code == 0 and "exports/plants has the items of the stream as examples now." in out, err
    found = json.loads(mlx("classes", "exports/plants", "--json").out)["classes"]
    assert found == {"species00": 14, "species01": 12, "species02": 6, "species03": 6, "species04": 6}


@pytest.mark.medium
def test_batch_statistics_must_be_those_of_training_items(
    mlx: Callable, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ckpt = f"ckpt={meta_trained('images', tmp_path_factory.mktemp('pictures'), GRAY)}"
    for k, name in enumerate(("crow", "jay")):
        for i in range(5):
            Path("birds", name).mkdir(parents=True, exist_ok=True)
            images.picture(10 * k + i, "L").save(Path("birds", name, f"{i}.png"))
    assert mlx("export", ckpt, "support=birds", "calibration=0").code == 0
    code, _, err = mlx("stream", "exports/birds", "birds")
    told = "each item would change the answers to all others; export it again with statistics=train"
    assert code == 2 and told in err
    assert mlx("export", ckpt, "support=birds", "calibration=0", "statistics=train", "name=fixed").code == 0
    code, out, err = mlx("stream", "exports/fixed", "birds", "--json")
    assert code == 0 and json.loads(out)["held_out"]["over"] == {"items": 2}, err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("exports/plants", "mlx stream needs an artefact and its labelled items: mlx stream ARTEFACT FOLDER|TABLE"),
        ("plants.csv plants.csv", "plants.csv is no artefact"),
        ("exports/plants gone.csv", "there is no file or folder gone.csv"),
        ("exports/plants plants.csv order=random", "order must be shuffled or given, got 'random'"),
        ("exports/plants plants.csv held_out=1", "held_out must be a number between 0 and 1, got '1'"),
        ("exports/plants plants.csv held_out=0.01", "0 of 40 items would be held out"),
        ("exports/plants plants.csv replay=0", "replay must be a number of items, 1 or more, got '0'"),
        ("exports/plants plants.csv replay=3", "ProtoNet keeps the means of its classes"),
        ("exports/plants plants.csv save=yes", "save must be true or false, got 'yes'"),
        ("exports/plants plants.csv sead=1", "mlx stream has no setting sead; did you mean seed?"),
        ("exports/plants plants.csv column.label=kind", "plants.csv has no column 'kind'"),
    ],
)
def test_what_cannot_be_used_is_told(mlx: Callable, plants: Path, words: str, told: str) -> None:
    code, out, err = mlx("stream", *words.split())
    assert (code, out) == (2, "") and told in err

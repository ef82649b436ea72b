"""Every file that a document names is there after an ordinary chain, and holds what the document says."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from faults.folders import scalars
from PIL import Image

from metalearn_cli.records.checkpoint import open_checkpoint, read_resume, read_tensors
from metalearn_cli.records.embedding import read_embedding

ROOT = Path(__file__).parents[2]
WORDS = (
    "way=2 query=3 backbone=mlp backbone.hidden=4 model=classifier data=gaussian data.items=160 data.classes=16 "
    "evaluate.episodes=4 runtime.threads=1 "
).split() + [
    f"{stage}.{word}"
    for stage in ("pretrain", "transfer", "meta_train")
    for word in ("steps=4", "val_episodes=2", "every={log:1,evaluate:2,save:2}")
]


def of_json(path: Path) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{path} has {constant}")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def is_config(run: Path) -> None:
    assert of_json(run / "config.json")["way" if run.parent.name != "run" else "own"]


def is_run(run: Path) -> None:
    info = of_json(run / "run.json")
    assert (info["id"], info["stage"], info["status"]) == (run.name, run.parent.name, "completed")
    assert info["metric"]["value"] >= 0 and info["seconds"] > 0 and info["data"]["fingerprint"]


def is_log(run: Path) -> None:
    text = (run / "mlx.log").read_text()
    assert re.search(r" INFO \S+: cpu, 1 thread, 32-true; data gaussian", text)
    assert " INFO data took " in text
    assert " INFO result: {" in text
    assert f" INFO {run.parent.name} completed after " in text


def is_metrics(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0] * (run.parent.name == "transfer") + [
        1,
        2,
        2,
        3,
        4,
        4,
    ]  # transfer scores its start, too
    assert all(line["seconds"] > 0 for line in lines)
    assert all(("train/loss" in line) != ("val/accuracy" in line) for line in lines)


def is_manifest(run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        assert of_json(checkpoint / "manifest.json")["step"] in (0, 2, 4)
        assert any(name.startswith("backbone.") for name in read_tensors(open_checkpoint(checkpoint)))


def is_resume(run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        assert read_resume(open_checkpoint(checkpoint))["optimizer"]


def is_episodes(run: Path) -> None:
    with (run / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows] == ["0", "1", "2", "3"]
    assert all(0 <= float(row["none"]) <= 1 for row in rows)  # by the protocol of a network without statistics


def is_class_scores(run: Path) -> None:
    with (run / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["class"] for row in rows}) == len(rows) >= 2
    assert all(0 <= float(row["accuracy"]) <= 1 and int(row["queries"]) >= 3 for row in rows)


def is_embedding(run: Path) -> None:
    found = read_embedding(run)
    assert found and len({name for name, _, _ in found.points}) >= 2 and 0 < sum(found.variance) <= 1 + 1e-3


def is_tensorboard(run: Path) -> None:
    assert {step for step, name, _ in scalars(run / "tensorboard") if name == "train/loss"} == {1, 2, 3, 4}


def is_picture(run: Path) -> None:
    pictures = list((run / "plots").iterdir())
    assert pictures
    for path in pictures:
        with Image.open(path) as image:
            assert path.suffix == ".png" and len(image.convert("L").getcolors() or range(256)) > 20


def is_splits(run: Path) -> None:
    lists = of_json(run / "splits.json")
    names = [name for split in ("train", "val", "test") for name in lists[split]]
    assert len(set(names)) == len(names) >= 6


def is_classes(run: Path) -> None:
    for file in (run / "checkpoints").glob("step-*/classes.json"):
        records = of_json(file)["trained_on"]  # the stages of a chain have the same classes
        assert records and all(record["classes"] == of_json(run / "splits.json")["train"] for record in records)


ALL = ("pretrain", "transfer", "meta-train", "evaluate", "run")
TRAINED = ALL[:3]
FILES = {
    "config.json": (is_config, ALL),
    "run.json": (is_run, ALL),
    "mlx.log": (is_log, ALL),
    "metrics.jsonl": (is_metrics, TRAINED),
    "splits.json": (is_splits, TRAINED),
    "classes.json": (is_classes, TRAINED),
    "manifest.json": (is_manifest, TRAINED),
    "resume.pt": (is_resume, TRAINED),
    "episodes.csv": (is_episodes, ("evaluate",)),
    "classes.csv": (is_class_scores, ("evaluate",)),
    "embedding.csv": (is_embedding, ("evaluate",)),
    "TensorBoard": (is_tensorboard, TRAINED),
    "PNG": (is_picture, TRAINED),
}
"""What looks at each kind of file, and the stages that write it."""

THEIRS = {
    "data_full.json",
    "dataset_spec.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "train.csv",
}
"""Files that users bring."""

OTHERS = {
    *("data-my_photos.png", "reliability.png"),  # of `mlx data show` and of `calibration=N`
    "fits.png",  # of an evaluated regression
    *("columns.json", "columns.png", "map.csv"),  # of `mlx explain`
    *("artefact.json", "classes.safetensors", "learner.safetensors", "support.safetensors"),  # of `mlx export`
    "compress.json",  # of `mlx compress`
    "openapi.json",  # of `mlx serve`
    *("ablate.json", "journal.log", "output.json", "results.csv", "results.json"),  # of `mlx ablate` and of sweeps
    "verify.json",  # of `mlx verify`
}
"""Files of other commands, which their own tests open."""


@pytest.mark.medium
def test_every_file_that_a_document_names_is_there_and_holds_something(mlx, pictures, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("MLX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    answer = mlx("run", *WORDS)
    assert answer.code == 0, answer.err
    for look, stages in FILES.values():
        for stage in stages:
            folders = list(Path("runs", stage).iterdir())
            assert folders
            for folder in folders:
                look(folder)


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_the_table_of_files_has_what_documents_name(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`(?:[^`\s]*/)?([\w-]+\.(?:json|jsonl|log|csv|png|pt|safetensors))`", text))
    assert named - THEIRS - OTHERS <= FILES.keys()

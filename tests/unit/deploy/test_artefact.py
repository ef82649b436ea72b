"""An artefact has all that its learner needs, and changes as a whole or not at all."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.components import specs
from sources import images
from trainings import GRAY, meta_trained

import metalearn_cli
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import InUseError, UserError
from metalearn_cli.deploy import artefact
from metalearn_cli.deploy.artefact import read_artefact, write_artefact
from metalearn_cli.deploy.calibrating import Calibration
from metalearn_cli.deploy.deployed import (
    Deployed,
    Support,
    deployed,
    named,
    predicted,
    reader_of,
    suspects,
    with_class,
    without_class,
)
from metalearn_cli.deploy.folder import changing, read_about, seal_of
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.record import record_of
from metalearn_cli.deploy.trained import learner_of
from metalearn_cli.records.runs import sha256_of

CALIBRATION = Calibration(0.5, 1.5, 0.95, 0.4, 3, 3, 10)
RECORD = {"result": None, "lineage": [{"run": "r", "stage": "meta-train", "sha256": None}]}


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write examples of three classes."""
    folder = tmp_path_factory.mktemp("files")
    for k, name in enumerate(("crow", "jay", "wren")):
        (folder / name).mkdir()
        for i in range(3):
            images.picture(10 * k + i, "L").save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(params=["support", "train"])
def learner(request: pytest.FixtureRequest, of_pictures: Path, files: Path) -> Deployed:
    trained = named(str(of_pictures), "runs", request.param)
    return deployed(trained, Support(*_of(reader_of(trained, {}).support(str(files)))), CALIBRATION)


@pytest.fixture(autouse=True)
def without_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write something else in place of the ONNX graph, whose exporter need not be installed."""
    monkeypatch.setattr(artefact, "graph_of", lambda enrolled, tried: enrolled.embedded.numpy().tobytes())


def _of(found: Inputs) -> Any:
    return found.names, found.labels, found.items


def queries(learner: Deployed, files: Path) -> Inputs:
    return reader_of(learner.trained, {}).queries([str(files)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.medium
def test_what_is_read_answers_as_what_was_written(learner, files, tmp_path, of_pictures):
    about = write_artefact(tmp_path / "birds", learner, RECORD)
    shutil.move(of_pictures, tmp_path / "away")  # nothing else is needed
    try:
        again, read = read_artefact(tmp_path / "birds")
        assert read == json.loads(json.dumps(about)) and read["examples"][0] == {"name": "crow/0.png", "class": "crow"}
        wanted = predicted(learner, queries(learner, files))
        for one, two in zip(predicted(again, queries(again, files)), wanted, strict=True):
            assert all(one[key] == two[key] for key in ("class", "nearest", "unknown"))
            assert one["probability"] == pytest.approx(two["probability"], abs=1e-6)
        found = metalearn_cli.load(str(tmp_path / "birds"))
        assert found.classes_.tolist() == ["crow", "jay", "wren"]
        assert found.predict([files / "jay" / "0.png"]).tolist() == [wanted[3]["class"]]
        p = found.predict_proba([files / "jay" / "0.png"])[0]
        assert p == pytest.approx([*wanted[3]["probabilities"].values()], abs=1e-6)  # with the same temperature
        assert np.array_equal(pickle.loads(pickle.dumps(found)).predict_proba([files / "jay" / "0.png"])[0], p)
        found.fit(np.zeros((2, 1, 16, 16), np.uint8), [0, 1])  # other classes
    finally:
        shutil.move(tmp_path / "away", of_pictures)


@pytest.mark.parametrize("name", ["matching_net", "r2d2", "finetune_at_test", "proto_maml", "baseline_pp"])
def test_every_kind_of_state_is_written(name, of_pictures, files, tmp_path):
    trained = named(str(of_pictures), "runs", "support")
    spec = specs("algorithm")[name]
    own = build(spec, "algorithm").init(learner_of(trained, 3)[0].net, 3)
    tensors = trained.tensors | {f"learner.{key}": tensor for key, tensor in own.items()}
    made = deployed(
        trained._replace(algorithm=spec, tensors=tensors), Support(*_of(reader_of(trained, {}).support(str(files))))
    )
    write_artefact(tmp_path / "birds", made, RECORD)
    again, _ = read_artefact(tmp_path / "birds")
    assert again.enrolled.state.keys() == made.enrolled.state.keys()
    for key, tensor in made.enrolled.state.items():
        torch.testing.assert_close(again.enrolled.state[key], tensor)


def test_a_class_that_comes_and_goes_leaves_the_same_bytes(learner, files, tmp_path):
    write_artefact(tmp_path / "birds", learner, RECORD)
    before = contents(tmp_path / "birds")
    again, _ = read_artefact(tmp_path / "birds")
    write_artefact(tmp_path / "birds", with_class(again, "egret", queries(again, files / "jay")), RECORD)
    more, about = read_artefact(tmp_path / "birds")
    assert more.classes == ("crow", "egret", "jay", "wren")
    assert about["examples"][3] == {"name": "egret/0.png", "class": "egret"}
    assert len(predicted(more, queries(more, files))[0]["probabilities"]) == 4
    write_artefact(tmp_path / "birds", without_class(more, "egret"), RECORD)
    assert contents(tmp_path / "birds") == before
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_only_statistics_of_training_items_leave_other_answers_as_they_are(learner, files):
    def difference(of: Deployed) -> np.ndarray:
        found = [answer["probabilities"] for answer in predicted(of, queries(of, files))]
        return np.array([np.log(p["crow"] / p["jay"]) for p in found])

    more = with_class(learner, "egret", queries(learner, files / "wren"))
    same = np.allclose(difference(learner), difference(more), atol=1e-4)
    assert same == bool(learner.trained.statistics)


def test_pictures_are_stored_as_bytes(learner, tmp_path):
    write_artefact(tmp_path / "birds", learner, RECORD)
    kept = artefact.tensors_in(tmp_path / "birds" / "support.safetensors")
    if learner.trained.statistics:
        assert kept.keys() == {"embeddings", "looks", "pictures"}
    pictures = kept["pictures" if learner.trained.statistics else "items"]
    assert pictures.dtype == torch.uint8 and pictures.shape == (9, 1, 16, 16)


def test_an_example_in_the_wrong_folder_is_named(learner, files):
    assert not [one for one in suspects(learner) if one["margin"] < 0]
    labels = list(learner.support.labels)
    x = learner.support.x[[0, 0, 0, 3, 3, 3, 6, 6, 0]]  # the last one is a crow among wrens
    wrong = deployed(learner.trained, learner.support._replace(x=x, labels=tuple(labels)), None)
    (first, *_) = suspects(wrong)
    assert (first["example"], first["class"], first["answer"]) == ("wren/2.png", "wren", "crow") and first["margin"] > 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda of, more: with_class(of, "jay", more), "the class jay exists, with 3 examples; take another name"),
        (lambda of, more: with_class(of, " jay", more), "must be printable, without spaces around it, got ' jay'"),
        (lambda of, more: with_class(of, "", more), "must be printable"),
        (lambda of, more: with_class(of, "j\nay", more), "must be printable"),
        (lambda of, more: with_class(of, "j\udcff", more), "must be printable"),
        (lambda of, more: without_class(of, "crw"), r"there is no class crw; did you mean crow\?"),
        (lambda of, more: without_class(of, "zzz"), "there is no class zzz; there are crow, jay, wren"),
        (lambda of, more: without_class(without_class(of, "jay"), "crow"), "there would be a single class"),
    ],
)
def test_what_cannot_be_changed_is_told(learner, files, change, told):
    with pytest.raises(UserError, match=told):
        change(learner, queries(learner, files / "jay"))


def test_on_a_full_disk_the_old_version_stands(learner, files, tmp_path, monkeypatch):
    write_artefact(tmp_path / "birds", learner, RECORD)
    before, written = contents(tmp_path / "birds"), list[str]()

    def full(path: Path, data: bytes) -> None:
        written.append(path.name)
        if path.name == "support.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(artefact, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_artefact(tmp_path / "birds", with_class(learner, "egret", queries(learner, files / "jay")), RECORD)
    assert len(written) > 1 and contents(tmp_path / "birds") == before
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_a_change_that_was_killed_between_its_last_steps_is_undone(learner, tmp_path):
    write_artefact(tmp_path / "birds", learner, RECORD)
    (tmp_path / "birds").rename(tmp_path / ".birds.old")
    assert read_about(tmp_path / "birds")["classes"] == ["crow", "jay", "wren"]


def test_an_artefact_is_not_put_back_while_it_is_changed(learner, tmp_path):
    write_artefact(tmp_path / "birds", learner, RECORD)
    with changing(tmp_path / "birds"):
        (tmp_path / "birds").rename(tmp_path / ".birds.old")
        with pytest.raises(InUseError, match="is being changed by another mlx process"):
            read_about(tmp_path / "birds")
        assert [path.name for path in tmp_path.iterdir()] == [".birds.old"]


def test_an_artefact_is_read_from_within_and_changed_from_outside(learner, tmp_path, monkeypatch):
    write_artefact(tmp_path / "birds", learner, RECORD)
    monkeypatch.chdir(tmp_path / "birds")
    assert read_about(Path())["name"] == "birds"
    with pytest.raises(UserError, match=r"replaces the folder that you are in; .* first: cd "), changing(Path()):
        pass


def test_what_else_lies_in_an_artefact_stays(learner, files, tmp_path):
    write_artefact(tmp_path / "birds", learner, RECORD)
    (tmp_path / "birds" / "notes.txt").write_text("ours")
    (tmp_path / "birds" / "more").mkdir()
    (tmp_path / "birds" / "more" / "link").symlink_to("nowhere")
    write_artefact(tmp_path / "birds", with_class(learner, "egret", queries(learner, files / "jay")), RECORD)
    assert (tmp_path / "birds" / "notes.txt").read_text() == "ours"
    assert (tmp_path / "birds" / "more" / "link").is_symlink()


def test_two_changes_at_once_are_refused(tmp_path):
    with changing(tmp_path / "birds"):
        with pytest.raises(InUseError, match="is being changed by another mlx process"), changing(tmp_path / "birds"):
            pass
    with changing(tmp_path / "birds"):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"there is no folder .*gone/birds"), changing(tmp_path / "gone" / "birds"):
        pass


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "artefact.json").unlink(), "is no artefact: it has no artefact.json"),
        (lambda f: _edit(f, format=2), "has a format that this version does not read .format 2; it reads format 1."),
        (lambda f: _edit(f, classes="crow"), "artefact.json is damaged: classes must be a list"),
        (lambda f: _edit(f, examples=[]), "damaged: it names 0 examples, and there are 9"),
        (lambda f: _edit(f, classes=["wren", "jay", "crow"]), "damaged: its classes are not those of its examples"),
        (
            lambda f: _replace(f, '"temperature": ', '"temperature": 1'),
            "artefact.json was changed after it was written",
        ),
        (lambda f: (f / "learner.safetensors").unlink(), "learner.safetensors is missing"),
        (lambda f: (f / "support.safetensors").write_bytes(b"x"), "support.safetensors is damaged: its sha256"),
        (lambda f: _tensors(f, "support", items=torch.zeros(9, 3, 16, 16)), "the parts of .* do not fit each other"),
        (lambda f: _tensors(f, "support", other=torch.zeros(9)), "is damaged: it has no examples"),
        (lambda f: _tensors(f, "learner", other=torch.zeros(9)), "has other tensors than its backbone"),
        (lambda f: _edit(f, learner={"backbone": {"_target_": "os.system"}, "algorithm": {}}), "may not be built"),
    ],
)
def test_damage_is_told(learner, tmp_path, damage, told):
    write_artefact(tmp_path / "birds", learner, RECORD)
    damage(tmp_path / "birds")
    with pytest.raises(UserError, match=told):
        read_artefact(tmp_path / "birds")


def _replace(folder: Path, old: str, new: str) -> None:
    file = folder / "artefact.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def _tensors(folder: Path, name: str, **tensors: torch.Tensor) -> None:
    file = folder / f"{name}.safetensors"
    file.write_bytes(artefact.packed(tensors))
    files = json.loads((folder / "artefact.json").read_text())["files"]
    _edit(folder, files={**files, file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size}})


def _edit(folder: Path, **changes: Any) -> None:
    """Change artefact.json as its own writer would, so that only what it says is wrong."""
    about = {**json.loads((folder / "artefact.json").read_text()), **changes}
    (folder / "artefact.json").write_text(json.dumps({**about, "sha256": seal_of(about)}))


def test_the_card_says_what_it_is(learner, tmp_path):
    result = {"value": 0.815, "interval": 0.006, "way": 5, "shot": 1, "over": {"episodes": 1000}, "run": "r9"}
    write_artefact(tmp_path / "birds", learner, {**RECORD, "result": {**result, "normalisation": "inductive"}})
    card = (tmp_path / "birds" / "README.md").read_text()
    assert "temperature 0.5, fitted on 10 validation episodes of 3 classes with 3 examples each" in card
    assert "81.5 +- 0.6 % accuracy, 5-way 1-shot, on 1000 episodes" in card and "| jay | 3 |" in card
    assert "mlx predict birds FILE|FOLDER" in card and "mlx enrol birds NAME" in card
    assert "(inductive; 95 % interval" in card
    write_artefact(tmp_path / "plain", learner, {**RECORD, "result": {**result, "normalisation": "none"}})
    assert "not seen (95 % interval over" in (tmp_path / "plain" / "README.md").read_text()
    write_artefact(tmp_path / "others", learner, RECORD)
    assert "It was not evaluated" in (tmp_path / "others" / "README.md").read_text()


def test_the_record_has_the_result_of_the_same_checkpoint(of_pictures, tmp_path):
    runs = of_pictures.parents[3]
    source = named(str(of_pictures), "runs", "support").source
    protonet = {"_target_": "metalearn_cli.algorithms.protonet.ProtoNet"}
    assert record_of(source, protonet, str(runs))["result"] is None
    folder = runs / "evaluate" / "e1"
    folder.mkdir(parents=True)
    scores = [
        {"name": f"{split}/accuracy", "value": v, "normalisation": n, "learner": "ProtoNet", "way": 3, "shot": 1}
        for split, v, n in (("test", 0.9, "transductive"), ("val", 0.7, "inductive"), ("test", 0.8, "inductive"))
    ]
    info = {"id": "e1", "stage": "evaluate", "status": "completed", "parent": source, "results": scores}
    (folder / "run.json").write_text(json.dumps(info))
    found = record_of(source, protonet, str(runs))
    shutil.rmtree(runs / "evaluate")
    assert found["result"]["value"] == 0.8 and found["result"]["run"] == "e1"
    assert found["lineage"] == [{"run": source["run"], "stage": "meta-train", "sha256": source["sha256"]}]

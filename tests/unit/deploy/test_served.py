"""An artefact answers by onnxruntime as it does by torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exports import ENDINGS, exported, write
from PIL import Image
from sources import audio, text

pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")

from metalearn_cli.core.errors import UserError
from metalearn_cli.deploy import explained, served
from metalearn_cli.deploy.artefact import read_artefact
from metalearn_cli.deploy.bodies import Limits, item_of
from metalearn_cli.deploy.deployed import predicted, reader_of, warnings_of
from metalearn_cli.deploy.folder import seal_of
from metalearn_cli.deploy.served import Served, answer, explanation, opened


@pytest.fixture(
    scope="module",
    params=["images", pytest.param("audio", marks=pytest.mark.slow), pytest.param("text", marks=pytest.mark.slow)],
)
def of_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Return an artefact and some new files."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    birds = exported(kind, folder)
    return birds, [write(kind, folder / "new" / f"{i}{ENDINGS[kind]}", 10 * i + 7) for i in range(4)]


def test_answers_are_those_of_torch(of_kind):
    birds, files = of_kind
    learner, _ = read_artefact(birds)
    queries, found = reader_of(learner.trained, {}).queries(list(map(str, files))), opened(birds)
    assert found.sizes == {"crow": 3, "jay": 3, "wren": 3}
    for file, wanted in zip(files, predicted(learner, queries), strict=True):
        own = answer(found, item_of(file.read_bytes(), found, Limits()))
        assert own["class"] == wanted["class"] and own["unknown"] == wanted["unknown"]
        assert own["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
        assert own["distance"] == pytest.approx(wanted["distance"], rel=1e-4)
        assert own["nearest"] == own["examples"][0]["example"] == wanted["nearest"]
        assert [one["distance"] for one in own["examples"]] == sorted(one["distance"] for one in own["examples"])
        assert [one["example"].split("/")[0] for one in own["examples"]] == [one["class"] for one in own["examples"]]


def test_explanations_are_those_of_torch(of_kind):
    birds, files = of_kind
    learner, _ = read_artefact(birds)
    queries, found, asked = reader_of(learner.trained, {}).queries([str(files[0])]), opened(birds), list[int]()
    (wanted,) = explained.explained(learner, queries, "occlusion")
    own = explanation(found, item_of(files[0].read_bytes(), found, Limits()).x, lambda: asked.append(1))
    assert own["class"] == wanted["class"] and own["probability"] == pytest.approx(wanted["probability"], abs=1e-5)
    assert asked
    if "parts" in wanted:
        assert [one["part"] for one in own["parts"]] == [one["part"] for one in wanted["parts"]]
        assert [one["value"] for one in own["parts"]] == pytest.approx([p["value"] for p in wanted["parts"]], abs=1e-5)
    else:
        np.testing.assert_allclose(own["values"], wanted["values"], atol=1e-5)
        np.testing.assert_allclose(own["item"], queries.items[0], atol=1e-6)


NEW = {"image": ".png", "audio": ".wav", "text": ".txt"}


def unlike(kind: str, path: Path) -> Path:
    """Write a file that is unlike those of `exports.write`: white, long, or long and loud."""
    if kind == "image":
        Image.new("L", (16, 16), 255).save(path)
    elif kind == "audio":
        soundfile.write(path, 2 * audio.sound(7, 0.3), audio.RATE, subtype="FLOAT", format="WAV")
    else:
        path.write_text(text.sentence(0, 7) * 3)
    return path


def test_files_unlike_the_examples_are_named_as_by_predict(of_kind, tmp_path):
    birds, _ = of_kind
    learner, _ = read_artefact(birds)
    kind, found = learner.trained.facts.kind, opened(birds)
    file = unlike(kind, tmp_path / f"odd{NEW[kind]}")
    ways = answer(found, item_of(file.read_bytes(), found, Limits()))["unlike"]
    queries = reader_of(learner.trained, {}).queries([str(file)])
    assert ways and [line.partition(": ")[0] for line in warnings_of(learner, queries)] == ways


RECORDINGS = {"rate": audio.RATE, "seconds": 0.1, "features": "raw"}


@pytest.mark.parametrize(
    ("kind", "preprocessing", "looks", "ways"),
    [
        ("text", {"tokenizer": "bytes", "length": 4}, [[10.0], [20.0]], ["longer"]),
        ("audio", RECORDINGS, [[0.1, -50.0], [0.1, -40.0]], ["longer", "louder"]),
    ],
)
def test_texts_and_recordings_unlike_the_examples_are_named(kind, preprocessing, looks, ways, tmp_path):
    about = {"preprocessing": preprocessing, "tokenizer": "", "calibration": None, "classes": ["crow", "jay"]}
    about |= {"sha256": "0" * 64, "examples": [{"name": name, "class": name} for name in about["classes"]]}
    zeros = np.zeros((2, 2), np.float32)
    found = Served(about, kind, lambda x: (zeros[: len(x)],) * 2, {}, zeros, zeros, np.array(looks, np.float32), None)
    content = unlike(kind, tmp_path / f"odd{NEW[kind]}").read_bytes()
    told = answer(found, item_of(content, found, Limits()))
    assert told["unlike"] == ways and told["examples"][0]["picture"] is None


def _edit(folder: Path, **changes: object) -> None:
    about = {**json.loads((folder / "artefact.json").read_text()), **changes}
    (folder / "artefact.json").write_text(json.dumps({**about, "sha256": seal_of(about)}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda f: _edit(f, format=7),
            "a format that this version does not read",
        ),
        (lambda f: (f / "encoder.onnx").write_bytes(b"x"), "encoder.onnx is damaged: its sha256"),
        (lambda f: _edit(f, examples=[]), "is damaged: its examples are not those of its classes"),
        (lambda f: _edit(f, classes=["a", "b", "c"]), "is damaged: its examples are not those of its classes"),
        (lambda f: _edit(f, preprocessing={}), "takes no pictures, recordings or texts, so that it has no page"),
    ],
)
def test_what_cannot_be_served_is_told(of_kind, tmp_path, change, told):
    folder = tmp_path / "birds"
    shutil.copytree(of_kind[0], folder)
    change(folder)
    with pytest.raises(UserError, match=told):
        opened(folder)


def test_recordings_as_samples_have_no_map(of_kind):
    found = opened(of_kind[0])._replace(kind="audio")
    with pytest.raises(UserError, match=r"recordings as samples .* have no map"):
        explanation(found, np.zeros(8, np.float32), lambda: None)


def test_an_explanation_can_be_stopped(of_kind):
    def stop() -> None:
        raise InterruptedError

    found = opened(of_kind[0])
    with pytest.raises(InterruptedError):
        explanation(found, np.ones(found.about["input"]["shape"], found.about["input"]["dtype"]), stop)
    assert served.AT_ONCE < 100  # so that it is soon

"""The Python interface: files, arrays and strings, any labels, and scikit-learn's tools."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sources import audio, images
from sources.text import sentence
from trainings import GRAY, meta_trained, trained

import metalearn_cli
from metalearn_cli import FewShotClassifier, UserError, load
from metalearn_cli.deploy import classifier
from metalearn_cli.deploy.trained import of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return meta_trained("images", tmp_path_factory.mktemp("pictures"), GRAY)


def drawings(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, 16, 16), np.uint8))


X, Y, Q = drawings(6), ["b", "a", "b", "a", "c", "c"], drawings(5, 1)


@pytest.fixture
def learnt(of_pictures: Path) -> FewShotClassifier:
    return load(str(of_pictures)).fit(X, Y)


@pytest.mark.medium
def test_a_run_is_named_as_on_the_command_line(of_pictures):
    runs_dir = str(of_pictures.parents[3])
    for name in ("latest", "latest:meta-train", of_pictures.parents[1].name, str(of_pictures.parents[1])):
        assert load(name, runs_dir=runs_dir).source == str(of_pictures)
    with pytest.raises(UserError, match=r"run=lastest: there is no run 'lastest'.* did you mean latest"):
        load("lastest", runs_dir=runs_dir)
    with pytest.raises(UserError, match="statistics must be support or train, got 'test'"):
        load(str(of_pictures), statistics="test")


@pytest.mark.medium
def test_classes_are_learnt_and_predicted(learnt):
    assert learnt.classes_.tolist() == ["a", "b", "c"]
    p = learnt.predict_proba(Q)
    assert p.shape == (5, 3) and np.allclose(p.sum(1), 1, atol=1e-6)
    assert learnt.predict(Q).tolist() == learnt.classes_[p.argmax(1)].tolist()
    assert learnt.predict(X).tolist() == Y and learnt.score(X, Y) == 1  # ProtoNet knows its examples here
    learnt.adapt(X[:4], [7, 3, 7, 3])  # what was learnt before is forgotten
    assert learnt.classes_.tolist() == [3, 7]


@pytest.mark.parametrize("statistics", ["support", "train"])
def test_an_answer_does_not_depend_on_the_others(of_pictures, statistics):
    found = load(str(of_pictures), statistics=statistics).fit(X, Y)
    together = found.predict_proba(Q)
    for order in ([4, 2, 0, 1, 3], [2]):
        assert np.allclose(found.predict_proba(Q[order]), together[order], atol=1e-5)


def test_statistics_of_training_items_do_not_change_with_a_class(of_pictures):
    def distances(statistics: str, classes: int) -> np.ndarray:
        found = load(str(of_pictures), statistics=statistics).fit(
            X[: 2 * classes], [k for k in range(classes) for _ in "12"]
        )
        return np.log(found.predict_proba(Q)[:, :2]) @ [1, -1]  # the difference of two logits

    assert np.allclose(distances("train", 2), distances("train", 3), atol=1e-3)
    assert not np.allclose(distances("support", 2), distances("support", 3), atol=1e-3)


def test_items_of_every_form(learnt, of_pictures, tmp_path):
    wanted = learnt.predict_proba(Q)
    numbers = Q.float() / 255
    rows = numbers.flatten(1).numpy()
    for given in (Q.numpy(), numbers, rows, list(rows), rows.tolist(), list(Q)):
        assert np.allclose(learnt.predict_proba(given), wanted, atol=1e-6)
    names = []
    for i, item in enumerate(Q):
        names.append(tmp_path / f"{i}.png")
        Image.fromarray(item[0].numpy()).save(names[-1])
    pictures = [Image.open(name) for name in names]
    for given in (names, [str(name) for name in names], np.array(list(map(str, names))), pictures, Q[:, 0].numpy()):
        found = learnt.predict_proba(given)
        assert np.allclose(found, learnt.predict_proba(names), atol=1e-6)


@pytest.mark.medium
def test_texts_and_rows_and_recordings(tmp_path):
    texts = [sentence(k, i) for k in range(2) for i in range(3)]
    found = load(str(meta_trained("text", tmp_path / "text"))).fit(texts, [0, 0, 0, 1, 1, 1])
    assert found.score(texts, [0, 0, 0, 1, 1, 1]) >= 0.5
    rows = [{"length": k + i / 9, "width": 3 * k, "mass": "NA", "colour": "red"} for k in (0, 5) for i in range(2)]
    found = load(str(meta_trained("table", tmp_path / "table"))).fit(rows, ["x", "x", "y", "y"])
    assert found.predict(rows[2:]).tolist() == ["y", "y"]
    files = [tmp_path / f"{n}.wav" for n in range(4)]
    for n, file in enumerate(files):
        audio.save(file, n)
    found = load(str(meta_trained("audio", tmp_path / "audio"))).fit(files, [True, True, False, False])
    assert set(found.predict(files).tolist()) <= {True, False}


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (torch.rand(6, 1, 9, 9), r"takes items of shape \[1, 16, 16\], got \[1, 9, 9\]"),
        (16 * torch.ones(6, 1, 16, 16), r"must be from 0 to 1, or bytes \(uint8\), got 16 to 16; divide them"),
        (torch.full((6, 256), torch.nan), "not finite"),
        (["a.png"] * 6, "there is no file or folder a.png"),
        ("a.png", r"items are a list, also if there is one: \['a\.png'\]"),
        ([], "there are no items"),
        ([{"length": 1}] * 6, "takes paths, pictures or arrays, got a list of dict"),
        (X[:5], "got 5 items, and labels of shape"),
    ],
)
def test_items_that_cannot_be_used_are_told(of_pictures, x, told):
    with pytest.raises(UserError, match=told):
        load(str(of_pictures)).fit(x, Y)


@pytest.mark.medium
def test_what_is_not_ready_is_told(of_pictures, tmp_path):
    with pytest.raises(UserError, match=r"no classes are learnt yet; call fit\(x, y\)"):
        load(str(of_pictures)).predict(Q)
    with pytest.raises(UserError, match="all items are of the class a; give examples of two classes"):
        load(str(of_pictures)).fit(X, ["a"] * 6)
    with pytest.raises(UserError, match="labels must all be strings, numbers or truth values"):
        load(str(of_pictures)).fit(X, [None] * 6)
    maml = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1, "inner_steps": 1}
    with_head = str(meta_trained("images", tmp_path, GRAY, algorithm=maml, way=2))
    assert load(with_head).fit(X[:4], Y[:4]).predict(Q).shape == (5,)
    with pytest.raises(UserError, match="a head for 2 classes, and the support set has 3"):
        load(with_head).fit(X, Y)
    with pytest.raises(UserError, match=r"Maml adapts the network .*type statistics=support"):
        load(with_head, statistics="train")


@pytest.mark.medium
def test_a_checkpoint_without_a_learner_gets_the_nearest_centroid(tmp_path):
    found = load(str(trained("transfer", "images", tmp_path, GRAY))).fit(X, Y)
    assert type(found._enrolled.learner.algorithm).__name__ == "NearestCentroid"
    assert found.predict_proba(Q).shape == (5, 3)


def test_an_older_checkpoint_takes_its_facts_from_the_data(of_pictures):
    new = open_checkpoint(of_pictures)
    model = {key: value for key, value in new.manifest["model"].items() if key != "facts"}
    old = replace(new, manifest={**new.manifest, "model": model})
    one, two = of_checkpoint(new), of_checkpoint(old)
    assert one.facts._replace(groups=()) == two.facts._replace(groups=())


@pytest.mark.medium
def test_a_checkpoint_that_was_replaced_is_read_again(of_pictures, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(of_pictures, folder)
    before = load(str(folder)).fit(X, Y)
    wanted = before.predict_proba(Q)
    assert load(str(folder))._opened() is before._opened()  # as long as it is the same
    shutil.rmtree(folder)
    shutil.copytree(meta_trained("images", tmp_path / "other", GRAY, steps=2, seed=1), folder)
    assert np.array_equal(before.predict_proba(Q), wanted)  # what was opened stays
    assert not np.allclose(load(str(folder)).fit(X, Y).predict_proba(Q), wanted, atol=1e-3)


def test_it_survives_pickling_without_its_checkpoint(learnt, of_pictures, tmp_path, monkeypatch):
    wanted, kept = learnt.predict_proba(Q), pickle.dumps(learnt)
    monkeypatch.setattr(classifier, "_trained", None)  # nothing is read any more
    again = pickle.loads(kept)
    assert np.array_equal(again.predict_proba(Q), wanted)
    assert np.array_equal(copy.deepcopy(again).predict_proba(Q), wanted)


def test_it_works_in_the_tools_of_scikit_learn(learnt):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_score

    assert is_classifier(learnt)
    copied = clone(learnt)
    assert copied.get_params() == learnt.get_params() and not hasattr(copied, "classes_")
    y = np.array(Y)
    scores = cross_val_score(copied, X.numpy(), y, cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()
    found = GridSearchCV(copied, {"statistics": ["support", "train"]}, cv=2).fit(X.numpy(), y)
    assert found.best_params_["statistics"] in ("support", "train")
    with pytest.raises(UserError, match="has no way; it has source and statistics"):
        copied.set_params(way=5)


def test_the_public_names_are_these_and_importing_them_loads_no_torch():
    assert metalearn_cli.__all__ == ["FewShotClassifier", "UserError", "__version__", "load"]
    assert all(hasattr(metalearn_cli, name) for name in metalearn_cli.__all__)
    assert dir(metalearn_cli) == sorted(metalearn_cli.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'loaad'"):
        metalearn_cli.loaad  # noqa: B018
    code = "import sys, metalearn_cli; metalearn_cli.UserError; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_session_of_the_page(of_pictures, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(of_pictures.parents[3])
    for seed, name in enumerate(("crow-1", "crow-2", "wren-1", "wren-2", "new-1", "new-2")):
        images.picture(seed, "L").save(f"{name}.png")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert "crow" in capsys.readouterr().out
    assert all(f"`{name}" in page for name in metalearn_cli.__all__ if name != "FewShotClassifier")

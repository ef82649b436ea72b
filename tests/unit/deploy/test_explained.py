"""Explanations of a trained learner: what they are of, and their sanity figure."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import torch
from PIL import Image
from sources import images, text
from trainings import GRAY, meta_trained

from metalearn_cli.deploy import explained
from metalearn_cli.deploy.attributions import NETWORKS
from metalearn_cli.deploy.calibrating import Calibration
from metalearn_cli.deploy.deployed import Deployed, Support, deployed, predicted, reader_of
from metalearn_cli.deploy.enrolled import answered
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.trained import of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployed, Inputs]:
    folder = tmp_path_factory.mktemp("pictures")
    trained = of_checkpoint(open_checkpoint(meta_trained("images", folder, GRAY, steps=12)))
    reader = reader_of(trained, {})
    x = reader.of_images([images.picture(10 * k + i, "L") for k in range(3) for i in range(3)])
    labels = ("crow",) * 3 + ("jay",) * 3 + ("wren",) * 3
    queries = reader.of_images([images.picture(100 + i, "L") for i in range(4)])
    return deployed(trained, Support(tuple(map(str, range(9))), labels, x)), Inputs(tuple("abcd"), queries)


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Deployed, Inputs]:
    trained = of_checkpoint(open_checkpoint(meta_trained("text", tmp_path_factory.mktemp("texts"))))
    reader = reader_of(trained, {})
    x = reader.of_texts([text.sentence(k, i) for k in range(2) for i in range(3)])
    support = Support(tuple(map(str, range(6))), ("food",) * 3 + ("music",) * 3, x)
    return deployed(trained, support), Inputs(("new",), reader.of_texts([text.sentence(1, 7)]))


@pytest.mark.medium
def test_a_trained_network_explains_otherwise_than_networks_of_shuffled_weights(of_pictures):
    found = explained.explained(*of_pictures)
    assert {one["method"] for one in found} == {"gradients"}
    assert abs(fmean(one["sanity"] for one in found)) < 0.25
    for one in found:
        values = torch.tensor(one["values"])
        assert values.shape == (16, 16) and bool((values < 0).any()) and bool((values > 0).any())
        assert float(values.sum()) == pytest.approx(one["sum"], abs=1e-5)
        assert one["sum"] == pytest.approx(one["difference"], rel=0.01, abs=0.005)


@pytest.mark.parametrize("method", ["gradients", "occlusion"])
@pytest.mark.medium
def test_the_same_network_has_a_correlation_of_one(of_pictures, monkeypatch, method):
    monkeypatch.setattr(explained, "shuffled", lambda enrolled, x, seed: enrolled)
    for one in explained.explained(*of_pictures, method):
        assert one["sanity"] == pytest.approx(1, abs=0.02)  # the others have fewer points


def test_only_inked_pixels_count(of_pictures, monkeypatch):
    learner, _ = of_pictures
    drawings = learner._replace(trained=learner.trained._replace(preprocessing={"polarity": "ink 1 on 0"}))
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:6, 2:9] = 1
    lengths = []
    monkeypatch.setattr(explained, "alike", lambda one, two: lengths.append(len(one)))
    (one,) = explained.explained(drawings, Inputs(("a",), x))
    assert one["sanity"] is None and lengths == [14] * NETWORKS
    values = torch.tensor(one["values"])
    assert float(values[0].abs().max()) == 0 and float(values[4].abs().max()) > 0  # paper says nothing


def test_the_influence_of_an_example_is_what_is_lost_without_it(of_texts):
    learner, queries = of_texts
    (one,) = explained.explained(learner, queries)
    whole = torch.tensor(predicted(learner, queries)[0]["probabilities"][one["class"]]).log()
    influences = [own["influence"] for own in one["examples"]]
    assert influences == sorted(influences, reverse=True) and len(influences) == 6
    for own in one["examples"]:
        without = learner.support.of([i for i in range(6) if str(i) != own["example"]])
        other = predicted(deployed(learner.trained, without), queries)[0]["probabilities"][one["class"]]
        assert own["influence"] == pytest.approx(float(whole - torch.tensor(other).log()), abs=1e-5)


def test_the_value_of_a_token_is_what_is_lost_without_it(of_texts):
    learner, queries = of_texts
    (one,) = explained.explained(learner, queries)
    (ids,) = queries.items
    assert one["method"] == "occlusion" and len(one["parts"]) == int((ids != 0).sum())
    assert [part["part"] for part in one["parts"]][:2] == ["do", "you"] and one["parts"][-1]["part"] == "?"
    hidden = ids.clone()
    hidden[2] = 0
    both = predicted(learner, Inputs(("a", "b"), torch.stack([ids, hidden])))
    logs = [torch.tensor(answer["probabilities"][one["class"]]).log() for answer in both]
    assert one["parts"][2]["value"] == pytest.approx(float(logs[0] - logs[1]), abs=1e-5)


def test_an_answer_that_is_nearly_certain_has_an_explanation(of_texts):
    learner, queries = of_texts
    logits = answered(learner.enrolled, learner.enrolled.encoder(queries.items))
    sure = Calibration(float(logits.max() - logits.min()) / 25, None, 0.95, None, 2, 3, 4)  # 1 - 1e-11
    learner = learner._replace(calibration=sure)
    assert predicted(learner, queries)[0]["probability"] == 1  # in 32 bits
    k = int(logits.argmax())
    assert -1e-9 < float(explained._score(learner, learner.enrolled, k)(queries.items)) < 0


@pytest.mark.medium
def test_a_picture_of_each_and_all_numbers_are_written(of_texts, tmp_path: Path):
    learner, queries = of_texts
    found = explained.explained(learner, queries._replace(names=("what $is$ this? \u96e8",)))
    (path,) = explained.write(tmp_path / "out", learner, queries, found)
    assert path == str(tmp_path / "out" / "001-what-is-this-\u96e8.png")
    with Image.open(path) as picture:
        before = picture.size
    found[0]["parts"] = [{"part": f"$part {i}", "value": float(i % 7)} for i in range(5000)]
    explained.write(tmp_path / "out", learner, queries, found)
    with Image.open(path) as picture:  # the strongest parts of a long text
        assert before[1] < picture.size[1] < 1500


def test_a_text_without_tokens_has_no_parts(of_texts, tmp_path: Path):
    learner, _ = of_texts
    empty = Inputs(("empty",), reader_of(learner.trained, {}).of_texts([""]))
    (one,) = found = explained.explained(learner, empty)
    assert one["parts"] == [] and one["sanity"] is None and one["sum"] == 0
    assert explained.write(tmp_path, learner, empty, found)

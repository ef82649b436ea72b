import json
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.core.claims import Expectation, Tier
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.studies.verify import verify

ROW = {"name": "test/accuracy", "learner": "protonet", "normalisation": "none", "over": {"episodes": 6}}
ROW |= {"value": 0.9, "interval": 0.01, "interval_classes": 0.04, "interval_trainings": None}


def expected(value, tolerance=0.0, **changes):
    own = {"learner": "protonet", "normalisation": "none", "metric": "accuracy", "source": "a paper", "reruns": None}
    return Expectation(value=value, tolerance=tolerance, **own | changes)


@pytest.fixture
def verified(config, said, tmp_path, monkeypatch):
    """Return a function from rows of a chain's table and expectations to the record, without running anything."""

    def verified(rows, *expect):
        run = {"id": "id-1", "table": rows, "seconds": 90.0, "data": {"name": "gaussian"}, "finished_at": "now"}
        monkeypatch.setattr(stages, "run", lambda *_: run | {"folder": str(tmp_path)})
        about = [(e.metric, e.learner, e.normalisation, e.drawn) for e in expect]
        monkeypatch.setattr(verify.__module__ + ".scored_as", lambda *_: about)
        return verify(config("run"), "own", "short", Tier([], 2, list(expect)), said)

    return verified


@pytest.mark.parametrize(
    ("value", "tolerance", "passed"),
    [(91.0, 0.0, True), (91.1, 0.0, False), (93.0, 2.0, True), (93.1, 2.0, False), (50.0, 0.0, True)],
)
def test_an_accuracy_may_be_worse_by_the_tolerance_and_its_interval_over_episodes(verified, value, tolerance, passed):
    record = verified([ROW], expected(value, tolerance))
    assert record["passed"] is record["results"][0]["passed"] is passed
    assert (record["results"][0]["value"], record["results"][0]["interval_classes"]) == (90, 4)


def test_scores_of_one_group_and_of_all_are_told_apart(verified):
    rows = [ROW | {"drawn": "pooled"}, ROW | {"drawn": "within one group", "value": 0.7}]
    record = verified(rows, expected(90), expected(70, drawn="within one group"))
    assert record["passed"] and [result["value"] for result in record["results"]] == [90, 70]


@pytest.mark.parametrize(("value", "passed"), [(0.8, False), (0.9, True), (2, True)])
def test_an_error_is_better_if_it_is_lower(verified, value, passed):
    row = ROW | {"name": "test/mse", "value": 1.0, "interval": 0.05}
    assert verified([row], expected(value, 0.06, metric="mse"))["passed"] is passed


def test_a_result_that_is_not_finite_fails(verified):
    assert verified([ROW | {"value": None, "interval": None}], expected(0))["passed"] is False


def test_all_expectations_must_be_met_by_the_last_checkpoint(verified, tmp_path):
    rows = [ROW | {"value": 0.99}, ROW, ROW | {"learner": "nearest_centroid", "value": 0.5}]
    record = verified(rows, expected(95), expected(40, learner="nearest_centroid"))
    assert [result["passed"] for result in record["results"]] == [False, True]
    assert record["passed"] is False
    assert record["minutes"] == {"run": 1.5, "claim": 2}
    told = {"folder", "bound"}
    assert json.loads((tmp_path / "verify.json").read_text()) == {k: v for k, v in record.items() if k not in told}
    assert record["folder"] == str(Path(tmp_path))


def test_a_learner_that_the_chain_has_not_is_refused_before_anything_runs(verified, monkeypatch):
    with pytest.raises(ConfigError) as refused:
        verified([ROW], expected(90, learner="maml"))
    (problem,) = refused.value.problems
    assert problem.key == "tiers.short.expect.0.learner"
    assert problem.message == "the chain has no such learner; it has protonet and nearest_centroid"


def test_a_result_of_an_earlier_version_has_the_class_of_its_learner(verified):
    record = verified([ROW | {"learner": "ProtoNet"}], expected(90))
    assert record["passed"] and record["results"][0]["expected"]["learner"] == "protonet"


def test_a_result_that_the_chain_has_not_is_refused(verified):
    told = "expects accuracy protonet inductive pooled, but its results are accuracy protonet none pooled"
    with pytest.raises(UserError, match=told):
        verified([ROW], expected(90, normalisation="inductive"))

"""Records that a stranger may have written: the first thing that is wrong with them is said, with its key."""

import math

import pytest

from metalearn_cli.records.shapes import MANIFEST, RESUME, RUN, misshapen

GOOD_RUN = {
    "id": "20260131-120000-ab12",
    "stage": "pretrain",
    "status": "completed",
    "started_at": "2026-01-31T12:00:00.000001+00:00",
    "step": 3,
    "best": "step-000003",
    "parent": {"run": "a", "stage": "pretrain", "step": 1, "checkpoint": "runs/x", "sha256": "00"},
    "metric": {"name": "val/accuracy", "value": math.nan, "interval": None, "step": 3},
    "results": [],
    "later": {"anything": 1},
}
GOOD_MANIFEST = {
    "run": "a",
    "stage": "pretrain",
    "step": 3,
    "metrics": {"val/accuracy": math.nan},
    "model": {"backbone": {"_target_": "x"}, "shape": [1, 28, 28], "way": None},
    "data": {"name": "glyphs", "spec": {}},
    "parent": None,
    "signature": {"w": "float32 [1]"},
    "files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}},
}
GOOD_RESUME = {
    "optimizer": {0: {}},
    "memory": {"window": [{"loss": 1.0}], "skipped": 0, "in_a_row": 0},
    "best": {},
}


@pytest.mark.parametrize(
    ("value", "shape"),
    [(GOOD_RUN, RUN), ({**GOOD_RUN, "parent": None}, RUN), (GOOD_MANIFEST, MANIFEST), (GOOD_RESUME, RESUME)],
)
def test_good_records(value, shape):
    assert misshapen(value, shape) == ""


@pytest.mark.parametrize(
    ("good", "shape", "changes", "told"),
    [
        (GOOD_RUN, RUN, {"id": "../../etc"}, "id must be a name without folders, got '../../etc'"),
        (GOOD_RUN, RUN, {"id": 3}, "id must be a name without folders, got 3"),
        (GOOD_RUN, RUN, {"stage": None}, "stage must be a name without folders, got None"),
        (GOOD_RUN, RUN, {"best": "../../.."}, "best must be step-N, got '../../..'"),
        (GOOD_RUN, RUN, {"best": "step-1/../../x"}, "best must be step-N, got 'step-1/../../x'"),
        (GOOD_RUN, RUN, {"step": -1}, "step must be a whole number >= 0, got -1"),
        (GOOD_RUN, RUN, {"step": True}, "step must be a whole number >= 0, got True"),
        (GOOD_RUN, RUN, {"started_at": "yesterday"}, "started_at must be a time with its zone"),
        (GOOD_RUN, RUN, {"started_at": "2026-01-31"}, "started_at must be a time with its zone"),
        (GOOD_RUN, RUN, {"parent": {"run": "a"}}, "it has no parent.stage"),
        (GOOD_RUN, RUN, {"parent": "a"}, "parent must be an object, got 'a'"),
        (GOOD_RUN, RUN, {"metric": {"name": "x", "value": "1"}}, "metric.value must be a number or null, got '1'"),
        (GOOD_RUN, RUN, {"results": [1]}, "results.0 must be an object, got 1"),
        (GOOD_RUN, RUN, {"table": {}}, "table must be a list, got {}"),
        (GOOD_MANIFEST, MANIFEST, {"step": 1e300}, "step must be a whole number >= 0"),
        (GOOD_MANIFEST, MANIFEST, {"step": 2**63}, "step must be a whole number >= 0"),
        (GOOD_MANIFEST, MANIFEST, {"model": []}, "model must be an object, got []"),
        (
            GOOD_MANIFEST,
            MANIFEST,
            {"model": {"shape": [1, -2]}},
            "model.shape must be a list of whole numbers >= 0, or",
        ),
        (GOOD_MANIFEST, MANIFEST, {"model": {"shape": {"a": {"b": [1]}}}}, "model.shape must be a list of whole num"),
        (GOOD_MANIFEST, MANIFEST, {"files": {"a": None}}, "files.a must be an object, got None"),
        (GOOD_MANIFEST, MANIFEST, {"metrics": {"x": "y"}}, "metrics.x must be a number or null, got 'y'"),
        (GOOD_RESUME, RESUME, {"best": {"name": "/etc"}}, "best.name must be step-N, got '/etc'"),
        (
            GOOD_RESUME,
            RESUME,
            {"memory": {**GOOD_RESUME["memory"], "window": [[]]}},
            "memory.window.0 must be an object, got []",
        ),
    ],
)
def test_what_is_wrong_is_said(good, shape, changes, told):
    assert misshapen({**good, **changes}, shape).startswith(told)


@pytest.mark.parametrize(("good", "shape"), [(GOOD_RUN, RUN), (GOOD_MANIFEST, MANIFEST), (GOOD_RESUME, RESUME)])
def test_what_has_to_be_there(good, shape):
    for key in [key for key in shape if not key.endswith("?")]:
        assert misshapen({k: v for k, v in good.items() if k != key}, shape) == f"it has no {key}"


def test_items_may_be_made_of_parts():
    assert misshapen({**GOOD_MANIFEST, "model": {"shape": {"image": [1, 28, 28], "text": [5]}}}, MANIFEST) == ""

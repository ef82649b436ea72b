from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal

import pytest

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.metrics import Recorder, read_metrics


def test_recorded_is_read_and_reported(tmp_path, said):
    record = Recorder(tmp_path, said)
    record(1, {"train/loss": 0.1})
    record(2, {"val/accuracy": 1 / 3})
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 0.1}, {"step": 2, "val/accuracy": 1 / 3}]
    assert said.measured == [(1, {"train/loss": 0.1}), (2, {"val/accuracy": 1 / 3})]


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path, said):
    record = Recorder(tmp_path, said)
    for step in (2, 3, 4, 6):
        record(step, {"x": step})
    text = (tmp_path / "metrics.jsonl").read_text()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "x"')  # killed while writing
    again = Recorder(tmp_path, said, start=4)
    again(6, {"x": 6})
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_what_was_measured_before_the_first_step_is_kept_with_its_checkpoint(tmp_path, said):
    for start in (None, None, 0):  # killed before a checkpoint, then after that of step 0
        record = Recorder(tmp_path, said, start)
        if start is None:
            record(0, {"x": 0.5})
        record(1, {"x": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1]


def test_new_start_forgets_everything(tmp_path, said):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    Recorder(tmp_path, said)
    assert read_metrics(tmp_path) == []


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []


def test_what_is_fresh_is_given_once_and_begins_with_what_is_kept(tmp_path, said):
    record = Recorder(tmp_path, said)
    for step in (1, 2, 3):
        record(step, {"x": step}, {"seconds": 0.5})
    assert [line["step"] for line in record.fresh()] == [1, 2, 3]
    assert record.fresh() == []
    again = Recorder(tmp_path, said, start=2)
    assert again.fresh() == [{"step": step, "seconds": 0.5, "x": step} for step in (1, 2)]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK])
def test_a_file_system_without_flushing(tmp_path, said, monkeypatch, number):
    def lacking(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", lacking)
    record = Recorder(tmp_path, said)
    record(1, {"x": 1.0})
    record.sync()
    assert read_metrics(tmp_path) == [{"step": 1, "x": 1.0}]


def test_line_that_cannot_be_written_leaves_no_half(tmp_path, said, monkeypatch):
    record = Recorder(tmp_path, said)
    record(1, {"x": 1.0})
    before = (tmp_path / "metrics.jsonl").read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            record(2, {"x": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_what_is_no_number_is_null_and_told_once(tmp_path, said, caplog):
    caplog.set_level("INFO")
    record = Recorder(tmp_path, said)
    record(1, {"train/loss": math.nan, "train/norm": -math.inf}, {"seconds": 0.5})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert line == '{"step": 1, "seconds": 0.5, "train/loss": null, "train/norm": null}'
    (read,) = read_metrics(tmp_path)
    assert math.isnan(read["train/loss"]) and read["seconds"] == 0.5
    assert [record.getMessage() for record in caplog.records] == [
        "step 1: seconds 0.5, train/loss nan, train/norm -inf"
    ]


def test_damage_in_the_middle_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged in line 2"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "in line 1: must be an object"),
        ('{"x": 1}', "it has no step"),
        ('{"step": "<b>"}', "step must be"),
        ('{"step": 1, "x": {}}', "x must be a number"),
        ("[" * 100_000, "in line 1"),
        ("\udc80", "cannot be read"),
    ],
)
def test_lines_that_are_no_metrics(tmp_path, line, told):
    (tmp_path / "metrics.jsonl").write_text(f'{line}\n{{"step": 3}}\n', errors="surrogateescape")
    with pytest.raises(UserError, match=told):
        read_metrics(tmp_path)

"""Numbers in words, tables that fit, and the bar of a terminal."""

import logging
import re
from types import SimpleNamespace

import pytest

from metalearn_cli.cli import telling, views
from metalearn_cli.cli.phrases import age, duration, gain, next_command, number, spread, verdict

ID = "20261123-170400-9f3a"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (number("val/accuracy", 0.9134), "91.3 %"),
        (number("train/loss", 0.41236), "0.4124"),
        (spread("test/accuracy", 0.5, 0.0061), "50.0 +- 0.6 %"),
        (spread("test/mse", 0.1234, 0.0561), "0.1234 +- 0.056"),
        (spread("val/accuracy", 0.5, None), "50.0 %"),
        (gain("test/accuracy", -0.032, 0.005), "-3.2 +- 0.5"),
        (gain("test/mse", 0.5, 0.01), "+0.5 +- 0.01"),
        (verdict(0.02, 0.01), "helps"),
        (verdict(-0.02, 0.01), "hurts"),
        (verdict(0.01, 0.01), "no clear difference"),
        (duration(41.6), "42 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(3661), "1 h 1 min"),
        (age(None), "-"),
    ],
)
def test_words(said, expected):
    assert said == expected


@pytest.mark.parametrize(
    ("stage", "words", "expected"),
    [
        (
            "pretrain",
            ["model=gan", "data=omniglot", "+runs_dir=x"],
            "mlx transfer init_from=a1 data=omniglot runs_dir=x",
        ),
        ("transfer", ["backbone.hidden=8", "steps=3"], "mlx meta-train init_from=a1 backbone.hidden=8"),
        ("meta-train", ["data=omniglot", "runtime=gpu"], "mlx evaluate ckpt=a1 runtime=gpu"),
        ("meta-train", ["data=sinusoid", "way=1", "shot=10"], "mlx evaluate ckpt=a1 way=1 shot=10"),
        ("evaluate", ["data=omniglot"], "mlx show a1"),
        ("run", [], "mlx show a1"),
    ],
)
def test_next_command(stage, words, expected):
    assert next_command({"stage": stage, "id": "a1"}, words) == expected


def row(after, learner, value, gained, normalisation):
    half = None if gained is None else 0.005
    return {
        "after": after,
        "learner": learner,
        "name": "test/accuracy",
        "value": value,
        "interval": 0.006,
        "gain": gained,
        "gain_interval": half,
        "normalisation": normalisation,
        "way": 5,
        "shot": 1,
        "episodes": 1000,
    }


RUN = {
    "id": ID,
    "stage": "run",
    "status": "completed",
    "seconds": 200.0,
    "started_at": "2026-11-23T17:04:00+00:00",
    "parent": {"run": "20261123-170100-1111", "stage": "meta-train"},
    "metric": {"name": "test/accuracy", "value": 0.92, "interval": 0.005},
    "table": [
        row(after, learner, value, gained, protocol)
        for protocol in ("transductive", "inductive")
        for after, learner, value, gained in (
            ("nothing", "NearestCentroid", 0.36, None),
            ("pretrain", "NearestCentroid", 0.53, 0.17),
            ("transfer", "NearestCentroid", 0.532, 0.002),
            ("meta-train", "ProtoNet", 0.5, -0.032),
        )
    ],
}
LINEAGE = [{**RUN, "best": "step-000400"}, {**RUN, "checkpoint": "runs/x/checkpoints/step-000400", "sha256": "a" * 64}]
JOBS = [
    SimpleNamespace(words=["algorithm=maml", "++seed=1"], run=RUN, status="completed", error=""),
    SimpleNamespace(words=["algorithm=protonet", "++seed=1"], run=None, status="refused", error="way: too many " * 9),
]


def test_table_of_a_chain(capsys):
    views.result(RUN)
    out = capsys.readouterr().out
    assert out.count("5-way 1-shot on 1000 episodes of test classes") == 2
    rows = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert ["untrained", "NearestCentroid", "36.0 +- 0.6"] in rows
    assert ["pretrain", "NearestCentroid", "53.0 +- 0.6", "+17.0 +- 0.5", "helps"] in rows
    assert ["transfer", "NearestCentroid", "53.2 +- 0.6", "+0.2 +- 0.5", "no clear difference"] in rows
    assert ["meta-train", "ProtoNet", "50.0 +- 0.6", "-3.2 +- 0.5", "hurts"] in rows
    assert out.rstrip().endswith(f"next: mlx show {ID}")


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize(
    "draw",
    [
        lambda: views.result(RUN),
        lambda: views.runs([RUN, RUN], "runs"),
        lambda: views.lineage(LINEAGE),
        lambda: views.sweep(JOBS),
    ],
    ids=["chain", "runs", "lineage", "sweep"],
)
def test_tables_fit_the_terminal(capsys, monkeypatch, draw, columns):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    draw()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(ID in line for line in lines)  # what has to be typed again is never broken


def test_checksum_in_full_where_there_is_room(capsys):
    views.lineage(LINEAGE)  # no terminal: nothing is cut
    assert "a" * 64 in capsys.readouterr().out


def test_a_teacher_is_shown_with_the_run_that_it_taught(capsys):
    teacher = {"run": "t1", "stage": "transfer", "checkpoint": "runs/transfer/t1/checkpoints/step-000300"}
    views.lineage([{"id": ID, "stage": "transfer", "teacher": {**teacher, "sha256": "ab" * 32}}])
    assert f"{ID} was taught by transfer t1, step-000300, {'ab' * 32}\n" in capsys.readouterr().out


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    with telling.reporting() as reporter:
        reporter.start("meta-train", "runs/meta-train/x", 10, 20)
        reporter.advance(15)
        reporter.metrics(15, {"train/loss": 0.5, "train/accuracy": 0.9, "train/lr": 0.1})
        reporter.metrics(15, {"val/accuracy": 0.8, "val/accuracy_interval": 0.1})
        reporter.note("a note")
    err = capsys.readouterr().err
    assert "meta-train step 15/20, loss 0.5, acc 90.0 %, val acc 80.0 %, eta" in err
    assert "a note\n" in err
    assert "lr" not in err


def test_warnings_of_the_package_are_shown(capsys):
    with telling.reporting():
        logging.getLogger("metalearn_cli.data").warning("the cache is damaged")
        logging.getLogger("metalearn_cli.data").error("told by who catches it")
    assert capsys.readouterr().err == "warning: the cache is damaged\n"

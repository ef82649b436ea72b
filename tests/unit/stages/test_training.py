"""What the log of a run tells, and what its metrics say of time."""

from __future__ import annotations

import os
import re
import signal
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from metalearn_cli import stages
from metalearn_cli.records import runs, trackers
from metalearn_cli.records.metrics import read_metrics


def logged(done) -> str:
    return (Path(done["folder"]) / "mlx.log").read_text()


def test_the_log_of_a_training_tells_its_story(go):
    start = go("pretrain")
    text = logged(go("transfer", init_from="latest"))
    folder = f"{start['folder']}/checkpoints/{start['best']}"
    for part in (
        " INFO transfer: cpu, 1 thread, 32-true; data gaussian (",
        f" INFO init_from latest -> {folder} (val/accuracy ",
        f" tensors, 100.0 % of the backbone, from {folder}; fresh: head.bias, head.weight",
        ' INFO result: {"name": "val/accuracy", "value": ',
        " INFO transfer completed after ",
    ):
        assert part in text
    for step in (2, 4, 5):
        assert re.search(rf" INFO step {step}: seconds \d.*, items_per_second \d.*, train/loss \d", text)
    for step in (3, 5):
        assert re.search(rf" INFO step {step}: seconds .*, val/label_accuracy .*, val/accuracy \d", text)
    (share,) = re.findall(r"data took ([\d.]+) % of the training's time", text)
    assert 0 < float(share) < 100


@pytest.mark.medium
def test_the_logs_of_an_evaluation_and_of_a_chain(go):
    done = go("run")
    scores = [run for run in runs.list_runs(str(Path(done["folder"]).parents[1])) if run["stage"] == "evaluate"]
    text, last = logged(done), logged(scores[0])
    for part in (" INFO evaluate: cpu, ", " tensors, 100.0 % of the network, from ", ' INFO result: {"name": "test/'):
        assert part in last
    (drawing, whole) = re.findall(r"data took ([\d.]+) s, summed over threads, of the evaluation's ([\d.]+) s", last)[0]
    assert 0 <= float(drawing) <= float(whole)
    assert last in text  # a chain's log has those of its stages
    assert text.count("% of the training's time") == 3
    assert text.count('INFO result: {"after": ') == len(done["table"])


def test_a_warning_while_a_run_is_prepared_is_in_its_log(go, monkeypatch):
    make = stages.JOBS["pretrain"]

    def warning(*args):
        warnings.warn("this network is old", FutureWarning, stacklevel=1)
        return make(*args)

    monkeypatch.setitem(stages.JOBS, "pretrain", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert f" WARNING this network is old (FutureWarning, {__file__} line " in logged(go("pretrain"))


def test_seconds_go_on_where_a_run_resumes(config, said, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(said, "advance", lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 4 else None)
        stages.run("meta-train", config("meta-train"), said)
    (info,) = runs.list_runs(str(tmp_path / "runs"))
    runs.write_json(Path(info["folder"]) / "run.json", {**info, "seconds": 1000.0})
    done = stages.resume(info["folder"], said, {"steps": 6})
    lines = read_metrics(Path(done["folder"]))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert [second > 1000 for second in seconds] == [line["step"] > 4 for line in lines]
    assert done["seconds"] > 1000
    assert all(("tasks_per_second" in line) == ("train/loss" in line) for line in lines)
    assert all(line["tasks_per_second"] > 0 for line in lines if "train/loss" in line)
    assert "steps: this run has 5, resuming with 6" in logged(done)


def test_evaluation_does_not_count_as_training(go, monkeypatch):
    class Clock:
        """A second a step, a minute an evaluation."""

        now = 0.0

    def spend(seconds, call):
        def spending(*args, **kwargs):
            Clock.now += seconds
            return call(*args, **kwargs)

        return spending

    from metalearn_cli.engine.stepper import Stepper
    from metalearn_cli.stages import preparing, training

    monkeypatch.setattr(training.time, "monotonic", lambda: Clock.now)
    monkeypatch.setattr(Stepper, "take", spend(1.0, Stepper.take))
    monkeypatch.setattr(preparing, "score_episodes", spend(60.0, preparing.score_episodes))
    lines = read_metrics(Path(go("pretrain")["folder"]))
    assert [line["items_per_second"] for line in lines if "train/loss" in line] == [8.0, 8.0, 8.0]
    assert [line["seconds"] for line in lines] == [2.0, 63.0, 64.0, 65.0, 125.0]


class Remembering:
    """A tracker that remembers."""

    made: ClassVar[list[Remembering]] = []

    def __init__(self, run, settings):
        self.stage, self.settings, self.lines, self.pictures, self.ended = run.info["stage"], settings, [], [], False
        self.made.append(self)

    def log(self, lines):
        self.lines += lines

    def picture(self, path, step):
        self.pictures.append(path.name)

    def close(self, error):
        self.ended = error is None


@pytest.fixture
def remembering(monkeypatch):
    monkeypatch.setattr(Remembering, "made", [])
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Remembering)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    return Remembering.made


def test_a_tracker_gets_what_the_run_folder_has(go, remembering):
    done = go("transfer", tracker=["mlflow"])
    scores = go("evaluate", tracker=["mlflow"], ckpt=done["id"])
    trained, scored = remembering
    assert trained.lines == read_metrics(Path(done["folder"])) and trained.settings["optimizer.lr"] == 0.01
    assert [trained.stage, scored.stage, trained.ended, scored.ended] == ["transfer", "evaluate", True, True]
    assert scored.lines == [{"step": 0, result["name"]: result["value"]} for result in scores["results"]]
    assert not (Path(done["folder"]) / "tensorboard").exists()


def test_a_resumed_run_tells_its_tracker_everything_from_the_start(go, interrupted, said, remembering):
    folder = Path(interrupted("transfer", 4, tracker=["mlflow"]))
    before = list(remembering[0].lines)
    assert before and not remembering[0].ended
    stages.resume(str(folder), said, {})
    assert remembering[1].lines == read_metrics(folder)
    assert remembering[1].lines[: len(before)] == before


def test_where_values_go_is_no_part_of_what_a_run_is(ready):
    assert ready("transfer", tracker=[]).key == ready("transfer").key


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_written(refused, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    told = "mlflow must be installed: pip install 'metalearn-cli[mlflow]'"
    assert refused("transfer", tracker=["tensorboard", "mlflow"]) == {"tracker": told}

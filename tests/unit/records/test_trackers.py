"""Each tracker has every value once, however often a run begins anew; the real packages, where they are installed."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path

import pytest
from faults.folders import events, of_mlflow, of_wandb, scalars

from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.records import runs, trackers
from metalearn_cli.records.plots import learning_curves
from metalearn_cli.records.trackers import TRACKERS, Tracking, check_installed, tracking

SETTINGS = {"steps": 6, "data": {"name": "glyphs", "root": None}, "deep": {"er": {"on": True, "lr": 0.5}}, "also": {}}
VALUES = [
    (0, "val/y", 0.5),
    *((step, name, value) for step in range(1, 7) for name, value in (("train/x", step), ("val/y", 0.5))),
]


def line(step: int) -> dict[str, float]:
    return {"step": step, "seconds": float(step), **({"train/x": float(step)} if step else {}), "val/y": 0.5}


@pytest.fixture
def run(tmp_path):
    made = runs.create(str(tmp_path / "runs"), "transfer", SETTINGS, parent={"checkpoint": "a/b"}, step=6)
    yield made
    made.close()


def killed_again_and_again(name, run):
    """Begin a run anew after kills at several places, and end it."""
    notes: list[str] = []
    for told, more in (([], [0, 1, 2]), ([0, 1, 2, 3], []), ([0, 1, 2, 3], [4, 5]), ([0, 1, 2, 3, 4], [])):
        start = Tracking([name], run, SETTINGS, notes.append)
        start.log([line(step) for step in told])
        start.log([line(step) for step in more])
        start.close(RuntimeError("killed"))
        if name == "wandb":
            time.sleep(1.1)  # it names its folders by the second
    with tracking([name], run, SETTINGS | {"steps": 7}, notes.append) as last:
        last.log([line(step) for step in range(5)])
        last.log([line(step) for step in (5, 6)])
        learning_curves([line(step) for step in (1, 2)], "title", run.folder / "plots" / "learning_curves.png")
        last.pictures(6)
    assert notes == []


def test_tensorboard_has_each_value_once(run):
    killed_again_and_again("tensorboard", run)
    assert scalars(run.folder / "tensorboard") == VALUES


def test_tensorboard_has_times_settings_and_pictures(run):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    killed_again_and_again("tensorboard", run)
    found = list(events(run.folder / "tensorboard"))
    values = [(event, value) for event in found for value in event.summary.value]
    times = {event.step: event.wall_time for event, value in values if value.tag == "train/x"}
    assert times[6] - times[1] == pytest.approx(5)
    said = {
        v.tag: HParamsPluginData.FromString(v.metadata.plugin_data.content) for _, v in values if "hparams" in v.tag
    }
    settings = said["_hparams_/session_start_info"].session_start_info.hparams
    assert {key: value.WhichOneof("kind") for key, value in settings.items()} == {
        "steps": "number_value",
        "data.name": "string_value",
        "data.root": "string_value",
        "deep.er.on": "bool_value",
        "deep.er.lr": "number_value",
        "also": "string_value",
    }
    assert settings["steps"].number_value == 7 and settings["data.name"].string_value == "glyphs"
    assert said["_hparams_/session_end_info"].session_end_info.status == 1
    ((event, drawn),) = [(event, value) for event, value in values if value.HasField("image")]
    picture = (run.folder / "plots" / "learning_curves.png").read_bytes()
    assert (event.step, drawn.tag, drawn.image.encoded_image_string) == (6, "learning_curves", picture)
    assert struct.pack(">II", drawn.image.width, drawn.image.height) == picture[16:24]


def test_tensorboard_itself_reads_each_value_once_while_a_run_begins_anew(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    start = Tracking(["tensorboard"], run, SETTINGS, print)
    start.log([line(step) for step in range(5)])
    reader = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    reader.Reload()
    assert len(reader.Scalars("train/x")) == 4
    start.close()
    killed_again_and_again("tensorboard", run)
    reader.Reload()
    assert [(scalar.step, scalar.value) for scalar in reader.Scalars("train/x")] == [
        (step, step) for step in range(1, 7)
    ]
    assert reader.Tags()["images"] == ["learning_curves"]


@pytest.mark.filterwarnings("default")  # of the packages that it brings
def test_mlflow_has_each_value_once(run, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(run.folder.parents[1])
    killed_again_and_again("mlflow", run)
    from mlflow import MlflowClient

    assert of_mlflow(run.folder) == VALUES
    client = MlflowClient(f"sqlite:///{run.folder.parents[1] / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("mlx").experiment_id])
    assert (found.info.run_name, found.info.status) == (run.info["id"], "FINISHED")
    assert found.data.params["deep.er.lr"] == "0.5" and found.data.params["steps"] == "6"
    assert found.data.tags["resumed.steps"] == "7" and found.data.tags["mlx.parent"] == "a/b"
    (picture,) = client.list_artifacts(found.info.run_id, "plots")
    assert picture.path == "plots/learning_curves.png"
    assert not Path("mlruns").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (RuntimeError(), "FAILED")])
def test_mlflow_knows_how_a_run_ended(run, monkeypatch, error, status):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run.folder}/own.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with pytest.raises(type(error)), tracking(["mlflow"], run, SETTINGS, print):
        raise error
    from mlflow import MlflowClient

    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert found.info.status == status


@pytest.mark.filterwarnings("default")
def test_wandb_has_each_value_once(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(run.folder))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    killed_again_and_again("wandb", run)
    found = of_wandb(run.folder)
    assert sorted((step, name, float(text)) for step, name, text in found if name in ("train/x", "val/y")) == VALUES
    assert any(name == "learning_curves/path" for _, name, _ in found)


def test_nothing_is_imported_for_no_tracker(run, monkeypatch):
    monkeypatch.setattr(trackers, "TRACKERS", {})
    with tracking([], run, SETTINGS, print) as told:
        told.log([line(1)])
        told.pictures(1)
    assert not (run.folder / "tensorboard").exists()


def test_what_is_not_installed_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_installed(["tensorboard"])
    with pytest.raises(ConfigError, match=r"mlflow and wandb must be installed: .*'metalearn-cli\[mlflow,wandb\]'"):
        check_installed(["tensorboard", "mlflow", "wandb"])


class Unsteady:
    """A tracker that cannot be reached every other time."""

    def __init__(self, run, settings):
        self.taken, self.asked = [], 0

    def log(self, lines):
        self.asked += 1
        if self.asked % 2:
            raise ConnectionError("no route\nto the server")
        self.taken += [line["step"] for line in lines]

    def close(self, error):
        raise ConnectionError("gone")


def test_an_error_of_a_program_is_told_and_what_it_missed_is_added_later(run, monkeypatch):
    made: list[Unsteady] = []
    monkeypatch.setitem(TRACKERS, "mlflow", lambda *args: made.append(Unsteady(*args)) or made[0])
    notes: list[str] = []
    with tracking(["mlflow", "tensorboard"], run, SETTINGS, notes.append) as told:
        told.log([line(1), line(2)])
        told.log([line(3)])
    assert made[0].taken == [1, 2, 3]
    assert notes == [
        "warning: mlflow did not take everything (ConnectionError: no route); metrics.jsonl has all values",
        "warning: mlflow did not take everything (ConnectionError: gone); metrics.jsonl has all values",
    ]
    assert [step for step, name, _ in scalars(run.folder / "tensorboard") if name == "train/x"] == [1, 2, 3]


def test_a_tracker_that_cannot_begin_is_told_with_what_to_type(run, monkeypatch):
    def lacking(run, settings):
        raise ConnectionError("no server")

    monkeypatch.setitem(TRACKERS, "mlflow", lacking)
    told = r"tracker mlflow cannot be used \(ConnectionError: no server\); without it: tracker=\[\]"
    with pytest.raises(UserError, match=told), tracking(["tensorboard", "mlflow"], run, SETTINGS, print):
        pass


def test_a_file_that_cannot_be_written_ends_the_run(run, monkeypatch):
    (run.folder / "tensorboard").write_text("")
    with pytest.raises(FileExistsError), tracking(["tensorboard"], run, SETTINGS, print):
        pass


def test_what_is_no_number_is_shown_as_it_is(run):
    with tracking(["tensorboard"], run, {}, print) as told:
        told.log([{"step": 1, "x": math.nan, "y": -math.inf}])
    (_, _, value), (_, _, infinite) = scalars(run.folder / "tensorboard")
    assert math.isnan(value) and infinite == -math.inf

"""Trackers show the values, settings and pictures of runs: TensorBoard, MLflow, Weights & Biases (setting `tracker`).

They get copies of what the run folder has, after each checkpoint. A run that resumes tells them everything again, from
its first step on, and each leaves out or replaces what it has, so that no value is there twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.nested import leaves
from metalearn_cli.records.metrics import TIMES
from metalearn_cli.records.runs import Run, as_json, flushing, naming

log = logging.getLogger("metalearn_cli")

Line = Mapping[str, float]
"""A line of metrics.jsonl."""

PROJECT = "mlx"
"""The name under which MLflow and W&B keep runs, unless their own variable of the environment has another."""


class Tracker(Protocol):
    """A program that shows runs. Each start of a run makes one, from the run and its settings by dotted keys."""

    def log(self, lines: Sequence[Line]) -> None:
        """Add lines, in order; what an earlier start has added is not added again."""

    def picture(self, path: Path, step: int) -> None:
        """Add a PNG file that was drawn after a step."""

    def close(self, error: BaseException | None) -> None:
        """End, with the error that ended the run."""


class Tracking:
    """The trackers of one start of a run.

    An error of a program does not end the run: it is told, and what is missing is added after the next checkpoint. Only
    a file that cannot be written does, as everywhere.

    Args:
        names: their names in `TRACKERS`.
        run: the run.
        settings: its settings.
        note: tells the user something.

    Raises:
        UserError: if one of them cannot be used.
    """

    def __init__(
        self, names: Sequence[str], run: Run, settings: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self._note, self._folder = note, run.folder
        self._trackers: dict[str, Tracker] = {}
        self._pending: dict[str, list[Line]] = {name: [] for name in names}
        flat = dict(leaves(settings))
        for name in names:
            try:
                self._trackers[name] = TRACKERS[name](run, flat)
            except Exception as error:
                self.close(error)
                if _is_of_file(error):
                    raise
                raise UserError(f"tracker {name} cannot be used ({_told(error)}); without it: tracker=[]") from error

    def log(self, lines: Sequence[Line]) -> None:
        """Add lines of metrics.jsonl that a checkpoint stands behind."""
        for name, tracker in self._trackers.items():
            pending = self._pending[name]
            pending += lines
            if pending:
                with self._going_on(name):
                    tracker.log(pending)
                    pending.clear()

    def pictures(self, step: int) -> None:
        """Add the pictures that the run has drawn."""
        for name, tracker in self._trackers.items():
            with self._going_on(name):
                for path in sorted((self._folder / "plots").glob("*.png")):
                    tracker.picture(path, step)

    def close(self, error: BaseException | None = None) -> None:
        """End all, with the error that ended the run."""
        for name, tracker in self._trackers.items():
            with suppress(OSError), self._going_on(name):  # a full disk has been told by then
                tracker.close(error)

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if _is_of_file(error):
                raise
            log.warning("%s: %s", name, error, exc_info=True)
            self._note(f"warning: {name} did not take everything ({_told(error)}); metrics.jsonl has all values")


@contextmanager
def tracking(
    names: Sequence[str], run: Run, settings: Mapping[str, Any], note: Callable[[str], None]
) -> Iterator[Tracking]:
    """Within a block that does a run's work, have trackers; the arguments are those of `Tracking`."""
    found = Tracking(names, run, settings, note)
    try:
        yield found
    except BaseException as error:
        found.close(error)
        raise
    found.close()


def check_installed(names: Sequence[str]) -> None:
    """Check that trackers are installed, without importing them.

    Raises:
        ConfigError: with those that are not.
    """
    missing = [name for name in names if name in EXTRAS and find_spec(name) is None]
    if missing:
        told = f"{' and '.join(missing)} must be installed: pip install 'metalearn-cli[{','.join(missing)}]'"
        raise ConfigError([Problem("tracker", told)])


class TensorBoard:
    """Event files in the run's folder; the file of each start replaces those before it."""

    def __init__(self, run: Run, settings: Mapping[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.proto.plugin_hparams_pb2 import SessionStartInfo
        from tensorboardX.record_writer import RecordWriter

        self._folder, self._began = run.folder / "tensorboard", _began(run)
        self._folder.mkdir(exist_ok=True)
        # names sort by start, also within a second; written without a thread, so that a full disk is an error here
        number = len(list(self._folder.iterdir()))
        with naming(self._folder):
            self._events = RecordWriter(str(self._folder / f"events.out.tfevents.{int(time.time())}.{number:04d}"))
        try:
            self._event(file_version="brain.Event:2")
            # TensorBoard forgets what it has read of earlier files; deleted ones would stop one that is open
            self._event(session_log=SessionLog(status=SessionLog.START))
            info = SessionStartInfo(group_name=run.info["id"], start_time_secs=self._began)
            for key, value in settings.items():
                kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "string"
                setattr(info.hparams[key], f"{kind}_value", value if kind != "string" else _text(value))
            self._hparams("session_start_info", info)
            self._sync()
        except OSError:
            self._abandon()
            raise

    def log(self, lines: Sequence[Line]) -> None:
        """Add lines."""
        from tensorboardX.proto.summary_pb2 import Summary

        for line in lines:
            wall_time = self._began + line["seconds"] if "seconds" in line else time.time()
            for name, value in _values([line]).items():  # `tensorboardX.summary` would print a line at every NaN
                summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                self._event(wall_time, step=int(line["step"]), summary=summary)
        self._sync()

    def picture(self, path: Path, step: int) -> None:
        """Add a picture."""
        from tensorboardX.proto.summary_pb2 import Summary

        data = path.read_bytes()
        width, height = struct.unpack(">II", data[16:24])  # in the header of a PNG file
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=data)
        self._event(step=step, summary=Summary(value=[Summary.Value(tag=path.stem, image=image)]))
        self._sync()

    def close(self, error: BaseException | None) -> None:
        """Write the end of the session and close the file."""
        from tensorboardX.proto.plugin_hparams_pb2 import SessionEndInfo

        try:
            self._hparams("session_end_info", SessionEndInfo(status=2 if error else 1, end_time_secs=time.time()))
            with naming(self._folder):
                self._events.close()
        except OSError:
            self._abandon()
            raise

    def _hparams(self, kind: str, info: Any) -> None:
        """Write an entry of TensorBoard's page of settings."""
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
        from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

        content = HParamsPluginData(version=0, **{kind: info}).SerializeToString()
        plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
        value = Summary.Value(tag=f"_hparams_/{kind}", metadata=SummaryMetadata(plugin_data=plugin))
        self._event(summary=Summary(value=[value]))

    def _event(self, wall_time: float | None = None, **contents: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with naming(self._folder):
            self._events.write(Event(wall_time=wall_time or time.time(), **contents).SerializeToString())

    def _sync(self) -> None:
        with naming(self._folder), flushing():  # it calls os.fsync itself
            self._events.flush()

    def _abandon(self) -> None:
        with suppress(OSError):
            self._events.close()


class MLflow:
    """A run of the same name in the store of MLFLOW_TRACKING_URI, else in mlflow.db in the folder of all runs."""

    def __init__(self, run: Run, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # they tell each step of making a new store
            logging.getLogger(name).setLevel(logging.WARNING)
        runs_dir = run.folder.parents[1].resolve()
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{runs_dir / 'mlflow.db'}"
        self._client, self._began = MlflowClient(own), _began(run)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = (runs_dir / "mlflow").as_uri() if own else None
        number = experiment.experiment_id if experiment else self._client.create_experiment(name, place)
        known = self._client.search_runs([number], f"tags.`mlx.run` = '{run.info['id']}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
        else:
            tags = {"mlx.run": run.info["id"], "mlx.stage": run.info["stage"], "mlx.folder": str(run.folder)}
            if parent := run.info.get("parent"):
                tags["mlx.parent"] = str(parent["checkpoint"])
            self._id = self._client.create_run(number, tags=tags, run_name=run.info["id"]).info.run_id
        found = self._client.get_run(self._id).data
        self._last = max(
            (m.step for n in found.metrics for m in self._client.get_metric_history(self._id, n)), default=-1
        )
        self._set(settings, found.params)

    def _set(self, settings: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Add the settings; those that a resumed run has changed become tags, as MLflow never changes a parameter."""
        from mlflow.entities import Param, RunTag

        texts = {key: _text(value)[:6000] for key, value in settings.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in known]
        for start in range(0, len(new), 100):
            self._client.log_batch(self._id, params=new[start : start + 100])
        changed = [RunTag(f"resumed.{key}", text) for key, text in texts.items() if known.get(key, text) != text]
        self._client.log_batch(self._id, tags=changed)

    def log(self, lines: Sequence[Line]) -> None:
        """Add the lines after the last step that MLflow has; all values of a step are in one transaction."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        for step, values, seconds in _steps(lines, self._last + 1):
            at = int(1000 * (self._began + seconds))
            if len(batch) + len(values) > 1000:  # more than MLflow takes at once
                self._client.log_batch(self._id, batch)
                batch = []
            batch += [Metric(name, value, at, step) for name, value in values.items()]
            self._last = step
        self._client.log_batch(self._id, batch)

    def picture(self, path: Path, step: int) -> None:
        """Add a picture to the run's artifacts."""
        self._client.log_artifact(self._id, str(path), path.parent.name)

    def close(self, error: BaseException | None) -> None:
        """Set how the run has ended."""
        ended = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED" if error else "FINISHED"
        self._client.set_terminated(self._id, ended)


class WandB:
    """A run of the same name, offline in the run's folder unless WANDB_MODE says otherwise."""

    def __init__(self, run: Run, settings: Mapping[str, Any]) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        for earlier in run.folder.glob("wandb/offline-run-*"):  # everything is written again
            shutil.rmtree(earlier, ignore_errors=True)
        self._run = wandb.init(
            dir=run.folder,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.info["id"],
            name=run.info["id"],
            job_type=run.info["stage"],
            config=dict(settings),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True, x_disable_machine_info=True, save_code=False),
        )

    def log(self, lines: Sequence[Line]) -> None:
        """Add the lines after the last step that W&B has."""
        for step, values, _ in _steps(lines, self._run.step):
            self._run.log(values, step=step, commit=True)

    def picture(self, path: Path, step: int) -> None:
        """Add a picture."""
        import wandb

        self._run.log({path.stem: wandb.Image(str(path))}, commit=True)

    def close(self, error: BaseException | None) -> None:
        """Write everything that is left."""
        self._run.finish(exit_code=1 if error else 0)


TRACKERS: dict[str, Callable[[Run, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
"""By their names in the setting `tracker`."""

EXTRAS = ("mlflow", "wandb")
"""Those that need a package of the same name, which is an extra of this one."""


def _values(lines: Sequence[Line]) -> dict[str, float]:
    """Return what lines have measured, without step and times."""
    return {name: value for line in lines for name, value in line.items() if name not in ("step", *TIMES)}


def _steps(lines: Sequence[Line], first: int) -> Iterator[tuple[int, dict[str, float], float]]:
    """Return each step from `first` on, with its values and the seconds since the run began."""
    for step, of_step in groupby(lines, lambda line: int(line["step"])):
        together = list(of_step)
        if step >= first:
            yield step, _values(together), together[-1].get("seconds", 0.0)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def _began(run: Run) -> float:
    return datetime.fromisoformat(run.info["started_at"]).timestamp()


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _is_of_file(error: Exception) -> bool:
    """Whether an error is of a file of the run, as on a full disk; a lost connection is an OSError, too."""
    return isinstance(error, OSError) and error.filename is not None

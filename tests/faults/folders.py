"""What a folder of runs came to, without what may differ between two equal ones: times, process and run ids."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog

from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import Checkpoint, open_checkpoint, read_resume, read_tensors
from metalearn_cli.records.metrics import TIMES

_OF_RUN = ("stage", "status", "step", "steps", "last", "best", "metric", "stopped_early", "data", "table", "results")
_OF_MANIFEST = ("format", "stage", "model", "data", "step", "metrics", "signature")


def result(runs_dir: Path) -> list[dict[str, Any]]:
    """Return what every run in a folder came to, in the order of their starts; two equal results are equal values.

    A folder without a run.json is what a process leaves that was killed while it made it: no run.
    """
    return [of_run(Path(info["folder"]), info) for info in reversed(runs.list_runs(str(runs_dir)))]


def differences(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[str]:
    """Return what is not the same in two results, as "stage: part"."""
    if [run["run"]["stage"] for run in one] != [run["run"]["stage"] for run in two]:
        return [f"runs: {[run['run']['stage'] for run in one]} and {[run['run']['stage'] for run in two]}"]
    pairs = zip(one, two, strict=True)
    return [
        f"{a['run']['stage']}: {part}: {a[part]} and {b[part]}" for a, b in pairs for part in a if a[part] != b[part]
    ]


def of_run(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Return what one run came to; `info` is its run.json."""
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    loose = {"lock", "mlx.log"}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    episodes = folder / "episodes.csv"
    return {
        "run": {key: info.get(key) for key in _OF_RUN},
        "files": sorted(file for file in files - loose if not file.startswith("tensorboard")),
        "metrics": metrics(folder) if (folder / "metrics.jsonl").is_file() else None,
        "episodes": episodes.read_text() if episodes.is_file() else None,
        "scalars": scalars(folder / "tensorboard"),
        "checkpoints": [_checkpoint(open_checkpoint(path)) for path in checkpoints],
    }


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl without the times, which differ between two equal runs."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def _checkpoint(found: Checkpoint) -> dict[str, Any]:
    said = {key: found.manifest[key] for key in _OF_MANIFEST}
    return {**said, "tensors": _plain(read_tensors(found)), "resume": _plain(read_resume(found))}


def _plain(value: Any) -> Any:
    """Return a nest of tensors and values such that `==` compares every bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else json.dumps(value)


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """Read TensorBoard's event files as TensorBoard does: in order, and a start forgets its step and later ones."""
    found: list[tuple[int, str, float]] = []
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            found = [entry for entry in found if entry[0] < event.step]
        values = [value for value in event.summary.value if value.HasField("simple_value")]
        found += [(event.step, value.tag, value.simple_value) for value in values]
    return found


def events(folder: Path) -> Iterator[Any]:
    """Read TensorBoard's event files, each up to where a kill has cut it."""
    for path in sorted(folder.glob("*tfevents*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("Q", data, at)
            if at + 16 + length > len(data):
                break
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def of_mlflow(folder: Path) -> list[tuple[int, str, float]]:
    """Read the values of the only run in the store of a folder of runs, sorted."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.resolve().parents[1] / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mlx").experiment_id])
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    return sorted((metric.step, metric.key, metric.value) for history in histories for metric in history)


def of_wandb(folder: Path) -> list[tuple[int, str, str]]:
    """Read the values in the only file of W&B in a run's folder, as JSON."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = []
    for record in map(Record.FromString, _leveldb(file.read_bytes())):
        items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        found += [(int(items["_step"]), name, text) for name, text in items.items() if name[0] != "_"]
    return found


def _leveldb(data: bytes) -> Iterator[bytes]:
    """Read a log of LevelDB: blocks of 32 KiB, with parts of records that begin with checksum, length and kind."""
    at, record = 7, b""  # after the header of the file
    while at < len(data):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""

"""Run folders: `runs/<stage>/<run id>/` with run.json (status and results) and config.json (settings).

Nothing here imports torch, so that `mlx runs` and `mlx show` start fast.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import secrets
import shlex
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from metalearn_cli.core.errors import InUseError, UserError
from metalearn_cli.core.places import expanded
from metalearn_cli.core.stages import TABLE
from metalearn_cli.records.shapes import RUN, misshapen

LACKING = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOLCK)
"""Errors of file systems without locks or without fsync, such as those of clusters and networks."""

TO_WAIT = "; to wait for it, add wait=SECONDS"
"""The end of what is said of a run in use."""

_LARGEST = 1 << 26
"""Bytes of a JSON file; that of a network with a thousand tensors has a few hundred thousand."""

log = logging.getLogger("metalearn_cli")


def now() -> str:
    """Return the time in the format of run.json: UTC, ISO 8601, with microseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def as_json(value: Any, indent: int | None = None) -> str:
    """Return plain values as strict JSON: NaN and infinities become null."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Return nested plain values with None instead of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, see `write_bytes`."""
    write_text(path, as_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and flush it to disk: after a crash it is the old one or the new one.

    Raises:
        OSError: with the file's name.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                _sync(file.fileno())
            temporary.replace(path)
            flush(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within a block, add the name of the file to errors; those of a full disk have none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Flush a file's contents, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Flush a file to disk, if the file system supports it."""
    with flushing():
        os.fsync(descriptor)


@contextmanager
def flushing() -> Iterator[None]:
    """Within a block that flushes a file to disk, ignore that the file system does not support it."""
    try:
        yield
    except OSError as error:
        if error.errno not in LACKING:
            raise


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Run:
    """A run folder that this process writes to, locked until the process ends or `close` is called.

    Attributes:
        folder: the run's folder.
        info: the contents of run.json.
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info
        path = folder / "lock"
        self._lock = path.open("w")
        try:
            with naming(path):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise InUseError(_in_use(folder)) from error
        except OSError as error:
            if error.errno not in LACKING:
                self._lock.close()
                raise
            _say_unlocked(folder.parent.parent, os.strerror(error.errno or 0).lower())

    def update(self, **changes: Any) -> None:
        """Change run.json."""
        self.info.update(changes)
        write_json(self.folder / "run.json", {k: v for k, v in self.info.items() if k != "folder"})

    def fail(self, error: BaseException) -> None:
        """Record the error that ended the run; if run.json cannot be written, the run is later shown as died."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(OSError):
            self.update(status=status, finished_at=now(), error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()


@cache
def _say_unlocked(runs_dir: Path, reason: str) -> None:
    """Warn once that runs cannot be locked."""
    log.warning("the file system of %s has no locks (%s): do not start two commands on one run", runs_dir, reason)


def create(runs_dir: str, stage: str, config: Mapping[str, Any], **facts: Any) -> Run:
    """Create a new run folder and lock it.

    Args:
        runs_dir: the folder of all runs.
        stage: the command that runs.
        config: its settings as plain values.
        facts: more entries for run.json.
    """
    while True:
        run_id = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = Path(runs_dir) / stage / run_id
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not folder.is_dir():
                raise  # a file has the name of the folder of runs
    flush(folder.parent)
    run = Run(folder, {"id": run_id, "stage": stage, "status": "running", "started_at": now(), **facts})
    try:
        write_json(folder / "config.json", config)
        run.update()
    except BaseException:
        run.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return run


def reopen(folder: Path, config: Mapping[str, Any] | None = None, **changes: Any) -> Run:
    """Lock an existing run folder, to resume it; the record of its end is removed.

    Args:
        folder: the run's folder.
        config: the settings to resume with; None for the earlier ones.
        changes: entries of run.json that change.

    Raises:
        UserError: if it is not a run folder, or is in use by another process.
    """
    run = Run(folder, _read(folder))
    for ending in ("finished_at", "error", "stopped_early"):
        run.info.pop(ending, None)
    try:
        if config is not None:
            write_json(folder / "config.json", config)
        run.update(status="running", **changes)
    except BaseException:
        run.close()
        raise
    return run


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings that a run was started with."""
    return read_json(folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a run or checkpoint folder.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device, because reading one may never end
            raise UserError(f"{path} is missing")
        if status.st_size > _LARGEST:
            raise UserError(f"{path} is damaged: it has more than {_LARGEST} bytes")
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing") from error
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it is nested too deeply") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it should contain an object")
    return value


def _read(folder: Path) -> dict[str, Any]:
    info = read_json(folder / "run.json")
    if wrong := misshapen(info, RUN):
        raise UserError(f"{folder / 'run.json'} is damaged: {wrong}")
    return {**info, "folder": str(folder)}


def is_held(folder: Path) -> bool:
    """Whether a process has locked a folder; True on a file system without locks, where it is unknown."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in LACKING
    return False


def locked(folder: Path) -> TextIO | None:
    """Lock a folder until the file is closed, by this process and all that inherit it; None if another one has done so.

    The file may hold what others should know of the owner. Without locks of the file system nothing is ever locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in LACKING:
            file.close()
            raise
    return file


def _in_use(folder: Path) -> str:
    return f"{folder} is in use by another mlx process{TO_WAIT}"


def wait_for(folder: Path, seconds: float) -> None:
    """Wait until no process works on a run.

    Raises:
        InUseError: if one still does after this time.
    """
    until = time.monotonic() + seconds
    if seconds and is_held(folder):
        log.warning("%s is in use by another mlx process; waiting for it, at most %g s", folder, seconds)
    while is_held(folder):
        left = until - time.monotonic()
        if left <= 0:
            raise InUseError(_in_use(folder))
        time.sleep(min(left, 0.5))


def list_runs(runs_dir: str) -> list[dict[str, Any]]:
    """Return the run.json of every run, newest first, with its `folder`; one running without a process has `died`.

    If one of two runs with the same id is a copy, the one whose folder is named by the id comes first.

    Raises:
        UserError: if the folder of all runs cannot be read; folders in it that cannot be read are left out.
    """
    try:
        stages = _entries(Path(runs_dir))
    except PermissionError as error:
        raise UserError(f"{runs_dir}, the folder of all runs, cannot be read: permission denied") from error
    found, folders, denied, damaged = [], list[Path](), 0, list[str]()
    for stage in stages:
        try:
            folders += _entries(stage)
        except PermissionError:
            denied += 1
    for folder in folders:
        try:
            info = _read(folder)
        except UserError as error:  # not yet written, not a run, damaged, or another user's
            if isinstance(error.__cause__, PermissionError):
                denied += 1
            elif (folder / "run.json").is_file():
                damaged.append(str(error))
            continue
        if info.get("status") == "running" and not is_held(folder):
            info["status"] = "died"
        found.append(info)
    if denied:
        _say_denied(runs_dir, denied)
    if damaged:
        _say_damaged(damaged[0], len(damaged) - 1)
    return sorted(found, key=lambda info: (str(info.get("started_at")), not _is_copy(info)), reverse=True)


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it does not exist or is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@cache
def _say_denied(runs_dir: str, number: int) -> None:
    """Warn once that folders of runs cannot be read."""
    told = "1 folder in it; its" if number == 1 else f"{number} folders in it; their"
    log.warning("%s: you have no permission to read %s runs are left out", runs_dir, told)


@cache
def _say_damaged(first: str, more: int) -> None:
    """Warn once that runs are damaged."""
    log.warning("%s; this run%s left out", first, f" and {more} more are" if more else " is")


def _is_copy(info: Mapping[str, Any]) -> bool:
    return Path(info["folder"]).name != info["id"]


def find_run(runs_dir: str, name: str) -> dict[str, Any]:
    """Return the run with this name: latest, latest:<stage>, a run id, the unique beginning of one, or a folder.

    A folder is named by its path or by its last part.

    Raises:
        UserError: if there is none, with the closest id, or more than one.
    """
    if (Path(expanded(name)) / "run.json").is_file():
        return _read(Path(expanded(name)))
    runs = list_runs(runs_dir)
    if name == "latest" or name.startswith("latest:"):
        stage = name.partition(":")[2]
        if begun := [info for info in runs if stage in ("", info["stage"])]:
            return begun[0]
        known = {*TABLE, "run", *(info["stage"] for info in runs)}
        if stage and stage not in known:
            close = get_close_matches(stage.replace("_", "-"), known, n=1)
            hint = f"; did you mean latest:{close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
            raise UserError(f"there is no stage {stage!r}{hint}")
        elsewhere = "" if runs_dir == "runs" else f" {shlex.quote(f'runs_dir={runs_dir}')}"
        raise UserError(f"there is no run{f' of {stage}' * bool(stage)} in {runs_dir} yet; next: mlx run{elsewhere}")
    matches = (
        [info for info in runs if info["id"] == name]
        or [info for info in runs if Path(info["folder"]).name == name]
        or [info for info in runs if info["id"].startswith(name)]
    )
    if len(matches) == 1:
        return matches[0]
    if len({info["id"] for info in matches}) == 1:
        folders = " and ".join(str(info["folder"]) for info in matches)
        raise UserError(f"{len(matches)} runs have the id {matches[0]['id']}, {folders}; name one by its folder")
    if matches:
        raise UserError(f"{name!r} could be {' or '.join(dict.fromkeys(info['id'] for info in matches))}")
    for folder in _entries(Path(runs_dir)):
        if os.path.isfile(folder / name / "run.json"):
            return _read(folder / name)  # it is damaged, and the error says how
    close = get_close_matches(name, [*(info["id"] for info in runs), "latest"], n=1)
    hint = f"; see them with: mlx runs --runs-dir {shlex.quote(runs_dir)}" if runs else ""
    hint = f"; did you mean {close[0]}?" if close else hint
    raise UserError(f"there is no run {name!r} in {runs_dir}{hint}")


def find_checkpoint(name: str, runs_dir: str, accepts: tuple[str, ...], setting: str) -> Path:
    """Return the checkpoint folder with this name.

    Args:
        name: latest (the last completed run of an accepted stage), latest:<stage>, a run id (its best checkpoint), or
            the path of a run or checkpoint folder.
        runs_dir: the folder of all runs.
        accepts: the stages whose checkpoints are allowed.
        setting: the setting whose value is `name`, for messages.

    Raises:
        UserError: if nothing matches; it names the runs that were found and the command that creates one.
    """
    if (Path(name) / "manifest.json").is_file():
        stage = read_json(Path(name) / "manifest.json").get("stage")
        if stage not in accepts:
            raise UserError(f"{setting}={name}: made by {stage}, but allowed here is {' or '.join(accepts)}")
        return Path(name)
    if name == "latest" or name.startswith("latest:"):
        stages = accepts if name == "latest" else (name.removeprefix("latest:"),)
        if not set(stages) <= set(accepts):
            allowed = ", ".join(f"latest:{stage}" for stage in accepts)
            close = get_close_matches(stages[0], accepts, n=1)
            hint = f"; did you mean latest:{close[0]}?" if close else ""
            raise UserError(f"{setting}={name}: allowed here is latest, {allowed}{hint}")
        runs = [i for i in list_runs(runs_dir) if i["stage"] in stages]
        own = os.environ.get("MLX_SWEEP_ID")  # all jobs of a sweep start from the same run, not from each other's
        done = [i for i in runs if i["status"] == "completed" and (not i.get("sweep") or i["sweep"] != own)]
        done = [i for i in done if i.get("steps") != 0]  # a pruned network that was not trained yet
        if not done:
            looked = f"{len(runs)} unfinished" if runs else "no runs"
            raise UserError(
                f"{setting}={name}: no completed run of {' or '.join(stages)} in {runs_dir} ({looked}); "
                f"create one with: mlx {stages[0]}"
            )
        info = max(done, key=lambda i: str(i["finished_at"]))
    else:
        try:
            info = find_run(runs_dir, name)
        except UserError as error:
            if Path(name).exists() and not (Path(name) / "run.json").exists():
                raise UserError(f"{setting}={name}: is not a run or checkpoint folder{_beside(Path(name))}") from error
            raise UserError(f"{setting}={name}: {error}") from error
    if info["stage"] not in accepts:
        raise UserError(f"{setting}={name}: a run of {info['stage']}, but allowed here is {' or '.join(accepts)}")
    if not info.get("best"):
        raise UserError(f"{setting}={name}: the run {info['id']} has saved no checkpoint (status {info['status']})")
    return Path(info["folder"]) / "checkpoints" / str(info["best"])


def _beside(path: Path) -> str:
    """Return "; name CHECKPOINT", for the folder that a file is in, or the newest one in a folder, or ""."""
    found = [*path.glob("*/manifest.json"), *path.glob("checkpoints/*/manifest.json")]
    found = sorted(found, key=lambda file: file.parent.name) or [*path.parent.glob("manifest.json")]
    return f"; name {found[-1].parent}" if found else ""


def beside_of(folder: Path) -> str:
    """Return the folder of all runs in which a run's folder is."""
    return str(folder.absolute().parent.parent)


def found_again(recorded: str, *runs_dirs: str) -> str:
    """Return the path of a recorded checkpoint: the recorded one or, if its run was moved, the new one.

    Args:
        recorded: the recorded path, in a run's folder.
        runs_dirs: folders of runs where it may be now.
    """
    path = Path(recorded)
    if (path / "manifest.json").is_file():
        return recorded
    folders = (Path(info["folder"]) for runs_dir in dict.fromkeys(runs_dirs) for info in list_runs(runs_dir))
    moved = (folder / "checkpoints" / path.name for folder in folders if folder.name == path.parent.parent.name)
    return next((str(place) for place in moved if (place / "manifest.json").is_file()), recorded)


def lineage(runs_dir: str, name: str) -> list[dict[str, Any]]:
    """Return a run and all its ancestors, each with the contents of its run.json.

    An ancestor whose folder is gone has the child's record of it, with status `gone`.

    Raises:
        UserError: if there is no run `name`.
    """
    chain = [find_run(runs_dir, name)]
    if best := chain[0].get("best"):
        manifest = Path(chain[0]["folder"]) / "checkpoints" / best / "manifest.json"
        chain[0] |= {"sha256": sha256_of(manifest)} if manifest.is_file() else {}
    beside = beside_of(Path(chain[0]["folder"]))
    while parent := chain[-1].get("parent"):
        if parent["run"] in {info["id"] for info in chain}:
            raise UserError(f"{chain[-1]['id']} is damaged: its run.json makes it an ancestor of itself")
        there = (info for folder in (runs_dir, beside) for info in list_runs(folder) if info["id"] == parent["run"])
        gone = {"id": parent["run"], "stage": parent["stage"], "status": "gone", "parent": None}
        info = next(there, gone)
        chain.append({**info, "checkpoint": parent["checkpoint"], "sha256": parent["sha256"]})
    return chain

"""A disk that fills up, a folder that vanishes, a permission that is lost while a run writes."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.folders import differences, result
from PIL import Image

from metalearn_cli import stages
from metalearn_cli.core.config import STAGES, parse, parse_chain
from metalearn_cli.records import runs
from metalearn_cli.records.checkpoint import open_checkpoint
from metalearn_cli.records.metrics import read_metrics

FAULTS = int(os.environ.get("MLX_FAULTS", 100))
PAGE = os.sysconf("SC_PAGESIZE")


@contextmanager
def small_disk(pages):
    """Mount a disk of so many pages in memory; gives its folder, and a function that changes its size."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)

        def mount(*options):
            command = ["mount", "-t", "tmpfs", *options, "tmpfs", folder]
            return subprocess.run(command, capture_output=True, text=True)

        if (refused := mount("-o", f"size={pages * PAGE},mode=777")).returncode:
            pytest.skip(f"cannot mount a small disk: {refused.stderr.strip()}")
        try:
            yield Path(folder), lambda pages: mount("-o", f"remount,size={pages * PAGE}")
        finally:
            subprocess.run(["umount", folder], check=True)


def whole(folder: Path) -> list[str]:
    """Return which files under their final names are not whole; metrics.jsonl may not even end in half a line."""
    wrong = []
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            try:
                if path.suffix == ".json":
                    json.loads(path.read_text())
                elif path.name == "metrics.jsonl":
                    assert len(read_metrics(path.parent)) == path.read_text().count("\n")
                elif path.suffix == ".png":
                    with Image.open(path) as image:
                        image.load()
                elif path.suffix == ".csv":
                    assert path.read_text().endswith("\n")
                elif path.name == "model.safetensors":
                    open_checkpoint(path.parent)
            except Exception as error:
                wrong.append(f"{path}: {error!r}")
    return wrong


@pytest.fixture(autouse=True)
def nothing_slow():
    """Leave nothing out: pictures are written, too, and whatever is written reaches the disk."""


def go(stage, values, said):
    """Begin a run, or go on with it until it is complete."""
    begun = [info for info in runs.list_runs(values["runs_dir"]) if info["stage"] == stage]
    if begun and begun[0]["status"] == "completed":
        return
    if stage == "run":
        stages.run("run", parse_chain(values), said)
    elif begun:
        stages.resume(begun[0]["folder"], said, {})
    else:
        stages.run(stage, parse(STAGES[stage], values), said)


@pytest.mark.parametrize(("stage", "count"), [
    ("meta-train", 2),
    pytest.param("pretrain", FAULTS, marks=pytest.mark.slow),
    pytest.param("run", FAULTS, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.medium
def test_full_disk(settings, said, capfd, monkeypatch, stage, count):
    logging.getLogger("metalearn_cli").setLevel(logging.INFO)
    if stage != "meta-train":
        monkeypatch.setattr("metalearn_cli.stages.training.learning_curves", lambda *args: None)
    with small_disk(1000) as (folder, _):
        go(stage, settings(stage, runs_dir=str(folder)), said)
        expected = result(folder)
        used = (shutil.disk_usage(folder).used) // PAGE
    draw, filled, lost = random.Random(0), 0, []
    for _ in range(count):
        pages = draw.randrange(1, used)
        with small_disk(pages) as (folder, resize):
            values = settings(stage, runs_dir=str(folder))
            try:
                go(stage, values, said)
            except OSError as error:
                filled += 1
                named = error.errno == errno.ENOSPC and str(error.filename).startswith(str(folder))
                lost += [] if named else [f"{pages} pages: {error!r} {error.filename}"]
            lost += [f"{pages} pages: {wrong}" for wrong in whole(folder)]
            resize(1000)
            go(stage, values, said)
            lost += [f"{pages} pages: {difference}" for difference in differences(expected, result(folder))]
    told = capfd.readouterr().err
    assert "Traceback" not in told and "Logging error" not in told
    print(f"{filled} faults injected, {len(lost)} runs lost something")
    assert not lost
    assert filled > count // 2


@contextmanager
def unprivileged():
    """Be a user whom permissions hold for; gives a function that does something as who we were."""
    us = os.geteuid()
    if us == 0:
        os.seteuid(65534)

    def as_before(act, *args):
        os.seteuid(us)
        try:
            act(*args)
        finally:
            os.seteuid(65534 if us == 0 else us)

    try:
        yield as_before
    finally:
        os.seteuid(us)


@pytest.mark.parametrize(
    "where", ["checkpoints", *(pytest.param(name, marks=pytest.mark.slow) for name in (".", "tensorboard"))]
)
@pytest.mark.medium
def test_lost_permission(settings, said, monkeypatch, where):
    """Nothing new can be written: at the latest the next checkpoint ends the run, and the earlier one stays."""
    with small_disk(1000) as (disk, _):
        values = settings("transfer", runs_dir=str(disk / "runs"))
        go("transfer", settings("transfer", runs_dir=str(disk / "whole")), said)
        with unprivileged() as as_before:

            def advance(step):
                if step == 3:
                    folder = Path(runs.list_runs(values["runs_dir"])[0]["folder"])
                    as_before(os.chmod, folder / where, 0o555)
                    as_before(os.chown, folder / where, 0, 0)

            with monkeypatch.context() as patch:
                patch.setattr(said, "advance", advance)
                if where == "tensorboard":  # which is open already
                    go("transfer", values, said)
                else:
                    with pytest.raises(PermissionError) as caught:
                        go("transfer", values, said)
                    assert str(caught.value.filename).startswith(values["runs_dir"])
            assert whole(disk) == []
            folder = Path(runs.list_runs(values["runs_dir"])[0]["folder"])
            as_before(os.chmod, folder / where, 0o777)
            go("transfer", values, said)
        assert differences(result(disk / "whole"), result(disk / "runs")) == []


def test_folders_of_other_users(mlx, tmp_path, monkeypatch):
    """A folder that a user cannot read is counted, and does not hide the others."""
    facts = {"metric": None, "parent": None}
    with tempfile.TemporaryDirectory() as shared:
        monkeypatch.chdir(shared)
        for stage in ("pretrain", "pretrain", "pretrain", "transfer"):
            runs.create("runs", stage, {}, **facts).close()
        for path in (Path(shared), *Path(shared).rglob("*")):
            path.chmod(0o755)
        mine, *closed = sorted(Path("runs/pretrain").iterdir())
        closed.append(Path("runs/transfer"))
        for folder in closed:
            folder.chmod(0)
        commands = (["show", "latest"], ["resume", "nosuch"])
        for words in commands:
            mlx(*words)  # imports what the other user may not be allowed to
        with unprivileged() as as_before:
            runs._say_denied.cache_clear()
            answer = mlx("runs", "--json")
            assert [run["id"] for run in json.loads(answer.out)] == [mine.name]
            told = "warning: runs: you have no permission to read 3 folders in it; their runs are left out\n"
            assert answer.err == told
            for words in commands:
                runs._say_denied.cache_clear()
                assert told in mlx(*words).err, words
            as_before(Path("runs").chmod, 0)
            answer = mlx("runs")
        assert answer.code == 2
        assert answer.err == "error: runs, the folder of all runs, cannot be read: permission denied\n"
        for folder in (Path("runs"), *closed):
            folder.chmod(0o755)


@pytest.mark.parametrize("where", ["checkpoints", "."])
def test_vanished_folder(settings, said, tmp_path, monkeypatch, where):
    values = settings("transfer")

    def advance(step):
        if step == 3:
            shutil.rmtree(Path(runs.list_runs(values["runs_dir"])[0]["folder"]) / where)

    monkeypatch.setattr(said, "advance", advance)
    with pytest.raises(FileNotFoundError) as caught:
        go("transfer", values, said)
    assert str(caught.value.filename).startswith(values["runs_dir"])
    assert whole(tmp_path) == []

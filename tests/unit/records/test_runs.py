from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalearn_cli.core.errors import UserError
from metalearn_cli.records import runs

STAGES = ("pretrain", "transfer")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


def finished(folder: str, stage: str, **facts: Any) -> runs.Run:
    """Return a completed run with one checkpoint, as a stage leaves it behind."""
    run = runs.create(folder, stage, {"steps": 4}, parent=None, **facts)
    checkpoint = run.folder / "checkpoints" / "step-000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"stage": stage}))
    run.update(status="completed", finished_at=runs.now(), best="step-000004")
    run.close()
    return run


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


def test_created_run_can_be_read_and_reopened(folder):
    run = runs.create(folder, "pretrain", {"steps": 4}, parent=None)
    assert run.folder.parent == Path(folder) / "pretrain"
    assert runs.read_config(run.folder) == {"steps": 4}
    written = json.loads((run.folder / "run.json").read_text())
    assert (written["id"], written["stage"], written["status"]) == (run.folder.name, "pretrain", "running")
    run.update(step=3)
    run.close()
    again = runs.reopen(run.folder)
    assert again.info["step"] == 3
    again.close()


def test_no_two_runs_share_a_folder(folder, monkeypatch):
    drawn = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(runs.secrets, "token_hex", lambda n: next(drawn))
    monkeypatch.setattr(runs, "datetime", Still)
    one, two = runs.create(folder, "pretrain", {}), runs.create(folder, "pretrain", {})
    assert (one.folder.name[-4:], two.folder.name[-4:]) == ("aaaa", "bbbb")
    one.close()
    two.close()


class Still(runs.datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, tzinfo=tz)


def test_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        runs.create(str(tmp_path / "runs"), "pretrain", {})


def test_running_folder_belongs_to_one_process(folder):
    run = runs.create(folder, "pretrain", {})
    assert "in use by another mlx process" in refused(runs.reopen, run.folder)
    assert runs.list_runs(folder)[0]["status"] == "running"
    run.close()


def test_reopening_forgets_how_the_run_ended(folder):
    run = runs.create(folder, "pretrain", {})
    run.update(status="failed", error="OSError: disk full", finished_at=runs.now())
    run.close()
    run = runs.reopen(run.folder)
    run.close()
    info = json.loads((run.folder / "run.json").read_text())
    assert info["status"] == "running"
    assert not {"error", "finished_at", "folder"} & info.keys()


def test_killed_process_is_shown_as_died(folder):
    code = "import sys, time; from metalearn_cli.records import runs; run = runs.create(sys.argv[1], 'pretrain', {})\n"
    code += "print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    (run,) = runs.list_runs(folder)
    assert run["status"] == "running"
    process.kill()
    process.wait()
    (run,) = runs.list_runs(folder)
    assert run["status"] == "died"
    runs.reopen(Path(run["folder"])).close()


def test_list_is_newest_first_and_leaves_out_what_is_no_run(folder, caplog):
    names = [finished(folder, "pretrain").folder.name for _ in range(3)]
    for other, text in {"a": "{", "b": "[]", "c": '{"name": "not ours"}'}.items():
        path = Path(folder) / "pretrain" / other
        path.mkdir()
        (path / "run.json").write_text(text)
    assert [info["id"] for info in runs.list_runs(folder)] == names[::-1]
    assert "run.json" in caplog.text and "; this run and 2 more are left out" in caplog.text
    assert runs.list_runs(folder + "/nowhere") == []


def test_find_run(folder):
    one, two = (finished(folder, stage) for stage in STAGES)
    (Path(folder) / "transfer" / "x").mkdir()
    runs.write_json(Path(folder) / "transfer" / "x" / "run.json", {**two.info, "id": one.info["id"] + "x"})
    assert runs.find_run(folder, one.info["id"])["stage"] == "pretrain"  # the whole id, though another begins with it
    assert runs.find_run(folder, two.info["id"][:-1])["stage"] == "transfer"
    assert runs.find_run("elsewhere", str(two.folder))["id"] == two.info["id"]


def test_find_run_refuses(folder):
    one, two = (finished(folder, stage).info["id"] for stage in STAGES)
    said = refused(runs.find_run, folder, one[:8])
    assert f"{two} or {one}" in said
    assert f"did you mean {one}?" in refused(runs.find_run, folder, one[:-1] + "z")
    assert "mlx runs" in refused(runs.find_run, folder, "something")
    (Path(folder) / STAGES[0] / one / "run.json").write_text("{")
    assert f"{one}/run.json cannot be read" in refused(runs.find_run, folder, one)


def test_find_checkpoint_latest_is_what_was_completed_last(folder):
    old, young = finished(folder, "transfer"), finished(folder, "pretrain")
    later = runs.reopen(old.folder)
    later.update(status="completed", finished_at=runs.now())
    later.close()
    runs.create(folder, "pretrain", {}).close()  # newer, but not completed
    find = runs.find_checkpoint
    assert find("latest", folder, STAGES, "init_from") == old.folder / "checkpoints" / "step-000004"
    assert find("latest:pretrain", folder, STAGES, "init_from").parents[1] == young.folder
    assert find(young.info["id"], folder, STAGES, "init_from").parents[1] == young.folder
    assert find(str(young.folder), folder, STAGES, "init_from").parents[1] == young.folder
    path = young.folder / "checkpoints" / "step-000004"
    assert find(str(path), folder, STAGES, "init_from") == path


def test_find_checkpoint_refuses(folder):
    def said(name: str) -> str:
        return refused(runs.find_checkpoint, name, folder, STAGES, "init_from")

    assert said("latest").endswith("no completed run of pretrain or transfer in " + folder + " (no runs); "
                                   "create one with: mlx pretrain")  # fmt: skip
    unfinished = runs.create(folder, "transfer", {})
    assert "no completed run of transfer" in said("latest:transfer") and "(1 unfinished)" in said("latest:transfer")
    assert "mlx transfer" in said("latest:transfer")
    assert f"{unfinished.info['id']} has saved no checkpoint (status running)" in said(unfinished.info["id"])
    unfinished.close()
    assert "did you mean latest:pretrain?" in said("latest:pretrian")
    assert "allowed here is latest, latest:pretrain, latest:transfer" in said("latest:meta-train")
    assert "there is no run 'nothing'" in said("nothing")


def test_find_checkpoint_names_the_checkpoint_beside_a_path(folder):
    run = finished(folder, "pretrain")
    checkpoint = run.folder / "checkpoints" / "step-000004"
    weights = checkpoint / "model.safetensors"
    weights.touch()
    for path in (weights, checkpoint.parent):
        told = refused(runs.find_checkpoint, str(path), folder, STAGES, "ckpt")
        assert told == f"ckpt={path}: is not a run or checkpoint folder; name {checkpoint}"
    told = refused(runs.find_checkpoint, folder, folder, STAGES, "ckpt")
    assert told == f"ckpt={folder}: is not a run or checkpoint folder"


def test_find_checkpoint_refuses_another_stage_however_it_is_named(folder):
    run = finished(folder, "meta-train")
    for name in (run.info["id"], str(run.folder), str(run.folder / "checkpoints" / "step-000004")):
        said = refused(runs.find_checkpoint, name, folder, STAGES, "init_from")
        assert said.startswith(f"init_from={name}: ")
        assert "meta-train, but allowed here is pretrain or transfer" in said


def test_lineage_goes_back_to_the_first_also_past_a_missing_one(folder):
    first = finished(folder, "pretrain")
    gone = {"run": "20200101-000000-0000", "stage": "transfer", "step": 4, "checkpoint": "there", "sha256": "cd"}
    entry = {"run": first.info["id"], "stage": "pretrain", "step": 4, "checkpoint": "here", "sha256": "ab"}
    second = finished(folder, "transfer")
    second.info["parent"] = entry
    runs.write_json(second.folder / "run.json", second.info)
    chain = runs.lineage(folder, second.info["id"])
    own = runs.sha256_of(second.folder / "checkpoints" / second.info["best"] / "manifest.json")
    assert [(info["id"], info.get("sha256")) for info in chain] == [(second.info["id"], own), (first.info["id"], "ab")]
    third = finished(folder, "meta-train")
    runs.write_json(third.folder / "run.json", {**third.info, "parent": gone})
    chain = runs.lineage(folder, third.info["id"])
    assert [(info["id"], info["status"]) for info in chain][1:] == [(gone["run"], "gone")]
    assert chain[1]["sha256"] == "cd"
    assert "there is no run" in refused(runs.lineage, folder, "nothing")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "run.json is missing"),
        ("{", "run.json cannot be read"),
        ("[]", "should contain an object"),
        ("{}", "no id"),
    ],
)
def test_damaged_run(tmp_path, text, told):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    said = refused(runs.reopen, tmp_path)
    assert told in said and str(tmp_path) in said


def test_written_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "x.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        runs.write_text(path, "begun \ud800")
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_is_its_own_ancestor(folder):
    run = finished(folder, "pretrain")
    own = {"run": run.info["id"], "stage": "pretrain", "checkpoint": "x", "sha256": "y"}
    runs.write_json(run.folder / "run.json", {**run.info, "parent": own})
    assert "makes it an ancestor of itself" in refused(runs.lineage, folder, run.info["id"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        ("[1]", "it should contain an object"),
        (" " * (runs._LARGEST + 1), f"it has more than {runs._LARGEST} bytes"),
    ],
    ids=["deep", "long number", "no text", "list", "large"],
)
def test_json_of_a_stranger(tmp_path, text, told):
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert told in refused(runs.read_json, path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    assert "is missing" in refused(runs.read_json, tmp_path / "run.json")


def test_jobs_of_a_sweep_do_not_start_from_one_another(tmp_path, monkeypatch):
    folder = str(tmp_path)
    before = finished(folder, "pretrain", sweep="another")
    finished(folder, "pretrain", sweep="this")
    monkeypatch.setenv("MLX_SWEEP_ID", "this")
    found = runs.find_checkpoint("latest", folder, STAGES, "init_from")
    assert found == before.folder / "checkpoints" / "step-000004"


def lacks(monkeypatch, function, number):
    def answer(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(function, answer)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK])
def test_a_file_system_without_locks_or_flushing(folder, monkeypatch, caplog, number):
    lacks(monkeypatch, "fcntl.flock", number)
    lacks(monkeypatch, "os.fsync", number)
    run = finished(folder, "pretrain")
    (record,) = caplog.records  # once, not for every run
    assert f"{folder} has no locks ({os.strerror(number).lower()})" in record.getMessage()
    again = runs.reopen(run.folder)
    assert runs.list_runs(folder)[0]["status"] == "running"  # nobody can know that it died
    again.close()


def test_a_lock_that_is_denied_is_named(folder, monkeypatch):
    run = finished(folder, "pretrain")
    lacks(monkeypatch, "fcntl.flock", errno.EACCES)
    with pytest.raises(PermissionError) as caught:
        runs.reopen(run.folder)
    assert caught.value.filename == str(run.folder / "lock")


def test_other_errors_of_locks_and_flushing_count(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        lacks(patch, "fcntl.flock", errno.EIO)
        runs.create(folder, "pretrain", {})
    lacks(monkeypatch, "os.fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        runs.create(folder, "pretrain", {})


def test_a_copied_run_is_not_taken_for_the_original(folder):
    run, other = finished(folder, "pretrain"), finished(folder, "pretrain")
    for name in ("a-copy", "z-copy"):
        shutil.copytree(run.folder, run.folder.with_name(name))
    said = refused(runs.find_run, folder, run.info["id"])
    assert said.startswith(f"3 runs have the id {run.info['id']}, {run.folder} and ")
    assert str(run.folder.with_name("a-copy")) in said and "name one by its folder" in said
    assert said == refused(runs.find_run, folder, run.info["id"][:-1])
    assert runs.find_run(folder, "a-copy")["folder"] == str(run.folder.with_name("a-copy"))
    assert runs.find_run(folder, str(run.folder))["folder"] == str(run.folder)
    entry = {"run": run.info["id"], "stage": "pretrain", "checkpoint": "here", "sha256": "ab"}
    runs.write_json(other.folder / "run.json", {**other.info, "parent": entry})
    assert runs.lineage(folder, other.info["id"])[1]["folder"] == str(run.folder)


def test_runs_that_were_moved_are_found_again(folder, tmp_path):
    first, second = finished(folder, "pretrain"), finished(folder, "transfer")
    recorded = str(first.folder / "checkpoints" / "step-000004")
    entry = {"run": first.info["id"], "stage": "pretrain", "checkpoint": recorded, "sha256": "ab"}
    runs.write_json(second.folder / "run.json", {**second.info, "parent": entry})
    assert runs.found_again(recorded, folder) == recorded
    moved = tmp_path / "moved"
    Path(folder).rename(moved)
    there = moved / "pretrain" / first.info["id"] / "checkpoints" / "step-000004"
    assert runs.found_again(recorded, folder, str(moved)) == str(there)
    (there / "manifest.json").unlink()
    assert runs.found_again(recorded, folder, str(moved)) == recorded
    chain = runs.lineage(folder, str(moved / "transfer" / second.info["id"]))
    assert [info["status"] for info in chain] == ["completed", "completed"]

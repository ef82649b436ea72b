"""Jobs of a sweep on SLURM, with commands that do what its own do; tests/faults/test_slurm.py has the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from unit.studies import fake_slurm
from unit.studies.worker import COMMAND, Quiet, job, steps, sweep, until

from metalearn_cli.core.config import Slurm as Settings
from metalearn_cli.core.errors import Stopped, UserError
from metalearn_cli.records import runs
from metalearn_cli.studies import slurm as module
from metalearn_cli.studies import sweep as sweeping
from metalearn_cli.studies.slurm import Slurm, script
from metalearn_cli.studies.sweep import LostJobsError, at_once

PLAIN = Settings(None, None, None, None, None, None, lines=["export CUDA_VISIBLE_DEVICES=$$"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of all runs; SLURM's commands are in bin."""
    (tmp_path / "bin").mkdir()
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "LOOK", 0.1)
    monkeypatch.setattr(sweeping, "STAGGER", 0.0)
    (tmp_path / "steps.txt").touch()
    return tmp_path


def go(folder, jobs, watcher=None, settings=PLAIN, number=9):
    watched = sweep(folder, jobs, watcher)
    with watched.open():
        at_once(watched, Slurm(settings, number, COMMAND), fail_fast=False)
    return [outcome.status for outcome in watched.outcomes()]


def preempt(folder, number="1"):
    (folder / "bin" / "preempt").write_text(number)
    os.kill(int((folder / "bin" / f"{number}.job").read_text().split("|")[2]), signal.SIGTERM)


@pytest.mark.medium
def test_a_job_that_is_pre_empted_goes_on_and_a_failure_is_told(folder):
    class Preempting(Quiet):
        def look(self, running):
            if ("1", "2") in steps(folder) and not self.told.count("preempted"):
                preempt(folder)
                self.told.append("preempted")

    watcher = Preempting()
    jobs = [job(folder, "1", "15", "0.1"), job(folder, "2", "1", "0", "fail")]
    assert go(folder, jobs, watcher) == ["completed", "diverged"]
    assert "preempted" in watcher.told and Counter(told[0] for told in watcher.told if told[1:])["began"] == 2
    assert len(steps(folder)) == 16 and set(steps(folder).values()) == {1}
    assert len(runs.list_runs(str(folder))) == 2
    assert go(folder, jobs[:1]) == ["completed"]  # again, as it is done


@pytest.mark.slow
def test_jobs_in_the_queue_are_found_by_the_same_command(folder):
    words = [sys.executable, COMMAND[1], "slurm", str(folder), "1", "1", "60", "0.1"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until(lambda: ("0", "2") in steps(folder))
    first.kill()
    first.wait()
    watcher = Quiet()
    assert go(folder, [job(folder, "0", "60", "0.1")], watcher) == ["completed"]
    assert [told[0] for told in watcher.told] == ["found", "ended"]
    assert len(steps(folder)) == 60 and set(steps(folder).values()) == {1}


@pytest.mark.slow
def test_what_slurm_ends_is_submitted_again(folder):
    class Ending(Quiet):
        def look(self, running):
            if ("1", "2") in steps(folder) and not [told for told in self.told if told[0] == "over"]:
                os.kill(int((folder / "bin" / "1.job").read_text().split("|")[2]), signal.SIGTERM)  # its time is over
                self.told.append(("over", ""))

    watcher = Ending()
    assert go(folder, [job(folder, "1", "40", "0.1")], watcher) == ["completed"]
    assert ("note", "seed=1: SLURM ended it (failed); it is resumed") in watcher.told
    assert len(steps(folder)) == 40 and set(steps(folder).values()) == {1}


@pytest.mark.medium
def test_ctrl_c_lets_the_jobs_save(folder):
    class Interrupting(Quiet):
        def look(self, running):
            if ("1", "2") in steps(folder):
                os.kill(os.getpid(), signal.SIGINT)
                self.look = lambda running: None

    watched = sweep(folder, [job(folder, "1", "99", "0.1"), job(folder, "2", "9", "0.1")], Interrupting())
    with pytest.raises(Stopped, match="0 of 2 jobs are done; resume with: mlx -m again"), watched.open():
        at_once(watched, Slurm(PLAIN, 1, COMMAND), fail_fast=False)
    assert [outcome.status for outcome in watched.outcomes()] == ["interrupted", "not begun"]
    assert [info["status"] for info in runs.list_runs(str(folder))] == ["interrupted"]


@pytest.mark.medium
def test_without_slurm_or_its_queue(folder, monkeypatch):
    class Cutting(Quiet):
        def look(self, running):
            if ("1", "0") in steps(folder):
                (folder / "bin" / "down").touch()

    monkeypatch.setattr(module, "PATIENCE", 0.5)
    told = (
        r"squeue gives no answer \(slurm_load_jobs error: Unable to contact .*\); the jobs in the queue go on, and the"
    )
    with pytest.raises(LostJobsError, match=told):
        go(folder, [job(folder, "1", "15", "0.1")], Cutting())
    (folder / "bin" / "down").unlink()
    assert go(folder, [job(folder, "1", "15", "0.1")]) == ["completed"]
    refused = r"sbatch refuses a job: .*invalid partition specified: none; those that are in the queue go on"
    with pytest.raises(LostJobsError, match=refused):
        go(folder, [job(folder, "2", "1", "0")], settings=replace(PLAIN, partition="none"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="sbatch and squeue and scancel cannot be found: sweep=slurm runs where"):
        Slurm(PLAIN, 1, COMMAND)


def test_the_script(tmp_path):
    own = job(tmp_path / "5 %", "ab", "a b")
    settings = Settings("gpu", "me", "4:00:00", 2, 8, "16G", ["#SBATCH --constraint=a100", "module load cuda"])
    lines = script(own, "s1", settings, ("mlx",)).splitlines()
    assert lines[0] == "#!/bin/bash"
    folder = f"{tmp_path}/5 %/sweeps/jobs/ab"
    for option in ("partition", "account", "time", "cpus-per-task", "mem"):
        assert any(line.startswith(f'#SBATCH --{option}="') for line in lines)
    assert (
        '#SBATCH --gres="gpu:2"' in lines and '#SBATCH --open-mode="append"' in lines and "#SBATCH --requeue" in lines
    )
    assert f'#SBATCH --output="{folder.replace("%", "%%")}/log"' in lines and '#SBATCH --signal="B:TERM@120"' in lines
    first = next(number for number, line in enumerate(lines) if number and not line.startswith("#SBATCH"))
    assert lines[first:] == [
        "module load cuda",
        "export MLX_SWEEP_ID=s1",
        "export MLX_JOB_ID=ab",
        'export OMP_NUM_THREADS="${SLURM_CPUS_ON_NODE:-1}"',
        f"exec mlx run '{tmp_path}/5 %' ab 'a b' > '{folder}/output.json'",
    ]
    bare = script(own, "s1", replace(PLAIN, lines=[]), ("mlx",))
    assert "gres" not in bare and "partition" not in bare and "None" not in bare

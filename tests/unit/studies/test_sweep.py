"""The scheduler of a sweep, with jobs that need no torch; tests/faults/test_sweeps.py has a real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from unit.studies.worker import COMMAND, Quiet, job, slots, steps, sweep, until

from metalearn_cli.core.errors import InUseError, Stopped
from metalearn_cli.records import runs, sweeps
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies import processes
from metalearn_cli.studies import sweep as module
from metalearn_cli.studies.processes import Processes
from metalearn_cli.studies.sweep import at_once, in_turn


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "STAGGER", 0.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "steps.txt").touch()
    return tmp_path


def go(folder, jobs, number=2, fail_fast=False, watcher=None):
    """Run a sweep; return the status of each job."""
    watched = sweep(folder, jobs, watcher)
    with watched.open():
        at_once(watched, Processes(slots(number), COMMAND), fail_fast)
    return [outcome.status for outcome in watched.outcomes()]


@pytest.mark.medium
def test_a_failure_is_told_and_the_rest_finish(folder):
    jobs = [job(folder, "1", "1", "0"), job(folder, "2", "1", "0", "fail"), job(folder, "3", "1", "0")]
    assert go(folder, jobs) == ["completed", "diverged", "completed"]
    record = json.loads((folder / "sweeps" / "s1" / "results.json").read_text())
    assert [(j["status"], j["error"], j["code"]) for j in record["jobs"]][1] == ("diverged", "it diverged", 3)
    (row,) = record["table"]
    assert (row["seeds"], row["value"], row["over"]) == (["1", "3"], pytest.approx(0.02), "seeds")
    lines = (folder / "sweeps" / "s1" / "results.csv").read_text().splitlines()
    assert lines[0] == "seed,status,metric,value,interval,seconds,run,folder,error"
    assert lines[2].startswith("2,diverged,,,,,,") and lines[2].endswith(",it diverged")
    # again, with one more point: what is done is skipped, what failed is tried again
    watcher = Quiet()
    assert go(folder, [*jobs, job(folder, "4", "1", "0")], watcher=watcher) == [
        "completed", "diverged", "completed", "completed",
    ]  # fmt: skip
    assert sorted(told[1] for told in watcher.told if told[0] == "began") == ["2", "4"]
    assert set(steps(folder).values()) == {1}


@pytest.mark.medium
def test_fail_fast_stops_the_others(folder):
    jobs = [job(folder, "1", "1", "0.2", "fail"), job(folder, "2", "99", "0.1"), job(folder, "3", "1", "0")]
    assert go(folder, jobs, fail_fast=True) == ["diverged", "interrupted", "not begun"]
    assert {outcome.code for outcome in sweeps.read(str(folder), "s1")} == {3}


@pytest.mark.medium
def test_each_job_sees_only_its_own_gpu(folder):
    jobs = [job(folder, str(n), "1", "0.1") for n in range(6)]
    assert go(folder, jobs, number=4) == ["completed"] * 6  # a job whose GPU another one has ends with an error
    seen = {line.split()[2] for line in (folder / "steps.txt").read_text().splitlines()}
    assert seen == {"0", "1", "2", "3"}


@pytest.mark.medium
def test_a_signal_stops_the_jobs_and_the_command_goes_on(folder):
    jobs = [job(folder, str(n), "12", "0.05") for n in range(3)]

    class Interrupting(Quiet):
        def look(self, running):
            if len(running) == 2 and len(steps(folder)) > 3:
                os.kill(os.getpid(), signal.SIGINT)
                self.look = lambda running: None

    watched = sweep(folder, jobs, Interrupting())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="interrupted; 0 of 3 jobs are done; resume with: mlx -m again"), watched.open():
        at_once(watched, Processes(slots(2), COMMAND), fail_fast=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert [(o.status, o.code) for o in watched.outcomes()] == [
        ("interrupted", 130), ("interrupted", 130), ("not begun", 130),
    ]  # fmt: skip
    assert Counter(info["status"] for info in runs.list_runs(str(folder))) == {"interrupted": 2}
    assert go(folder, jobs) == ["completed"] * 3
    assert len(runs.list_runs(str(folder))) == 3
    assert len(steps(folder)) == 36 and set(steps(folder).values()) == {1}


def test_a_second_signal_kills_the_jobs_and_says_how_to_go_on(folder):
    class Interrupting(Quiet):
        def look(self, running):
            if len(running) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    watched = sweep(folder, [job(folder, str(n), "99", "0.1") for n in range(3)], Interrupting())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Stopped, match="0 of 3 jobs are done; resume with: mlx -m again"), watched.open():
            at_once(watched, Processes(slots(2), COMMAND), fail_fast=False)
    finally:
        signal.signal(signal.SIGINT, before)
    killed = ("interrupted", "killed by the second signal", 130)
    assert [(o.status, o.error, o.code) for o in watched.outcomes()] == [killed, killed, ("not begun", "", 130)]


def test_a_pruned_job_is_done(folder):
    jobs = [job(folder, str(n)) for n in range(3)]
    watched = sweep(folder, jobs)
    with watched.open():
        watched.record(jobs[0], Outcome(jobs[0].settings, "pruned"))
        watched.record(jobs[1], Outcome(jobs[1].settings, "diverged", code=3))
    assert "1 of 3 jobs are done" in str(watched.stopped(signal.SIGINT))


@pytest.mark.parametrize("alive", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["killed", "alive"])
def test_a_signal_reaches_jobs_of_a_killed_scheduler_but_not_those_of_another(folder, alive):
    words = [sys.executable, COMMAND[1], "sweep", str(folder), "2", "2", "12", "0.1"]
    owner = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    until(lambda: len({name for name, _ in steps(folder)}) == 2)
    if not alive:
        owner.kill()
        owner.wait()

    class Interrupting(Quiet):
        def look(self, running):
            if len(running) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                self.look = lambda running: None

    watched = sweep(
        folder, [job(folder, str(n), "12", "0.1") for n in range(3)], Interrupting(), name="s2" if alive else "s1"
    )
    with pytest.raises(Stopped, match="stopped by SIGTERM"), watched.open():
        at_once(watched, Processes(slots(2), COMMAND), fail_fast=False)
    assert [o.status for o in watched.outcomes()] == [*(["in use"] if alive else ["interrupted"]) * 2, "not begun"]
    if alive:
        assert owner.wait(timeout=60) == 0
    statuses = Counter(info["status"] for info in runs.list_runs(str(folder)))
    assert statuses == {"completed" if alive else "interrupted": 2}


@pytest.mark.medium
def test_a_killed_job_is_resumed_but_not_for_ever(folder):
    class Killing(Quiet):
        times = 1

        def look(self, running):
            held = [info for info in runs.list_runs(str(folder)) if info["status"] == "running" and steps(folder)]
            if held and self.times:
                self.times -= 1
                os.kill(processes._owner(running[0])["pid"], signal.SIGKILL)

    watcher = Killing()
    assert go(folder, [job(folder, "1", "6", "0.1")], watcher=watcher) == ["completed"]
    assert ("note", "seed=1: killed by SIGKILL; it is resumed") in watcher.told
    assert len(steps(folder)) == 6 and set(steps(folder).values()) == {1}
    dying = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    watched = sweep(folder, [job(folder, "2", "1", "0")])
    with watched.open():
        at_once(watched, Processes(slots(1), dying), fail_fast=False)
    (outcome,) = watched.outcomes()
    assert outcome.status == "killed"
    assert outcome.error == "killed by SIGKILL, 3 times; if memory is short, type fewer sweep.slots"


def test_a_job_that_says_nothing_has_crashed(folder):
    watched = sweep(folder, [job(folder, "1", "1", "0")])
    with watched.open():
        at_once(watched, Processes(slots(1), (sys.executable, "-c", "raise SystemExit(7)")), fail_fast=False)
    assert watched.outcomes()[0].error == f"exit code 7; see {folder}/sweeps/jobs/1/log"


def test_two_schedulers_on_one_sweep(folder):
    jobs = [job(folder, "1", "1", "0")]
    with sweep(folder, jobs).open(), pytest.raises(InUseError, match=rf"another .* sweep=s1 --runs-dir {folder}$"):
        with sweep(folder, jobs).open():
            pass
    assert not (folder / "sweeps").exists()  # nothing was begun


@pytest.mark.slow
def test_twelve_jobs_survive_killed_schedulers_killed_jobs_and_a_ctrl_c(folder):
    words = [sys.executable, COMMAND[1], "sweep", str(folder), "12", "2", "4", "0.05"]

    def begun():
        with (folder / "out").open("w") as out:
            return subprocess.Popen(words, stdout=out, cwd=folder)

    def kill_a_job():
        alive = [info for info in runs.list_runs(str(folder)) if info["status"] == "running"]
        lock = json.loads((folder / "sweeps" / "jobs" / alive[0]["job"] / "lock").read_text())
        os.kill(lock["pid"], signal.SIGKILL)

    def running():
        return any(info["status"] == "running" for info in runs.list_runs(str(folder)))

    for wanted in (3, 10):  # steps after which the scheduler is killed, and with it nothing else
        scheduler = begun()
        until(lambda wanted=wanted: len(steps(folder)) >= wanted and running())
        scheduler.kill()
        scheduler.wait()
    done = len(steps(folder))
    until(lambda: len(steps(folder)) > done)  # its jobs go on
    scheduler = begun()
    for wanted in (18, 25):
        until(lambda wanted=wanted: len(steps(folder)) >= wanted and running())
        kill_a_job()
    until(lambda: len(steps(folder)) >= 32)
    scheduler.send_signal(signal.SIGINT)
    assert scheduler.wait(timeout=60) == 130
    assert "resume with: mlx -m again" in (folder / "out").read_text()
    assert not running()
    assert begun().wait(timeout=60) == 0
    assert len(steps(folder)) == 12 * 4 and set(steps(folder).values()) == {1}  # nothing is done twice
    assert Counter(info["job"] for info in runs.list_runs(str(folder))) == {str(n): 1 for n in range(12)}
    assert [o.run["metric"]["value"] for o in sweeps.read(str(folder), "s1")] == [n / 100 for n in range(12)]


def test_jobs_in_this_process_wait_for_one_that_outlived_its_scheduler(folder):
    ran = []
    owner = subprocess.Popen(
        [sys.executable, COMMAND[1], "sweep", str(folder), "1", "1", "6", "0.1"], stdout=subprocess.DEVNULL
    )
    until(lambda: len(steps(folder)) > 1)
    owner.kill()
    owner.wait()

    def attempt(own):
        ran.append(own.id)
        return Outcome(own.settings, "crashed", "oh", 1)

    watched = sweep(folder, [job(folder, "0", "6", "0.1"), job(folder, "1"), job(folder, "2")], name="s2")
    with watched.open():
        in_turn(watched, attempt, fail_fast=True)
    assert ran == ["1"]
    assert [outcome.status for outcome in watched.outcomes()] == ["completed", "crashed", "not begun"]

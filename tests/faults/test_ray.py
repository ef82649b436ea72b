"""A sweep on a cluster of Ray, which it starts on this machine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults.test_sweeps import WORDS, begin, by_job, listed, table, until

from metalearn_cli.records import runs

JOBS = [*WORDS[:-3], "steps=200", "every.save=50", "seed=1,2", "optimizer.lr=0.01,0.003"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    whole, folder = tmp_path / "whole", tmp_path / "on ray"
    whole.mkdir()
    folder.mkdir()
    assert begin(whole, usual=JOBS).wait(timeout=300) == 0

    def training() -> bool:
        return any(info.get("step", 0) >= 50 for info in listed(folder, "running"))

    scheduler = begin(folder, "sweep=ray", usual=JOBS)
    until(training)
    scheduler.kill()  # and with it the cluster
    scheduler.wait()
    until(lambda: not listed(folder, "running"))
    assert listed(folder, "died")  # Ray kills the jobs with it: they go on from their last checkpoint
    scheduler = begin(folder, "sweep=ray", usual=JOBS)
    until(training)
    scheduler.send_signal(signal.SIGINT)
    assert scheduler.wait(timeout=120) == 130
    assert not listed(folder, "running")
    assert begin(folder, "sweep=ray", usual=JOBS).wait(timeout=300) == 0
    assert by_job(folder) == by_job(whole) and len(runs.list_runs(str(folder / "runs"))) == 4
    assert table(folder) == table(whole)

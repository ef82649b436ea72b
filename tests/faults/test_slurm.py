"""A sweep on SLURM itself, on one node: `make test-slurm`. It needs Debian's packages, which it does not install."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.slurm import Missing, one_node
from faults.test_sweeps import WORDS, begin, by_job, listed, table, until

from metalearn_cli.records import runs

JOBS = [*WORDS[:-3], "steps=400", "every.save=50", "seed=1,2", "optimizer.lr=0.01,0.003"]
ASKED = ["sweep=slurm", "sweep.partition=low", "sweep.cpus=1", "sweep.mem=400"]


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have SLURM's commands on PATH; return their folder."""
    try:
        with one_node(tmp_path_factory.mktemp("slurm")) as commands:
            monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
            yield commands
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.slurm
def test_a_sweep_whose_jobs_are_pre_empted_and_whose_scheduler_is_killed(slurm: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "on slurm"
    whole.mkdir()
    folder.mkdir()
    assert begin(whole, usual=JOBS).wait(timeout=300) == 0

    def training() -> list[str]:
        return [info["id"] for info in listed(folder, "running") if info.get("step", 0) >= 50]

    scheduler = begin(folder, *ASKED, usual=JOBS)
    until(lambda: len(training()) == 2)  # there are two cores
    subprocess.run(
        [slurm / "sbatch", "--partition=high", "--ntasks=2", "--mem=100", "--wrap=sleep 3"], check=True, cwd=folder
    )
    until(lambda: len(listed(folder, "interrupted")) == 2)
    until(lambda: len(training()) == 2)
    scheduler.kill()
    scheduler.wait()
    assert begin(folder, *ASKED, usual=JOBS).wait(timeout=300) == 0
    assert "runs already; waiting for it" in (folder / "out").read_text()
    assert (folder / "out").read_text().count("begins on SLURM") == 4  # nothing is submitted twice
    assert by_job(folder) == by_job(whole) and len(runs.list_runs(str(folder / "runs"))) == 4
    assert table(folder) == table(whole)
    logs = "".join(path.read_text() for path in folder.glob("runs/sweeps/jobs/*/log"))
    assert logs.count("DUE TO PREEMPTION") == 2 and logs.count("stopped by SIGTERM; resume with") == 2

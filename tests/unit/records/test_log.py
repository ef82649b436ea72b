"""What a run's own log holds."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from metalearn_cli.core.errors import Stopped, UserError
from metalearn_cli.records import runs
from metalearn_cli.records.log import Logged, logging_runs, working_on


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create(str(tmp_path / "runs"), "meta-train", {})


def text(run: runs.Run) -> str:
    return (run.folder / "mlx.log").read_text()


def test_everything_the_user_is_told_is_logged(run, said):
    result = {"name": "val/accuracy", "value": 0.5, "interval": None, "step": 2}
    with logging_runs(), working_on(run):
        told = Logged(said)
        told.start("meta-train", "runs/x", 2, 4)
        told.note("loaded 12/12 tensors 100 %")
        told.metrics(3, {"train/loss": 0.5})
        told.advance(3)
        told.finish({"stage": "meta-train", "status": "completed", "seconds": 2.0, "metric": result})
    lines = text(run).splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == [
        "meta-train in runs/x, from step 2 to 4",
        "loaded 12/12 tensors 100 %",
        'result: {"name": "val/accuracy", "value": 0.5, "interval": null, "step": 2}',
        "meta-train completed after 2.0 s",
    ]
    assert (said.started, said.steps, len(said.measured)) == ([("meta-train", 2, 4)], [3], 1)
    assert (said.notes, len(said.finished)) == (["loaded 12/12 tensors 100 %"], 1)


def test_episodes_are_no_steps(run, said):
    with logging_runs(), working_on(run):
        Logged(said).start("evaluate", "runs/x", 0, 40)
    assert text(run).endswith("evaluate in runs/x, 40 episodes to score, those of all normalisations together\n")


def test_warnings_of_libraries_are_logged_in_one_line(run):
    with warnings.catch_warnings(), logging_runs():
        warnings.simplefilter("always")
        warnings.warn("before\nthe run began", UserWarning, stacklevel=1)
        with working_on(run):
            logging.getLogger("some.library").warning("beware of %s", "this")
            logging.getLogger("some.library").info("chatter")
    before, during = text(run).splitlines()
    assert f" WARNING before the run began (UserWarning, {__file__} line " in before
    assert during.endswith(" WARNING beware of this")


def test_each_run_has_what_happened_while_it_was_worked_on(tmp_path):
    chain, stage = (runs.create(str(tmp_path), name, {}) for name in ("run", "pretrain"))
    log = logging.getLogger("metalearn_cli")
    with logging_runs(), working_on(chain):
        log.info("one")
        with working_on(stage):
            log.info("two")
        log.info("three")
    assert [line.split()[-1] for line in text(chain).splitlines()] == ["one", "two", "three"]
    assert [line.split()[-1] for line in text(stage).splitlines()] == ["two"]


@pytest.mark.parametrize(
    ("error", "status", "traceback"),
    [(ZeroDivisionError("oh"), "failed", 1), (UserError("no"), "failed", 0), (Stopped(15), "interrupted", 0)],
)
def test_what_ended_a_run_is_logged_once(tmp_path, error, status, traceback):
    chain, stage = (runs.create(str(tmp_path), name, {}) for name in ("run", "pretrain"))
    with pytest.raises(type(error)), logging_runs(), working_on(chain), working_on(stage):
        raise error
    assert error.mlx_log == stage.folder / "mlx.log"
    for run in (chain, stage):
        assert run.info["status"] == status
        assert text(run).count(f" ERROR {status}: {error}") == 1
        assert text(run).count("Traceback") == traceback
        runs.reopen(run.folder).close()  # it is unlocked


def test_nothing_is_left_behind():
    root, own = logging.getLogger(), logging.getLogger("metalearn_cli")
    before = root.handlers[:], own.level, warnings.showwarning
    with logging_runs():
        pass
    assert (root.handlers, own.level, warnings.showwarning) == before

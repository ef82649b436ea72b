"""A search with jobs that need no torch, by Optuna itself; tests/faults/test_sweeps.py has a real one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import pytest
from unit.studies.worker import COMMAND, METRIC, Quiet, search, slots, steps, sweep

from metalearn_cli.cli import study_views
from metalearn_cli.core.errors import ConfigError, UserError
from metalearn_cli.records import runs, sweeps
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies import search as searches
from metalearn_cli.studies import sweep as module
from metalearn_cli.studies.processes import Processes
from metalearn_cli.studies.search import Names, Numbers
from metalearn_cli.studies.sweep import at_once

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "STAGGER", 0.0)
    monkeypatch.setattr(searches, "LOOK", 0.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "steps.txt").touch()
    return tmp_path


def go(folder, trials, *words, number=1, watcher=None, **settings):
    """Run a search; return its outcomes."""
    watched = sweep(folder, search(folder, trials, *words, **settings), watcher)
    with watched.open():
        at_once(watched, Processes(slots(number), COMMAND), fail_fast=False)
    return watched.outcomes()


def points(outcomes):
    return [(outcome.settings["x"], outcome.status) for outcome in outcomes]


def drawn(trials):
    """Return the next job of a search, with a result that it gives at once."""
    job = trials.more()
    trials.ended(job, Outcome(job.settings, run={"metric": {**METRIC, "value": int(job.settings["x"]) / 100}}))
    return job


def study(folder):
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/sweeps/s1/journal.log")
    return optuna.load_study(study_name="s1", storage=optuna.storages.JournalStorage(backend))


@pytest.mark.medium
def test_more_trials_go_on_where_the_search_ended(folder):
    first = points(go(folder, 3, "1", "0"))
    watcher = Quiet()
    longer = points(go(folder, 7, "1", "0", watcher=watcher))
    assert longer[:3] == first and len(longer) == 7
    assert len([told for told in watcher.told if told[0] == "began"]) == 4
    diverged = [x for x, status in longer if status == "diverged"]
    assert diverged == [x for x, _ in longer if int(x) % 4 == 0] != []
    states = Counter(trial.state.name for trial in study(folder).trials)
    assert states == {"COMPLETE": 7 - len(diverged), "FAIL": len(diverged)}
    table = json.loads((folder / "sweeps" / "s1" / "results.json").read_text())["table"]
    values = [row["value"] for row in table]
    assert values == sorted(values, reverse=True) and values[0] == study(folder).best_value


@pytest.mark.slow
def test_ten_trials_of_a_search_that_is_killed_twice(folder):
    words = [sys.executable, COMMAND[1], "search", str(folder), "10", "2", "4", "0.05"]
    for wanted in (5, 18):
        scheduler = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while len(steps(folder)) < wanted:
            assert time.monotonic() < end
            time.sleep(0.02)
        scheduler.kill()
        scheduler.wait()
    outcomes = go(folder, 10, "4", "0.05", number=2)
    assert len(outcomes) == len(study(folder).trials) == 10
    assert len(steps(folder)) == 40 and set(steps(folder).values()) == {1}  # nothing is done twice
    assert Counter(info["job"] for info in runs.list_runs(str(folder))) == {x: 1 for x, _ in points(outcomes)}
    assert not [trial for trial in study(folder).trials if not trial.state.is_finished()]


@pytest.mark.slow
def test_trials_that_fall_behind_end_early_and_for_good(folder):
    """The best of five gets a result at each step; whatever is below half of them is stopped."""
    odd = {"x": Numbers(1, 99, 2)}  # of these none fails
    outcomes = go(folder, 9, "4", "0.3", number=3, pruner="median", space=odd)
    pruned = [outcome for outcome in outcomes if outcome.status == "pruned"]
    assert pruned and all(
        outcome.code == 0 and "of 4, where its val/accuracy was " in outcome.error for outcome in pruned
    )
    best = max(int(outcome.settings["x"]) for outcome in outcomes if outcome.run)
    assert all(int(outcome.settings["x"]) < best for outcome in pruned)
    watcher = Quiet()
    assert points(go(folder, 9, "4", "0.3", pruner="median", space=odd, watcher=watcher)) == points(outcomes)
    assert not [told for told in watcher.told if told[0] == "began"]
    assert [outcome.status for outcome in sweeps.read(str(folder), "s1")] == [outcome.status for outcome in outcomes]


def test_the_draws_do_not_depend_on_when_it_was_interrupted(folder):
    def draws(name, *parts):
        (folder / name).mkdir()
        found = []
        for part in parts:
            trials = search(folder, 99, space={"x": Numbers(0, 10**6)})
            trials.begin(folder / name)
            found += [drawn(trials).id for _ in range(part)]
        return found

    whole = draws("whole", 16)
    assert draws("parts", 5, 1, 10) == whole and len({*whole}) == 16


def test_a_trial_that_was_not_ended_is_the_first_of_the_next_command(folder):
    trials = search(folder, 5)
    assert trials.begin(folder) == []
    job = trials.more()
    for status in ("crashed", "failed"):  # both may be repaired, as a full disk
        trials.ended(job, Outcome(job.settings, status, "oh", 1))
        trials = search(folder, 5)
        assert trials.begin(folder) == [(job, None)]
    trials = search(folder, 5)
    trials.begin(folder)
    trials.ended(job, Outcome(job.settings, "diverged", "no", 3, "f"))
    (found,) = search(folder, 5).begin(folder)
    assert found == (job, Outcome(job.settings, "diverged", "no", 3, "f"))


def test_a_point_is_not_computed_twice(folder):
    trials = search(folder, 12, space={"x": Names(("1", "2"))})
    trials.begin(folder)
    first, second = drawn(trials), drawn(trials)
    assert {first.id, second.id} == {"1", "2"} and trials.number > 2
    assert trials.more() is None
    assert (trials.number, trials.repeated) == (2, 10)
    again = search(folder, 12, space={"x": Names(("1", "2"))})
    assert [job.id for job, _ in again.begin(folder)] == [first.id, second.id]
    assert again.more() is None
    fewer = search(folder, 1, space={"x": Names(("1", "2"))})
    fewer.begin(folder)
    assert fewer.number == 2 and fewer.more() is None


@pytest.mark.medium
def test_an_objective_that_is_not_measured(folder):
    with pytest.raises(ConfigError, match=r"val/mse is not measured by these jobs, but val/accuracy and val/loss"):
        go(folder, 9, "40", "0.1", objective="val/mse", number=2)
    assert Counter(info["status"] for info in runs.list_runs(str(folder)))["completed"] == 0
    trials = search(folder, 9, objective="val/mse")
    trials.begin(folder / "sweeps" / "s1")
    job = trials.more()  # one that ends before anybody looks at it
    outcome = trials.ended(job, Outcome(job.settings, run={"metric": {**METRIC, "value": 0.5}}))
    assert (outcome.status, outcome.run) == ("refused", None) and "not measured by these jobs" in outcome.error


def test_several_objectives(folder, capsys):
    names = ["val/accuracy", "val/loss"]
    trials = search(folder, 9, objective=names)
    trials.begin(folder)
    found = []
    for number, (accuracy, loss) in enumerate([(0.5, 3.0), (0.6, 2.0), (0.6, 1.0), (0.4, 0.5), (0.3, 0.6)]):
        job = trials.more()
        own = folder / str(number)
        own.mkdir()
        lines = [{"step": 2, "val/accuracy": accuracy, "val/loss": loss}, {"step": 3, "val/loss": 9.0}]
        (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = {"id": str(number), "metric": {**METRIC, "value": accuracy, "step": 2}}
        found.append(trials.ended(job, Outcome(job.settings, folder=str(own), run=run)))
    assert [score["value"] for score in found[2].run["scores"]] == [0.6, 1.0]
    rows = sweeps.table(found)
    assert [row["runs"][0] for row in rows] == ["2", "3", "1", "0", "4"]  # first those that none is superior to
    assert [row["best"] for row in rows] == [True, True, False, False, False]
    study_views.sweep("s1", folder, found)
    assert "No other point is superior in all objectives to the first 2.\n" in capsys.readouterr().out
    best = {
        trial.values[0]
        for trial in optuna.load_study(
            study_name=folder.name,
            storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{folder}/journal.log")),
        ).best_trials
    }
    assert best == {0.6, 0.4}


def test_a_journal_that_was_cut_off(folder):
    trials = search(folder, 9)
    trials.begin(folder)
    ids = [drawn(trials).id for _ in range(3)]
    journal = folder / searches.JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[-20:-1])
    trials = search(folder, 9)
    assert [job.id for job, _ in trials.begin(folder)] == ids
    fourth = drawn(trials).id
    assert len(search(folder, 9).begin(folder)) == 4
    lines = journal.read_bytes().splitlines(keepends=True)
    created = max(n for n, line in enumerate(lines) if b"datetime_start" in line)
    journal.write_bytes(b"".join(lines[: created + 1]))  # a trial without its point
    trials = search(folder, 4)
    assert [job.id for job, _ in trials.begin(folder)] == ids
    assert drawn(trials).id == fourth and trials.more() is None
    for line in (b"{}", b"[1, 2]", b"null", b'{"op_code":0,"study_name":[],"directions":3}'):
        journal.write_bytes(line + b"\n" + whole)
        with pytest.raises(UserError, match=r"journal.log is damaged \(.*\); without it the search begins again"):
            search(folder, 9).begin(folder)


def test_a_search_that_cannot_begin_leaves_what_is_there(folder):
    def no_checkpoint():
        raise UserError("no completed run")

    trials = search(folder, 2)
    trials._pin = no_checkpoint
    with pytest.raises(UserError, match="no completed run"), sweep(folder, trials).open():
        pass
    assert not (folder / "sweeps").exists()
    journal = folder / "sweeps" / "s1" / searches.JOURNAL
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n{}\n")
    with pytest.raises(UserError, match="is damaged"), sweep(folder, search(folder, 2)).open():
        pass
    assert journal.is_file()


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_results_of_a_job_that_runs(folder, pruner):
    trials = search(folder, 9, pruner=pruner, space={"x": Numbers(1, 10**6)})
    trials.begin(folder)
    for _ in range(6):
        drawn(trials)
    job = trials.more()
    run = runs.create(str(folder), "meta-train", {}, job=job.id, steps=4)
    lines = [{"step": 0, "val/accuracy": -9.0}, {"step": 1, "train/loss": 1.0}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert trials.hopeless([job]) == []
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "val/accuracy": -9.0}) + "\n")
    assert trials.hopeless([job]) == []  # it is at its end
    stored = optuna.load_study(
        study_name=folder.name,
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{folder}/journal.log")),
    )
    assert stored.trials[6].intermediate_values == {4: -9.0}
    run.close()


@pytest.mark.parametrize(("name", "told"), [("val/accuracy", "35.5 %"), ("val/loss", "0.3553")])
def test_how_far_a_job_came_that_falls_behind(folder, monkeypatch, name, told):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    trials = search(folder, 9, objective=name)
    trials.begin(folder)
    job = trials.more()
    run = runs.create(str(folder), "meta-train", {}, job=job.id, steps=4)
    (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 2, name: 0.35533}) + "\n")
    assert trials.hopeless([job]) == [(job, f"at step 2 of 4, where its {name} was {told}")]
    run.close()


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"sweep=optuna needs Optuna; type: pip install 'metalearn-cli\[optuna\]'"):
        searches.needs_optuna()

"""`mlx -m`: its settings, what makes two jobs the same, and jobs in processes of their own."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import shutil
import sys
import weakref
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.cli import sweeping, telling
from metalearn_cli.core.errors import UserError
from metalearn_cli.engine.runtime import release
from metalearn_cli.records import runs, sweeps
from metalearn_cli.stages.session import Session
from metalearn_cli.studies import sweep as studies

SMALL = ("data=gaussian", "backbone=mlp", "way=2", "query=3", "runtime=cpu", "val_episodes=2", "steps=2")


@pytest.fixture
def identified(monkeypatch):
    """Return a function from the words of a command to the ids of its jobs, which are not run."""

    def in_turn(sweep, attempt, fail_fast):
        found.append([job.id for job in sweep.jobs])

    found: list[list[str]] = []
    monkeypatch.setattr(studies, "in_turn", in_turn)
    monkeypatch.setattr(studies, "at_once", lambda sweep, slots, *rest: in_turn(sweep, *rest))

    def ids(stage, *words):
        sweeping.run(stage, words, "")
        return found.pop()

    return ids


def test_a_job_is_what_it_computes(identified, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    both = identified("meta-train", "seed=1,2", "way=3")
    assert len({*both}) == 2
    # order, defaults, places and how it is computed do not matter
    assert identified("meta-train", "way=3", "algorithm=protonet", "seed=2,1") == both[::-1]
    assert (
        identified(
            "meta-train", "way=3", "seed=1,2", "runtime.threads=1", "runs_dir=other", "tracker=[]", "sweep.slots=2"
        )
        == both
    )
    assert identified("meta-train", "way=3", "seed=1,2,1") == both  # the same job once
    assert both[0] in identified("meta-train", "way=3", "seed=0,1,2")
    assert not {*both} & {*identified("meta-train", "way=4", "seed=1,2")}
    assert not {*both} & {*identified("pretrain", "way=3", "seed=1,2")}
    # what the sweep itself varies does
    precise = identified("meta-train", "way=3", "seed=1", "runtime.precision=32-true,64-true")
    assert len({*precise}) == 2
    assert len({*identified("meta-train", "way=3", "seed=1", "runs_dir=a,b")}) == 2


def test_chains_wait_for_the_stages_that_they_share(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words: list[tuple[str, ...]] = []
    monkeypatch.setattr(studies, "at_once", lambda sweep, *rest: words.extend(job.words for job in sweep.jobs))
    sweeping.run("run", ["algorithm=maml,protonet", "sweep.slots=2"], "")
    sweeping.run("run", ["algorithm=maml,protonet", "sweep.slots=2", "wait=5"], "")
    week = f"++wait={sweeping.WEEK}"
    assert [own[2:] for own in words] == [(week, "--json")] * 2 + [("++wait=5", "--json")] * 2


def test_other_files_make_another_job(identified, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ("data=table", "data.root=plants.csv", "data.column.label=kind")
    Path("plants.csv").write_text("a,kind\n1,x\n")
    first = identified("meta-train", *words)
    assert identified("meta-train", *words) == first
    os.utime("plants.csv", ns=(1, 1))
    assert identified("meta-train", *words) != first


def test_jobs_start_from_what_latest_meant_at_first(mlx, stage, monkeypatch):
    def finished(sweep=None):
        run = runs.create("runs", "pretrain", {}, **({"sweep": sweep} if sweep else {}))
        folder = run.folder / "checkpoints" / "step-000001"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"stage": "pretrain", "run": run.info["id"]}))
        run.update(status="completed", best="step-000001", finished_at=runs.now())
        run.close()
        return str(folder)

    quick = stages.run

    def run(name, config, reporter, **facts):
        finished()  # somebody else's
        return quick(name, config, reporter, **facts)

    monkeypatch.setattr(stages, "run", run)
    before = finished()
    assert mlx("-m", "transfer", "seed=1,2", "init_from=latest:pretrain").code == 0
    assert [config.init_from for _, config in stage] == [before] * 2
    shutil.rmtree("runs")
    answer = mlx("-m", "transfer", "seed=1,2", "init_from=latest:pretrain")
    assert answer.code == 2 and answer.err.count("no completed run of pretrain") == 1  # before the first job
    assert "MLX_SWEEP_ID" not in os.environ


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("meta-train", "sweep.slots=2"), "sweep.slots=2  is for a sweep, which -m runs   (from the command line)"),
        (("validate", "meta-train", "sweep=local"), "is for a sweep, which -m runs"),
        (("-m", "meta-train", "sweep.slots=0", "wayy=1,2"), "sweep.slots  must be auto or a whole number >= 1, got 0"),
        (("-m", "meta-train", "sweep.slots=0", "wayy=1,2"), "no such setting"),
        (("-m", "meta-train", "sweep.slot=2"), "did you mean: sweep.slots=2"),
        (("-m", "meta-train", "sweep.slots=1,2"), "is for the whole sweep: it has one value, got 1,2"),
        (("-m", "meta-train", "sweep=lokal"), "there is no sweep 'lokal'; there are local"),
        (("-m", "meta-train", "seed=1,2", "sweep.slots=9999"), "9999 jobs at once need"),
        (("-m", "meta-train", "seed=1,2", "no.such.key=1,2"), "no such setting"),
    ],
)
def test_refused_before_the_first_job(mlx, stage, tmp_path, words, told):
    answer = mlx(*words)
    assert answer.code == 2 and told in answer.err
    assert not stage and not list(tmp_path.iterdir())


def test_a_sweep_as_a_file(mlx, stage):
    Path("own/sweep").mkdir(parents=True)
    params = "params:\n  seed: 1,2\n  algorithm: maml,protonet\n  shot: 5\n"
    Path("own/sweep/mine.yaml").write_text(f"# Two learners\ndefaults: [local]\nfail_fast: true\n{params}")
    answer = mlx("-cd", "own", "-m", "meta-train", "sweep=mine", "seed=7")
    assert answer.code == 0, answer.err
    made = [(config.seed, config.shot, config.algorithm["_target_"].rpartition(".")[2]) for _, config in stage]
    assert made == [(7, 5, "Maml"), (7, 5, "ProtoNet")]  # what is typed replaces it
    assert "mine" in mlx("ls", "-cd", "own", "sweep").out
    assert "sweep.fail_fast: true" in mlx("ls", "-cd", "own", "sweep", "mine").out


def test_a_copy_of_the_shipped_sweep(mlx):
    copied = json.loads(mlx("cp", "sweep/local", "own/mine.yaml", "--json").out)
    assert copied["command"] == "mlx -m run --config-dir own sweep=mine"
    slots = json.loads(Path(copied["schema"]).read_text())["properties"]["slots"]
    assert {"type": "integer", "minimum": 1} in slots["anyOf"] and "jobs at once" in slots["description"]


def test_fail_fast(mlx, stage, monkeypatch):
    def run(name, config, reporter, **facts):
        stage.append((name, config))
        raise UserError("no")

    monkeypatch.setattr(stages, "run", run)
    answer = mlx("-m", "meta-train", "seed=1,2,3", "sweep.fail_fast=true", "--json")
    assert answer.code == 2 and len(stage) == 1
    assert [job["status"] for job in json.loads(answer.out)["runs"]] == ["refused", "not begun", "not begun"]


def test_jobs_in_this_process_know_nothing_of_each_other(mlx, monkeypatch):
    """A job in a sweep computes what it computes alone, and finds nothing of the one before in memory."""
    sessions: list[weakref.ref] = []

    class Watched(Session):
        def __init__(self, *crew):
            assert not any(session() for session in sessions)
            super().__init__(*crew)
            self.itself = self  # a cycle, as errors and closures make them: it needs the garbage collector
            sessions.append(weakref.ref(self))

    gc.disable()
    try:
        monkeypatch.setattr(stages, "Session", Watched)
        alone = json.loads(mlx("meta-train", *SMALL, "seed=2", "--json").out)
        release()
        words = ("-m", "meta-train", *SMALL, "seed=1,2", "runtime.threads=1,2", "runs_dir=x", "--json")
        swept = json.loads(mlx(*words).out)["runs"]
    finally:
        gc.enable()
    assert len(sessions) == 5
    values = {(job["settings"]["seed"], job["settings"]["runtime.threads"]): job["run"]["metric"] for job in swept}
    assert values["2", "1"]["value"] == pytest.approx(alone["metric"]["value"])


def test_the_table_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    jobs = [studies.Job(str(n), {"seed": str(n)}, (), "runs") for n in (1, 2, 3)]
    watcher = telling.Jobs(jobs, live=True, latest=lambda job: "meta-train step 3/9, loss 0.5")
    watcher.began(jobs[0], "GPU 0")
    watcher.ended(jobs[0], sweeps.Outcome({"seed": "1"}, "refused", "no [bold]way[/bold]"))
    watcher.began(jobs[1], "GPU 1")
    watcher.look([jobs[1]])
    watcher.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())
    assert "job 1 of 3 seed=1 refused after 0 s: no [bold]way[/bold] (2 to come)" in shown
    assert "1 refused, 1 running, 1 waiting" in shown
    assert re.search(r"job 2 of 3 seed=2 +GPU 1 +0 s +meta-train step 3/9, loss 0.5", shown)


@pytest.mark.slow
def test_jobs_in_processes_of_their_own(mlx, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    words = [word for word in SMALL if word != "way=2"]
    answer = mlx("-m", "meta-train", *words, "way=2,99", "sweep.slots=2", "--json")
    assert answer.code == 2
    good, bad = json.loads(answer.out)["runs"]
    assert (good["settings"], good["status"], good["run"]["steps"]) == ({"way": "2"}, "completed", 2)
    assert (bad["status"], bad["run"]) == ("refused", None) and "way = 99: gaussian/" in bad["error"]
    assert "job 1 of 2 way=2 begins on " in answer.err and "(0 to come)" in answer.err
    assert [info["id"] for info in runs.list_runs("runs")] == [good["run"]["id"]]
    again = mlx("-m", "meta-train", *words, "way=2", "--json")  # fewer points, in this process
    assert json.loads(again.out)["runs"][0]["run"]["id"] == good["run"]["id"]
    assert "job 1 of 1 completed earlier: val accuracy" in again.err


def test_a_table_of_metrics_that_are_not_finite():
    outcomes = [
        sweeps.Outcome({"seed": str(n)}, run={"id": str(n), "metric": {"name": "val/mse", "value": value}})
        for n, value in enumerate((1.0, float("nan"), None))
    ]
    (row,) = sweeps.table(outcomes)
    assert (row["seeds"], row["value"], row["interval"]) == (["0", "1", "2"], None, None)


def test_the_settings_of_a_sweep_are_completed(mlx, monkeypatch):
    def candidates(line):
        monkeypatch.setenv("COMP_LINE", line)
        return mlx("-sc", "query=bash").out.split()

    assert candidates("mlx -m meta-train sweep.s") == ["sweep.slots=", "sweep.slots_per_gpu="]
    assert candidates("mlx -m meta-train seed=1,2 sweep=") == ["sweep=local"]

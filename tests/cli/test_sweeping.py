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
from contextlib import nullcontext
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.cli import planning, sweeping, telling
from metalearn_cli.cli.composing import Composer
from metalearn_cli.core.errors import UserError
from metalearn_cli.engine import runtime
from metalearn_cli.engine.runtime import release
from metalearn_cli.records import runs, sweeps
from metalearn_cli.stages.session import Session
from metalearn_cli.studies import sweep as studies
from metalearn_cli.studies.search import Names, Numbers

SMALL = ("data=gaussian", "backbone=mlp", "way=2", "query=3", "runtime=cpu", "val_episodes=2", "steps=2")


@pytest.fixture
def identified(monkeypatch):
    """Return a function from the words of a command to the ids of its jobs, which are not run."""

    def in_turn(sweep, attempt, fail_fast):
        found.append([job.id for job in sweep.jobs])

    found: list[list[str]] = []
    monkeypatch.setattr(studies, "in_turn", in_turn)
    monkeypatch.setattr(studies, "at_once", lambda sweep, engine, *rest: in_turn(sweep, None, *rest))

    def ids(stage, *words):
        sweeping.run(stage, words, "")
        return found.pop()

    return ids


@pytest.mark.medium
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


SEARCH = ("-m", "meta-train", "sweep=optuna")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("meta-train", "sweep.slots=2"), "sweep.slots=2  is for a sweep, which -m runs   (from the command line)"),
        (("validate", "meta-train", "sweep=local"), "is for a sweep, which -m runs"),
        (("-m", "meta-train", "sweep.slots=0", "wayy=1,2"), "sweep.slots  must be auto or a whole number >= 1, got 0"),
        (("-m", "meta-train", "sweep.slots=0", "wayy=1,2"), "no such setting"),
        (("-m", "meta-train", "sweep.slot=2"), "did you mean: sweep.slots=2"),
        (("-m", "meta-train", "sweep.slots=1,2"), "is for the whole sweep: it has one value, got 1,2"),
        (("-m", "meta-train", "sweep=lokal"), "there is no sweep 'lokal'; there are local, optuna, ray, slurm"),
        (("-m", "meta-train", "seed=1,2", "sweep.slots=9999"), "9999 jobs at once need"),
        (("-m", "meta-train", "seed=1,2", "no.such.key=1,2"), "no such setting"),
        (("-m", "meta-train", "optimizer.lr=interval(0,1)"), "is for a search, which chooses numbers from an interval"),
        (("-m", "meta-train", "sweep.trials=5", "shot=1,5"), "did you mean: sweep=optuna sweep.trials=5"),
        ((*SEARCH, "shot=1"), "has nothing to choose; give a setting a range"),
        ((*SEARCH, "optimizer.lr=intervall(0,1)"), "did you mean: 'optimizer.lr=interval(0,1)'"),
        ((*SEARCH, "optimizer.lr=interval(0,1"), "optimizer.lr=interval(0,1  cannot be read"),
        ((*SEARCH, "seed=1,2"), "is not for a search, which would choose the luckiest one"),
        ((*SEARCH, "runtime.threads=1,2"), "is not for a search: it says where or how a job runs"),
        ((*SEARCH, "optimizer.lr=interval(1,0)"), "interval(1,0) has no numbers; write the lower one first"),
        ((*SEARCH, "shot=range(5,5)"), "range(5,5) has no numbers"),
        ((*SEARCH, "optimizer.lr=tag(lin,interval(0,1))"), "has the tag lin; there is log"),
        ((*SEARCH, "optimizer.lr=tag(log,interval(0,1))"), "has the tag log, for which numbers must be > 0"),
        ((*SEARCH, "shot=tag(log,range(1,9,2))"), "has the tag log, for which numbers must be > 0 and have no steps"),
        ((*SEARCH, "shot=range(1,9)", "optimizer.lr=interval(-1,1)"), "optimizer.lr  must be a number >= 0, got -1.0"),
        ((*SEARCH, "shot=1,5", "wayy=2"), "no such setting"),
        ((*SEARCH, "shot=1,5", "sweep.objective=test/accuracy"), "did you mean: sweep.objective=val/accuracy"),
        ((*SEARCH, "shot=1,5", "sweep.objective=[val/loss,val/loss]"), "must be one metric or different ones"),
        ((*SEARCH, "shot=1,5", "sweep.objective=[]"), "must be one metric or different ones, got []"),
        ((*SEARCH, "shot=1,5", "sweep.pruner=best"), "must be one of median, hyperband, none, got 'best'"),
        (("-m", "meta-train", "shot=1,5", "sweep=slurm"), "sbatch and squeue and scancel cannot be found"),
        (("-m", "meta-train", "shot=1,5", "sweep=slurm", "sweep.time=60"), "sweep.time  must be text or null, got 60"),
        (("-m", "meta-train", "shot=1,5", "sweep=slurm", "sweep.slots_per_gpu=2"), "must be 1, because SLURM gives"),
        (("-m", "meta-train", "shot=1,5", "sweep=ray", "sweep.cpus=0"), "sweep.cpus  must be a whole number >= 1"),
        (("-m", "meta-train", "shot=1,5", "sweep.partition=gpu"), "did you mean: sweep=slurm sweep.partition=gpu"),
        (("-m", "evaluate", "shot=1,5", "sweep=optuna"), "chooses by validation results, so it needs a stage that t"),
    ],
)
def test_refused_before_the_first_job(mlx, stage, tmp_path, words, told):
    answer = mlx(*words)
    assert answer.code == 2 and told in answer.err
    assert not stage and not list(tmp_path.iterdir())


def test_a_sweep_is_not_for_a_launcher(mlx, stage, monkeypatch, tmp_path):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    answer = mlx("-m", "meta-train", "seed=1,2", "runtime.devices=2", "runtime.accelerator=cpu")
    assert answer.code == 2 and "runtime.devices  torchrun starts one command on several ranks" in answer.err
    assert not list(tmp_path.iterdir())
    assert mlx("-m", "meta-train", "seed=1,2").code == 0  # several commands, as without -m


def test_an_interval_is_no_fault_where_the_sweep_is_one(mlx):
    answer = mlx(*SEARCH, "optimizer.lr=interval(0,1)", "sweep.trials=0", "wayy=2")
    assert "sweep.trials  must be a whole number >= 1, got 0" in answer.err and "no such setting" in answer.err
    assert "is for a search" not in answer.err


def test_a_sweep_as_a_file(mlx, stage):
    Path("own/sweep").mkdir(parents=True)
    params = "params:\n  seed: 1,2\n  algorithm: maml,protonet\n  shot: 5\n"
    Path("own/sweep/mine.yaml").write_text(f"# Two learners\ndefaults: [local]\nfail_fast: true\n{params}")
    answer = mlx("-cd", "own", "-m", "meta-train", "sweep=mine", "seed=7")
    assert answer.code == 0, answer.err
    made = [(config.seed, config.shot, config.algorithm["_target_"].rpartition(".")[2]) for _, config in stage]
    assert made == [(7, 5, "Maml"), (7, 5, "ProtoNet")]  # what is typed replaces it
    assert "mine" in mlx("ls", "-cd", "own", "sweep").out
    listed = mlx("ls", "-cd", "own", "sweep", "mine").out
    assert "sweep.fail_fast: true" in listed and "sweep.slots: 1 " in listed and "defaults" not in listed


def test_a_copy_of_the_shipped_sweep(mlx):
    copied = json.loads(mlx("cp", "sweep/local", "own/mine.yaml", "--json").out)
    assert copied["command"] == "mlx -m run --config-dir own sweep=mine"
    slots = json.loads(Path(copied["schema"]).read_text())["properties"]["slots"]
    assert {"type": "integer", "minimum": 1} in slots["anyOf"] and "jobs at once" in slots["description"]
    assert "trials" in json.loads(mlx("schema", "sweep").out)["properties"]


def test_the_space_of_a_search():
    words = [
        "steps=5", "optimizer.lr=tag(log,interval(1e-4,0.1))", "shot=range(1,9,2)", "way=int(interval(2,4))",
        "backbone.hidden=range(0.1,0.8,0.2)", "algorithm=glob(proto*)", "data.size=choice(20,28)",
        "query=tag(log,range(9,1,-1))",
    ]  # fmt: skip
    space, fixed = planning._space(Composer("meta-train"), words)
    assert fixed == ["steps=5"]
    assert space == {
        "optimizer.lr": Numbers(1e-4, 0.1, log=True),
        "shot": Numbers(1, 7, 2),
        "way": Numbers(2, 4),
        "backbone.hidden": Numbers(0.1, 0.7, 0.2),
        "algorithm": Names(("proto_maml", "protonet")),
        "data.size": Names(("20", "28")),
        "query": Numbers(2, 9, 1, log=True),
    }


@pytest.mark.medium
def test_a_search_is_known_by_what_it_searches(monkeypatch, tmp_path):
    """The same command with more trials resumes the search; with another space or objective it is a new search."""
    monkeypatch.chdir(tmp_path)
    found = []

    def at_once(sweep, engine, fail_fast):
        job = sweep.jobs[0] if sweep.jobs else sweep._trials._make({"shot": "3", "optimizer.lr": "0.5"}, ["++way=2"])
        found.append((sweep.name, len(engine.slots), job))

    monkeypatch.setattr(studies, "at_once", at_once)
    monkeypatch.setattr(sweeping, "needs_optuna", lambda: None)
    monkeypatch.setattr(studies.Sweep, "open", lambda sweep: nullcontext())

    def search(*words):
        sweeping.run("meta-train", ["shot=1,3", "way=5", "sweep=optuna", *words], "")
        return found.pop()

    usual = search("optimizer.lr=interval(0,1)")
    name, slots, job = usual
    assert slots == 1 and job.settings == {"shot": "3", "optimizer.lr": "0.5"}
    assert job.words == ("meta-train", "++shot=3", "++optimizer.lr=0.5", "++way=2", "--json")
    assert search("optimizer.lr=interval(0,1)", "sweep.trials=99", "sweep.pruner=none", "sweep.slots=2")[0] == name
    assert search("optimizer.lr=interval(0,1)", "runtime.threads=1")[0] == name
    others = [["optimizer.lr=interval(0,2)"], ["optimizer.lr=interval(0,1)", "query=3"]]
    others += [["optimizer.lr=interval(0,1)", "sweep.objective=val/loss"]]
    assert len({name, *(search(*words)[0] for words in others)}) == 4


def test_a_search_says_how_many_trials_have_no_job_of_their_own(mlx, stage, monkeypatch):
    def at_once(sweep, engine, fail_fast):
        sweep._trials._asked = 2

    monkeypatch.setattr(studies, "at_once", at_once)
    monkeypatch.setattr(sweeping, "needs_optuna", lambda: None)
    monkeypatch.setattr(studies.Sweep, "open", lambda sweep: nullcontext())
    answer = mlx("-m", "meta-train", "shot=1,5", "sweep=optuna")
    assert "2 of the trials drew a point again, which has its result already" in answer.err


def test_a_search_on_a_cluster(mlx, stage, monkeypatch):
    """Settings of both are in one file of the user's own."""
    Path("own/sweep").mkdir(parents=True)
    Path("own/sweep/mine.yaml").write_text(
        "# Both\ndefaults: [slurm]\ntrials: 9\nobjective: val/accuracy\npruner: none\npartition: low\n"
    )
    monkeypatch.setattr(sweeping, "needs_optuna", lambda: None)
    words = ("-cd", "own", "-m", "meta-train", "sweep=mine", "shot=1,5")
    assert "sweep.slots  must be a number, because the trials of a search learn from those before" in mlx(*words).err
    found = []
    monkeypatch.setattr(sweeping, "Slurm", lambda *given: found.append(given) or sys.exit(0))
    with pytest.raises(SystemExit):
        mlx(*words, "sweep.slots=3")
    assert found[0][0].partition == "low" and found[0][1] == 3


def test_fail_fast(mlx, stage, monkeypatch):
    def run(name, config, reporter, **facts):
        stage.append((name, config))
        raise UserError("no")

    monkeypatch.setattr(stages, "run", run)
    answer = mlx("-m", "meta-train", "seed=1,2,3", "sweep.fail_fast=true", "--json")
    assert answer.code == 2 and len(stage) == 1
    assert [job["status"] for job in json.loads(answer.out)["runs"]] == ["refused", "not begun", "not begun"]


@pytest.mark.medium
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
        monkeypatch.setattr(runtime, "release", release)
        alone = json.loads(mlx("meta-train", *SMALL, "seed=2", "--json").out)
        release()
        words = ("-m", "meta-train", *SMALL, "seed=1,2", "runs_dir=x", "--json")
        swept = json.loads(mlx(*words).out)["runs"]
    finally:
        gc.enable()
    assert len(sessions) == 3
    values = {job["settings"]["seed"]: job["run"]["metric"] for job in swept}
    assert values["2"]["value"] == pytest.approx(alone["metric"]["value"])


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
    assert candidates("mlx -m meta-train seed=1,2 sweep=") == [
        "sweep=local",
        "sweep=optuna",
        "sweep=ray",
        "sweep=slurm",
    ]

"""What each command prints, where, and with which exit code."""

import errno
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metalearn_cli import __version__, stages
from metalearn_cli.cli.composing import Composer
from metalearn_cli.cli.errors import explain
from metalearn_cli.cli.main import WAITING
from metalearn_cli.cli.words import COMMANDS, STAGES
from metalearn_cli.core.errors import ConfigError, Problem, Stopped, UserError
from metalearn_cli.records.runs import _say_denied


@pytest.mark.medium
def test_help_imports_nothing_heavy():
    code = "import sys; from metalearn_cli.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    assert all(any(line.strip().startswith(command) for line in text) for command in COMMANDS)
    for heavy in ("torch", "hydra", "omegaconf", "numpy", "rich", "tqdm", "yaml"):
        assert f"'{heavy}'" not in modules


def test_a_stage_runs_with_the_garbage_collector_on(mlx, monkeypatch):
    seen = []
    monkeypatch.setattr(stages, "run", lambda *args, **settings: seen.append(gc.isenabled()))
    mlx("pretrain", "data=gaussian", "backbone=mlp")  # its imports go without
    assert seen == [True]


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_wait_as_the_user_has_it_or_as_we_do(mlx, monkeypatch, own):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    mlx("--version")
    assert {name: os.environ[name] for name in WAITING if name in os.environ} == (own or WAITING)


def test_version(mlx):
    assert mlx("--version") == (0, f"mlx {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(mlx, command):
    answer = mlx(command, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: mlx {command}")
    assert "--help" in answer.out


def test_help_of_a_stage_shows_choices_settings_and_examples(mlx):
    out = mlx("meta-train", "-h").out
    assert re.search(r"algorithm=protonet  \((\w+ \| )*fomaml \| (\w+ \| )*maml \| (\w+ \| )*protonet( \| \w+)*\)", out)
    assert "  steps: 400  # optimizer steps, >= 1" in out
    assert "mlx -m meta-train algorithm=maml,protonet seed=1,2" in out
    out = mlx("run", "--help").out
    assert "optimizer@meta_train.optimizer=adam" in out
    assert "  meta_train:\n    steps: 400" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("metatrain",), "there is no command 'metatrain'; did you mean meta-train?"),
        (("frobnicate",), "there is no command 'frobnicate'; there are pretrain, transfer"),
        (("meta-train", "--mulitrun"), "there is no option --mulitrun; did you mean --multirun?"),
        (("runs", "--seed=3"), "there is no option --seed; did you mean: mlx runs seed=3"),
        (("-v",), "there is no option -v; see: mlx --help"),
        (("meta-train", "--cfg"), "--cfg needs a value"),
        (("meta-train", "--cfg", "jbo"), "--cfg must be one of job, hydra, all, got 'jbo'; did you mean job?"),
        (("meta-train", "--json=3"), "--json takes no value"),
        (("-m", "meta-train", "--cfg", "job"), "leave one of them out"),
        (("meta-train", "--cfg", "job", "-p", "nothing"), "package 'nothing' not found"),
        (("runs", "-m"), "mlx runs has no option --multirun"),
        (("evaluate", "--runs-dir", "r3"), "mlx evaluate has no option --runs-dir; did you mean: runs_dir=r3"),
        (("show",), "mlx show needs one more argument"),
        (("show", "20261"), "there is no run '20261' in runs"),
        (("show", "latest"), "there is no run in runs yet; next: mlx run\n"),
        (("resume", "wait=5"), "RUN is missing: mlx resume RUN wait=5"),
        (("resume", "20261"), "there is no run '20261' in runs"),
        (("validate", "meta-trian"), "did you mean meta-train?"),
        (
            ("validate", "verify"),
            "takes one of pretrain, transfer, meta-train, evaluate, run, got 'verify'",
        ),
        (("ls", "algoritm"), "did you mean algorithm?"),
        (("completion", "bahs"), "did you mean bash?"),
    ],
)
def test_mistyped_words(mlx, tmp_path, words, told):
    answer = mlx(*words)
    assert answer.code == 2
    assert told in answer.err
    assert answer.out == ""
    assert not list(tmp_path.iterdir())


def test_result_is_on_stdout_and_progress_on_stderr(mlx, stage):
    answer = mlx("meta-train", "data=glyphs", "runs_dir=elsewhere", "seed=3")
    assert answer.code == 0
    assert "val accuracy   50.0 +- 1.0 % (95 % over the validation episodes)" in answer.out
    assert "1 min 1 s" in answer.out
    assert answer.out.rstrip().endswith("next: mlx evaluate ckpt=id-1 runs_dir=elsewhere")
    assert "meta-train step 1/2, loss 0.5" in answer.err
    assert "step" not in answer.out.replace("best step", "")


def test_the_log_of_a_run_holds_more_than_what_is_shown(mlx):
    words = ("data=gaussian", "backbone=mlp", "model=classifier", "way=2", "steps=1", "val_episodes=2", "--json")
    answer = mlx("pretrain", *words)
    log = (Path(json.loads(answer.out)["folder"]) / "mlx.log").read_text()
    assert "INFO data took" in log
    assert "data took" not in answer.err


def test_json_is_one_object_wherever_the_option_stands(mlx, stage):
    assert json.loads(mlx("--json", "meta-train").out)["metric"]["value"] == 0.5
    answer = mlx("-m", "meta-train", "seed=1", "--json", "way=3")
    (job,) = json.loads(answer.out)["runs"]
    assert (job["status"], job["run"]["id"]) == ("completed", "id-2")
    assert (stage[1][1].seed, stage[1][1].way) == (1, 3)


def test_settings_are_composed_once(mlx, stage, monkeypatch):
    compose, composed = Composer.compose, []
    monkeypatch.setattr(Composer, "compose", lambda self, words: composed.append(words) or compose(self, words))
    monkeypatch.setattr("hydra.main", None)  # which would compose in its own way

    def run(name, config, reporter, **facts):
        raise ConfigError([Problem("way", "must be <= 3")])

    assert mlx("meta-train", "way=4").code == 0
    assert [config.way for _, config in stage] == [4]
    monkeypatch.setattr(stages, "run", run)
    assert "way = 4  must be <= 3   (from the command line)" in mlx("meta-train", "way=4").err
    assert composed == [["++way=4"]] * 2


def test_sweep_ends_in_one_table(mlx, stage):
    Path("own").mkdir()
    answer = mlx("-cd", "own", "-m", "meta-train", "algorithm=maml,protonet", "way=3")  # options first
    assert answer.code == 0
    assert [config.algorithm["_target_"].rpartition(".")[2] for _, config in stage] == ["Maml", "ProtoNet"]
    table = answer.out.splitlines()
    assert table[0].startswith("sweep ") and table[0].endswith(": 2 jobs, 2 completed")
    assert table[1].split() == ["algorithm", "run", "status", "result"]  # way is the same in both
    assert table[3].split()[:3] == ["maml", "id-1", "completed"]
    (folder,) = (path for path in Path("runs/sweeps").iterdir() if path.name != "jobs")
    assert (folder / "results.csv").read_text().splitlines()[1].startswith("maml,completed,val/accuracy,0.5,0.01,61.0")
    assert f"each job: {folder}/results.csv" in answer.out
    shown = mlx("runs", f"sweep={folder.name}").out
    assert shown.splitlines()[:4] == table[:4]
    assert mlx("runs", "sweep=../sweeps").code == 0
    (folder / "results.json").write_text('{"jobs": [{"settings": {"seed": 1}}]}')
    assert "results.json is damaged" in mlx("runs", f"sweep={folder.name}").err


def test_other_launchers_and_sweepers_are_refused_before_the_first_job(mlx, stage, tmp_path):
    words = ("hydra/launcher=joblib", "hydra/sweeper=optuna", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=x")
    answer = mlx("-m", "meta-train", "seed=1,2", *words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("mlx runs the jobs of a sweep itself; sweep.slots=N runs N at once") == len(words)
    assert not stage and not list(tmp_path.iterdir())
    assert mlx("-m", "meta-train", "seed=1,2", "hydra/launcher=basic").code == 0


@pytest.mark.parametrize("value", ["~/exp", '"~/exp"'])
def test_home_folder_in_a_path(mlx, stage, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert mlx("meta-train", f"runs_dir={value}", "init_from=~/a b").code == 0
    ((_, config),) = stage
    assert (config.runs_dir, config.init_from) == (f"{tmp_path}/home/exp", f"{tmp_path}/home/a b")
    assert mlx("-m", "meta-train", f"runs_dir={value},x").code == 0
    assert [config.runs_dir for _, config in stage[1:]] == [f"{tmp_path}/home/exp", "x"]
    assert mlx("meta-train", f"runs_dir={value}", "--cfg", "job").code == 0
    (tmp_path / "home" / "own" / "algorithm").mkdir(parents=True)
    (tmp_path / "home" / "own" / "algorithm" / "mine.yaml").write_text("# Mine\n")
    assert "mine" in mlx("ls", "--config-dir=~/own", "algorithm").out
    (tmp_path / "home" / "exp").mkdir()
    assert "home/exp" in mlx("runs", "--runs-dir", "~/exp").out


def test_sweep_goes_on_after_a_refused_and_a_crashed_job(mlx, stage, monkeypatch, tmp_path):
    quick = stages.run

    def run(name, config, reporter, **facts):
        if config.seed == 1:
            raise ConfigError([Problem("way", "glyphs/test has 3 classes; way must be <= 3")])
        if config.seed == 2:
            raise ZeroDivisionError("oh")
        return quick(name, config, reporter, **facts)

    monkeypatch.setattr(stages, "run", run)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    Path("temporary").mkdir()
    answer = mlx("-m", "meta-train", "seed=1,2,3", "way=4")
    assert answer.code == 1
    rows = [line.split()[:3] for line in answer.out.splitlines()[3:6]]
    assert rows == [["3", "id-1", "completed"], ["1", "-", "refused"], ["2", "-", "crashed"]]  # failures last
    assert "way = 4  glyphs/test has 3 classes; way must be <= 3   (from the command line)" in answer.err
    (log,) = Path("temporary").glob("mlx-crash-*.log")
    assert str(log) in answer.err
    assert "ZeroDivisionError: oh" in log.read_text()


def test_sweep_of_which_nothing_came_leaves_nothing(mlx, monkeypatch, tmp_path):
    def run(name, config, reporter, **facts):
        raise UserError("no")

    monkeypatch.setattr(stages, "run", run)
    assert mlx("-m", "meta-train", "seed=1").code == 2
    assert not list(tmp_path.iterdir())


def test_mistake_that_shows_only_when_everything_is_built(mlx, monkeypatch, tmp_path):
    def run(name, config, reporter, **facts):
        raise ConfigError([Problem("way", "must be <= 3"), Problem("data.root", "there is no folder 'x'")])

    monkeypatch.setattr(stages, "run", run)
    answer = mlx("meta-train", "way=4")
    assert (answer.code, answer.out) == (2, "")
    assert "2 problems in the settings of `mlx meta-train`" in answer.err
    assert "way = 4    must be <= 3   (from the command line)" in answer.err
    assert "(from configs/data/glyphs.yaml)" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no space left on device"),
        (errno.EROFS, "read-only file system"),
        (errno.ENOENT, "no such file or directory"),
    ],
)
def test_disk_troubles_are_the_users(capsys, number, told):
    verb = "read or write" if number == errno.ENOENT else "write to"
    assert explain(OSError(number, os.strerror(number), "runs/meta-train/x"))[0] == 2
    assert capsys.readouterr().err == f"error: cannot {verb} runs/meta-train/x: {told}\n"


def test_trouble_after_the_start_says_how_to_go_on(mlx, monkeypatch):
    def run(name, config, reporter, **facts):
        reporter.start(name, f"runs/{name}/some-id", 0, 3)
        raise OSError(errno.ENOSPC, "No space left on device", f"runs/{name}/some-id/metrics.jsonl")

    monkeypatch.setattr(stages, "run", run)
    for stage, again in (("meta-train", "mlx resume runs/meta-train/some-id"), ("evaluate", "the same command")):
        answer = mlx(stage)
        assert answer.code == 2
        error, advice = answer.err.splitlines()[-2:]
        assert error == f"error: cannot write to runs/{stage}/some-id/metrics.jsonl: no space left on device"
        assert advice == f"once that is fixed, resume with: {again}"


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGUSR1, 138, "SIGUSR1"),
    ],
)
def test_stop(mlx, monkeypatch, number, code, told):
    def run(name, config, reporter, **facts):
        reporter.start(name, "runs/meta-train/some-id", 0, 3)
        raise Stopped(number)

    monkeypatch.setattr(stages, "run", run)
    answer = mlx("meta-train")
    assert answer.code == code
    assert f"{told}; resume with: mlx resume runs/meta-train/some-id" in answer.err


def test_hydras_own_views_of_the_settings(mlx, stage):
    answer = mlx("--cfg", "job", "meta-train", "algorithm=maml", "-p", "algorithm")
    assert answer.code == 0
    assert "inner_lr: 0.4" in answer.out
    assert "stage/meta_train" in mlx("meta-train", "--info", "defaults").out
    assert "algorithm: protonet" in mlx("meta-train", "-i", "defaults-tree").out
    assert not stage


def test_ls(mlx):
    out = mlx("ls", "algorithm").out
    assert any(line.startswith("maml ") and "Finn et al. 2017" in line for line in out.splitlines())
    assert "conv4" not in out
    groups = json.loads(mlx("ls", "--json").out)
    assert {"algorithm", "backbone", "data", "method", "model", "optimizer", "runtime", "scheduler"} <= groups.keys()
    assert not {"stage", "hydra"} & groups.keys()
    assert all(line for choices in groups.values() for line in choices.values())
    own = Path("mine/algorithm")
    own.mkdir(parents=True)
    (own / "hasty.yaml").write_text("# @package _global_\n# A hasty one.\nx: 1\n")
    assert json.loads(mlx("ls", "algorithm", "-cd", "mine", "--json").out)["algorithm"]["hasty"] == "A hasty one."


def write_run(stage, run_id, **facts):
    folder = Path("runs") / stage / run_id
    folder.mkdir(parents=True)
    info = {
        "id": run_id,
        "stage": stage,
        "status": "completed",
        "started_at": f"2026-01-0{run_id[-1]}T00:00:00+00:00",
        "parent": None,
    }
    (folder / "run.json").write_text(json.dumps({**info, **facts}))


def test_a_copied_run_is_named_by_its_folder(mlx):
    write_run("pretrain", "a1")
    shutil.copytree("runs/pretrain/a1", "runs/pretrain/a1-copy")
    both = "runs/pretrain/a1 and runs/pretrain/a1-copy"
    assert f"2 runs have the id a1; name one by its folder: {both.replace(' and ', ' or ')}" in mlx("runs").out
    for command in ("show", "resume"):
        answer = mlx(command, "a1")
        assert answer.code == 2 and f"2 runs have the id a1, {both}; name one by its folder" in answer.err
    assert "folder: runs/pretrain/a1-copy" in mlx("show", "runs/pretrain/a1-copy/").out
    assert "folder: runs/pretrain/a1-copy" in mlx("show", "a1-copy").out


def test_runs_and_show(mlx):
    assert "no runs in runs yet" in mlx("runs").out
    write_run(
        "pretrain", "a1", metric={"name": "val/accuracy", "value": 0.5, "interval": 0.01, "step": 2}, best="step-000002"
    )
    parent = {
        "run": "a1",
        "stage": "pretrain",
        "step": 2,
        "checkpoint": "runs/pretrain/a1/checkpoints/step-000002",
        "sha256": "f" * 64,
    }
    write_run("transfer", "b2", parent=parent, status="running")
    lines = mlx("runs").out.splitlines()
    assert lines[1].split() == ["run", "what", "result", "age", "parent"]
    assert [*lines[3].split()[:3], lines[3].split()[-1]] == ["b2", "transfer:", "died", "a1"]
    assert "50.0 +- 1.0 %" in lines[4]
    assert [run["id"] for run in json.loads(mlx("runs", "--json").out)] == ["b2", "a1"]
    Path("other dir").mkdir()
    assert (
        mlx("runs", "--runs-dir", "other dir").out == "no runs in other dir yet; next: mlx run 'runs_dir=other dir'\n"
    )
    lines = mlx("show", "b").out.splitlines()
    assert lines[3].split()[:2] == ["transfer", "b2"]
    assert lines[4].split()[-2:] == ["step-000002", "f" * 64]
    assert json.loads(mlx("show", "b2", "--json").out)[1]["sha256"] == "f" * 64
    assert "did you mean a1?" in mlx("show", "a11").err


def test_a_stage_says_that_runs_cannot_be_read(mlx, monkeypatch):
    def denied(folder):
        if folder.name == "transfer":
            raise PermissionError
        return [Path("runs/transfer")] if folder.name == "runs" else []

    monkeypatch.setattr("metalearn_cli.records.runs._entries", denied)
    _say_denied.cache_clear()
    told = "warning: runs: you have no permission to read 1 folder in it; its runs are left out\n"
    assert mlx("pretrain", "data=gaussian", "init_from=latest").err.count(told) == 1


def test_resume_passes_changes_on(mlx, monkeypatch):
    write_run("pretrain", "a1", status="interrupted")
    seen = {}

    def resume(folder, reporter, changes, wait):
        seen.update(changes, wait=wait)
        raise UserError("enough")

    monkeypatch.setattr(stages, "resume", resume)
    assert (
        mlx("resume", "a1", "steps=30", "optimizer.lr=1e-3", "reinit=[a,b]", "runtime.threads=null", "wait=9").code == 2
    )
    assert seen == {"steps": 30, "optimizer.lr": 1e-3, "reinit": ["a", "b"], "runtime.threads": None, "wait": 9}
    answer = mlx("resume", "a1", "steps", "+x=1", "seed=1,2")
    assert answer.code == 2
    assert "3 problems" in answer.err


def test_validate(mlx, monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "check", lambda stage, config: [type(config).__name__])
    answer = mlx("validate", "meta-train", "way=3")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "MetaTrainConfig\nmlx meta-train: valid\n"
    assert json.loads(mlx("validate", "run", "--json").out)["valid"] is True

    def check(stage, config):
        raise ConfigError([Problem("way", "too many")])

    monkeypatch.setattr(stages, "check", check)
    answer = mlx("validate", "meta-train", "way=3")
    assert answer.code == 2
    assert "way = 3  too many   (from the command line)" in answer.err
    assert not list(tmp_path.iterdir())


def test_doctor(mlx, tmp_path):
    found = json.loads(mlx("doctor", "--json", "--runs-dir", "elsewhere").out)
    assert found["versions"]["metalearn-cli"] == __version__
    assert "32-true" in found["devices"]["cpu"]
    assert str(tmp_path / "elsewhere") in found["places"]["runs"]
    assert "GiB free" in found["places"]["runs"]
    assert "versions" in mlx("doctor").out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "expected", "unexpected"),
    [
        ("mlx me", {"meta-train"}, {"pretrain"}),
        ("mlx ", set(COMMANDS), set()),
        ("mlx meta-train --mu", {"--multirun"}, {"--json"}),
        ("mlx meta-train algorithm=ma", {"algorithm=maml"}, {"algorithm=protonet"}),
        ("mlx -m meta-train optimizer.", {"optimizer.lr="}, set()),
        ("mlx meta-train seed=1 wa", {"way="}, {"seed="}),
        ("mlx validate ", set(STAGES), {"ls"}),
        ("mlx ls alg", {"algorithm"}, {"backbone"}),
        ("mlx show a", {"a1"}, set()),
        ("mlx compare a", {"a1"}, set()),
        ("mlx report a", {"a1"}, set()),
        ("mlx report --f", {"--format"}, {"--json"}),
        ("mlx ablate algorithm=ma", {"algorithm=maml"}, {"algorithm=protonet"}),
        ("mlx completion ", {"bash", "zsh", "fish"}, set()),
        ("mlx meta-train a=[", set(), set()),
        ("mlx evaluate ckpt=", {"ckpt=latest", "ckpt=latest:transfer", "ckpt=a1"}, {"ckpt=b2"}),
        ("mlx evaluate ckpt=latest:", {"ckpt=latest:pretrain", "ckpt=latest:meta-train"}, {"ckpt=latest"}),
        ("mlx explain ckpt=l", {"ckpt=latest"}, {"ckpt=b2"}),
        ("mlx explain me", {"method="}, set()),
        ("mlx stream exports/birds he", {"held_out="}, {"seed="}),
        ("mlx explain method=", set(), {"method=finetune"}),
        ("mlx run init_from=latest:t", {"init_from=latest:transfer"}, {"init_from=latest:pretrain"}),
        ("mlx validate meta-train algorithm=ma", {"algorithm=maml"}, {"algorithm=protonet"}),
        ("mlx validate meta-train way=5 optimizer.", {"optimizer.lr="}, set()),
        ("mlx run optimizer@", {"optimizer@pretrain.optimizer=", "optimizer@transfer.optimizer="}, {"optimizer="}),
        ("mlx run optimizer@pretrain.optimizer=s", {"optimizer@pretrain.optimizer=sgd"}, set()),
        ("mlx transfer data@also.unlabelled=gl", {"data@also.unlabelled=glyphs"}, set()),
        ("mlx -m meta-train algorithm=maml,pro", {"algorithm=maml,protonet"}, {"algorithm=maml,maml"}),
        ("mlx -m meta-train algorithm=maml,", {"algorithm=maml,anil"}, {"algorithm=maml,maml"}),
        ("mlx run experiment=[smo", {"experiment=[smoke"}, set()),
        ("mlx cp experiment/smo", {"experiment/smoke"}, {"algorithm/maml"}),
        ("mlx cat algorithm/", {"algorithm/maml"}, set()),
        ("mlx schema meta", {"meta-train"}, {"algorithm"}),
        ("mlx meta-train --config-dir mine algorithm=ha", {"algorithm=hasty"}, set()),
    ],
)
def test_completion(mlx, monkeypatch, line, expected, unexpected):
    write_run("pretrain", "a1")
    write_run("evaluate", "b2")
    Path("mine/algorithm").mkdir(parents=True)
    Path("mine/algorithm/hasty.yaml").write_text("# A hasty one.\n")
    monkeypatch.setenv("COMP_LINE", line)
    found = set(mlx("-sc", "query=bash").out.split())
    assert expected <= found
    assert not unexpected & found


def test_completion_in_bash(mlx, tmp_path):
    (tmp_path / "mlx").write_text(f'#!/bin/sh\nexec {sys.executable} -m metalearn_cli.cli.main "$@"\n')
    (tmp_path / "mlx").chmod(0o755)
    script = mlx("completion", "bash").out
    typed = "COMP_LINE='mlx meta-t'; COMP_POINT=10; COMP_WORDS=(mlx meta-t); COMP_CWORD=1; _mlx_complete"
    typed += '; echo "<${COMPREPLY[0]}>"'
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\n{typed}"], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "<meta-train >\n"


def test_a_sweep_without_jobs_is_refused(mlx):
    answer = mlx("-m", "pretrain", "seed=range(1,1)")
    assert answer.code == 2
    assert "the sweep has no jobs: one of its ranges or lists is empty" in answer.err

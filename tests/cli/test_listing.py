"""`mlx runs`, `mlx show` and `mlx ls NAME`: what they say of what is there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from sources.images import fill
from unit.studies.evaluations import training

from metalearn_cli.cli import choices
from metalearn_cli.cli.words import COMMANDS
from metalearn_cli.records import sweeps
from metalearn_cli.records.runs import sha256_of
from metalearn_cli.records.sweeps import Outcome

SMALL = ("data=gaussian", "backbone=mlp", "way=2", "query=3", "steps=2", "val_episodes=2")


@pytest.fixture
def trained(mlx):
    """Pretrain and meta-train in the folder `runs`; gives the two runs."""
    done = []
    for words in (
        ("pretrain", "model=classifier", "optimizer.lr=0.01"),
        ("meta-train", "init_from=latest:pretrain", "algorithm=maml", "algorithm.inner_steps=2", "seed=3"),
    ):
        code, out, err = mlx(*words, *SMALL, "--json")
        assert code == 0, err
        done.append(json.loads(out))
    return done


def ids(answer):
    return [run["id"] for run in json.loads(answer.out)]


@pytest.mark.medium
def test_runs_say_what_was_trained_on_what_and_are_chosen_by_it(mlx, trained):
    first, second = (run["id"] for run in trained)
    lines = mlx("runs").out.splitlines()
    assert "meta-train: maml, gaussian, 2w1s, seed 3" in lines[3] and second in lines[3]
    assert "pretrain: classifier, gaussian, 2w1s, seed 0" in lines[4]
    assert ids(mlx("runs", "--json")) == [second, first]
    assert ids(mlx("runs", "stage=meta-train", "status=completed", "--json")) == [second]
    assert ids(mlx("runs", "learner=Classifier", "data=gaussian", "way=2", "shot=1", "seed=0", "--json")) == [first]
    assert "no runs in runs match data=glyphs; next: mlx runs" in mlx("runs", "data=glyphs").out
    (whole,) = json.loads(mlx("runs", "stage=pretrain", "--json").out)
    assert whole["key"] == trained[0]["key"] and whole["learner"] == "classifier"


def test_a_chain_has_the_seeds_of_its_trainings_and_the_data_before_it_is_done(mlx, tmp_path):
    folder = tmp_path / "runs" / "run" / "c"
    folder.mkdir(parents=True)
    info = {"id": "c", "stage": "run", "status": "interrupted", "started_at": "2026-01-01T00:00:00+00:00"}
    first = {"seed": 7, "way": 2, "shot": 1, "data": {"_target_": "metalearn_cli.data.gaussian.gaussian"}}
    config = {"training": {"pretrain": first}, "seeds": 3, "evaluate": {"seed": 0, "way": 2, "shot": 1}}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "config.json").write_text(json.dumps(config))
    assert "run: gaussian, 2w1s, seeds 7 to 9" in mlx("runs", "data=gaussian").out
    assert [ids(mlx("runs", f"seed={seed}", "--json")) for seed in (0, 7, 9, 10)] == [[], ["c"], ["c"], []]
    for damaged in ({"training": [1]}, {"training": {"pretrain": 3}}, {"evaluate": 3, "seeds": "x"}, {"seeds": 9}):
        (folder / "config.json").write_text(json.dumps(config | damaged))
        assert mlx("runs").code == 0


@pytest.mark.medium
def test_the_settings_of_a_run_name_the_checkpoint_that_latest_was(mlx, trained):
    assert mlx("evaluate", "episodes=4").code == 0
    assert f" ckpt={trained[1]['id']} " in mlx("show", "latest:evaluate").out


def test_a_sweep_has_the_runs_that_were_done_before_it_and_those_that_it_stopped(mlx, tmp_path):
    runs = tmp_path / "runs"
    early, own, pruned, other = (training(runs, name) for name in ("early", "own", "pruned", "other"))
    for run, facts in ((own, {}), (pruned, {"status": "interrupted"}), (other, {"status": "interrupted"})):
        path = Path(run["folder"]) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sweep": "ab12", **facts}))
    jobs = [Outcome({}, folder=f"runs/meta-train/{run['id']}", run=run) for run in (early, own)]
    jobs.append(Outcome({}, "pruned", "at step 5 of 20", folder="runs/meta-train/pruned"))
    (runs / "sweeps" / "ab12").mkdir(parents=True)
    sweeps.write(runs / "sweeps" / "ab12", {}, jobs)
    assert set(ids(mlx("runs", "sweep=ab12", "--json"))) == {"early", "own", "pruned", "other"}
    record = json.loads(mlx("report", "sweep=ab12", "--format", "json").out)
    assert {run["id"]: run["status"] for run in record["runs"]} == {
        "early": "completed",
        "own": "completed",
        "pruned": "pruned",
        "other": "interrupted",
    }
    assert ids(mlx("runs", "status=pruned", "--json")) == ["pruned"]
    assert ids(mlx("runs", "status=interrupted", "--json")) == ["other"]
    (runs / "sweeps" / "ab12" / "results.json").write_text("{}")
    assert mlx("runs").code == 0  # nobody knows which were stopped early


def test_runs_are_sorted_by_their_metric(mlx):
    for number, (name, value) in enumerate(
        [("test/accuracy", 0.5), ("test/accuracy", 0.9), ("test/mse", 2), (None, 0)]
    ):
        folder = Path("runs/evaluate") / f"r{number}"
        folder.mkdir(parents=True)
        metric = name and {"name": name, "value": value}
        info = {"id": folder.name, "stage": "evaluate", "status": "completed", "metric": metric}
        (folder / "run.json").write_text(json.dumps({**info, "started_at": f"2026-01-0{number + 1}T00:00:00+00:00"}))
    assert ids(mlx("runs", "sort=metric", "--json")) == ["r1", "r0", "r2", "r3"]
    assert ids(mlx("runs", "sort=age", "--json")) == ["r3", "r2", "r1", "r0"]


def test_a_learner_is_found_by_its_choice_and_by_its_class(mlx):
    folder = Path("runs/evaluate/r1")
    folder.mkdir(parents=True)
    info = {"id": "r1", "stage": "evaluate", "status": "completed", "started_at": "2026-01-01T00:00:00+00:00"}
    (folder / "run.json").write_text(json.dumps(info))
    target = "metalearn_cli.algorithms.nearest_centroid.NearestCentroid"
    (folder / "config.json").write_text(json.dumps({"algorithm": {"_target_": target}}))
    for name in ("nearest_centroid", "NearestCentroid", "nearestcentroid"):
        assert ids(mlx("runs", f"learner={name}", "--json")) == ["r1"]
    assert "evaluate: nearest_centroid" in mlx("runs").out


def test_help_lists_each_setting_once(mlx):
    lines = [line for line in mlx("evaluate", "--help").out.splitlines() if line.startswith("  seed:")]
    assert len(lines) == 1 and "seed of the episodes alone" in lines[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("show last", "did you mean latest?"),
        ("show latest:meta_train", "did you mean latest:meta-train?"),
        ("show latest runs_dir=r3", "did you mean: --runs-dir r3"),
        ("help", "did you mean: mlx --help"),
        ("help pretrain", "did you mean: mlx pretrain --help"),
        ("ls maml", "did you mean: mlx ls algorithm maml"),
    ],
)
def test_other_words_for_a_command(mlx, line, told):
    answer = mlx(*line.split())
    assert answer.code == 2 and told in answer.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("stge=pretrain",),
            "there is no filter 'stge=pretrain' of runs; did you mean stage=pretrain?",
        ),
        (("latest",), "there is no filter 'latest' of runs; there are stage=, "),
        (("algorithm=maml",), "did you mean learner=maml?"),
        (("stage=meta_train",), "evaluate, run, got 'meta_train'; did you mean stage=meta-train?"),
        (("stage=train",), "did you mean stage=pretrain?"),
        (("status=done",), "status must be one of completed, running, interrupted, pruned, failed, died, got 'done'"),
        (("way=five",), "way must be a whole number, got 'five'"),
        (("--stage", "pretrain"), "there is no option --stage; did you mean: mlx runs stage=pretrain"),
        (("--sort=metric",), "there is no option --sort; did you mean: mlx runs sort=metric"),
        (("runs_dir=r3",), "did you mean: --runs-dir r3"),
        (("sort=metrik",), "sort must be one of age, metric, got 'metrik'; did you mean metric?"),
        (("--runs-dir", "nope"), "--runs-dir nope: there is no such folder"),
        (("--runs-dir", "nope", "--json"), "--runs-dir nope: there is no such folder"),
    ],
)
def test_runs_that_cannot_be_chosen(mlx, words, told):
    answer = mlx("runs", *words)
    assert answer.code == 2 and told in answer.err and "[]" not in answer.out


@pytest.mark.medium
def test_show_takes_latest_and_says_settings_and_checksum(mlx, trained):
    answer = mlx("show", "latest")
    assert answer.out.startswith(f"{trained[1]['id']} and its ancestors")
    rows = [line.split() for line in answer.out.splitlines() if line.startswith(("meta-train", "pretrain"))]
    assert [row[-1] for row in rows] == [
        sha256_of(Path(run["checkpoint"]) / "manifest.json") for run in reversed(trained)
    ]
    (settings,) = (line for line in answer.out.splitlines() if line.startswith("settings that differ"))
    typed = set(shlex.split(settings.partition(": ")[2]))
    wanted = {"algorithm=maml", "algorithm.inner_steps=2", "seed=3", "steps=2", "data=gaussian", "backbone=mlp"}
    assert wanted <= typed and not any("T_max" in word or "first_order" in word for word in typed)
    assert mlx("validate", "meta-train", *typed).code == 0  # they can be typed again
    out = mlx("show", "latest:pretrain").out
    assert out.startswith(trained[0]["id"]) and "optimizer.lr=0.01" in out and "model=classifier" in out
    assert "there is no run of transfer in runs yet; next: mlx run\n" in mlx("show", "latest:transfer").err
    assert json.loads(mlx("show", "latest", "--json").out)[0]["sha256"] == rows[0][-1]


def test_a_components_settings_with_their_comments(mlx):
    out = mlx("ls", "algorithm", "maml").out
    assert out.startswith("MAML: learn an initialisation")
    assert "  algorithm.inner_lr: 0.4  # step size of the adaptation, > 0" in out
    assert "algorithm.first_order: true  # drop" in (fomaml := mlx("ls", "algorithm", "fomaml").out)
    assert "algorithm.inner_lr: 0.4" in fomaml and fomaml.count("first_order") == 1
    assert "command:  mlx run experiment=smoke" in mlx("ls", "experiment", "smoke").out
    assert "there is no algorithm 'MAML'" in (answer := mlx("ls", "algorithm", "MAML")).err
    assert answer.err.endswith("did you mean maml?\n") and answer.code == 2


def test_no_sentence_is_cut(mlx):
    for group in json.loads(mlx("ls", "--json").out).values():
        assert all(line.endswith(".") for line in group.values()), group


@pytest.mark.parametrize("place", ["mine", "plug-in"])
def test_a_config_with_the_name_of_another_is_refused(mlx, stage, monkeypatch, tmp_path, place):
    own = tmp_path / "mine" / "algorithm"
    own.mkdir(parents=True)
    (own / "maml.yaml").write_text("# Mine.\n")
    if place == "plug-in":
        monkeypatch.setattr(choices.plugins, "config_dirs", lambda: [tmp_path / "mine"])
    extra = ("--config-dir", "mine") if place == "mine" else ()
    for command in ("ls", "meta-train"):
        answer = mlx(command, *extra)
        assert answer.code == 2 and not stage
        assert re.search(
            r"mine/algorithm/maml.yaml has the same name as \S+, which would hide it; rename it", answer.err
        )


TINY = ["data=gaussian", "backbone=mlp", "way=2", "shot=1", "query=2"]
OF_TRAINING = ["steps=2", "val_episodes=2", "every.save=1"]
SMALLER = {
    "pretrain": [*TINY, *OF_TRAINING, "batch_size=4", "model=classifier"],
    "transfer": [*TINY, *OF_TRAINING, "batch_size=4"],
    "meta-train": [*TINY, *OF_TRAINING],
    "evaluate": ["way=2", "query=2", "episodes=2"],
    "run": [
        *TINY,
        *(f"{s}.{o}" for s in ("pretrain", "transfer", "meta_train") for o in OF_TRAINING),
        "evaluate.episodes=2",
    ],
    "data": [],
}
OF_FILES = ("predict", "explain", "export", "enrol", "unenrol", "classes", "stream", "serve")
"""Commands that need a learner of pictures; tests/cli/test_exports.py and test_serve.py run them."""

SMALLER["ablate"] = [*SMALLER["run"], "seeds=1"]


@pytest.mark.slow
def test_every_example_of_every_help_runs(mlx):
    found = []
    for command in COMMANDS:
        examples = mlx(command, "--help").out.partition("examples:\n")[2].partition("\n\n")[0]
        found += [shlex.split(line.partition(" > ")[0])[1:] for line in examples.splitlines()]
    assert len(found) >= 16
    fill(Path("my_photos"), 6, 3)
    for words in found:
        name = next(word for word in words if word in COMMANDS)
        if name in OF_FILES:
            continue
        sizes = SMALLER.get(name, [])
        # of what is chosen twice, as data and model are, the smaller one
        chosen = {word.partition("=")[0] for word in sizes} & {
            "data",
            "backbone",
            "model",
            "way",
            "shot",
            "steps",
            "seeds",
        }
        if "ckpt=null" in words:
            sizes, chosen = [*TINY, "episodes=2"], {"data", "backbone", "way"}
        kept = [w for w in words if w.partition("=")[0] not in chosen and not w.startswith("data")] if sizes else words
        kept = [w for w in words if w not in ("data=omniglot", "data.root=FOLDER")] if name == "data" else kept
        if name == "verify":  # an experiment takes its time
            kept = ["validate", "run", "experiment=smoke", *(w for w in words if w.startswith("tier="))]
        if name == "compare":  # its examples name runs that are not here
            kept = ["compare", "latest:evaluate", "latest:evaluate"]
        if name == "compress":  # the trained network is one of vectors
            kept = [word.replace("backbone=conv4", "backbone=mlp") for word in kept]
        kept = ["stage=run" if word.startswith("sweep=") else word for word in kept] if name == "report" else kept
        code, _, err = mlx(*kept, *sizes)
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"

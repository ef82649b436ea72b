"""The record of `mlx report`: what is read of runs, and what cannot be."""

import json
from pathlib import Path

import pytest
from unit.studies.evaluations import DATA, STARTED, evaluation, training, write

from metalearn_cli.records import sweeps
from metalearn_cli.records.runs import find_run
from metalearn_cli.records.sweeps import Outcome
from metalearn_cli.studies.report import POINTS, gathered

METRIC = {"name": "val/accuracy", "value": 0.5, "interval": 0.1, "step": 5}


def again(run, **changes):
    """Change the run.json of a run, and return it."""
    path = Path(run["folder"]) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return find_run("nowhere", run["folder"])


def metrics(run, *lines):
    (Path(run["folder"]) / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


def read(*found, command=lambda run: ["mlx", run["stage"]]):
    return gathered(found, command)


@pytest.fixture
def trainings(tmp_path):
    """Return trainings that differ in algorithm and rate, with results and curves."""
    found = []
    for index, name in enumerate(("protonet.ProtoNet", "matching_net.MatchingNet", "maml.Maml")):
        config = {
            "algorithm": {"_target_": f"metalearn_cli.algorithms.{name}"},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1 * index},
        }
        run = again(training(tmp_path / "runs", f"t{index}", **config), metric=METRIC, steps=5)
        metrics(run, '{"step": 1, "train/loss": 2, "train/lr": 1, "seconds": 3}', '{"step": 5, "val/accuracy": 0.5}')
        found.append(run)
    return found


def test_runs_differ_in_choices_by_name(trainings):
    record = read(*trainings)
    assert record["varying"] == ["algorithm", "optimizer.lr"]
    assert [run["settings"]["algorithm"] for run in record["runs"]] == ["protonet", "matching_net", "maml"]
    assert record["runs"][0]["settings"]["optimizer"] == "adam"
    assert record["problems"] == record["unfinished"] == []


def test_a_choice_is_named_as_it_was_typed(trainings):
    words = {"t0": ["mlx", "meta-train", "steps=5"], "t2": ["mlx", "meta-train", "algorithm=fomaml", "steps=7"]}
    record = read(trainings[0], trainings[2], command=lambda run: words[run["id"]])
    assert [run["settings"]["algorithm"] for run in record["runs"]] == ["protonet", "fomaml"]
    assert [run["settings"]["steps"] for run in record["runs"]] == [5, 5]
    assert record["runs"][1]["command"] == "mlx meta-train algorithm=fomaml steps=7"


def test_where_things_are_is_no_setting(trainings):
    keys = read(*trainings)["runs"][0]["settings"].keys()
    assert not {"runs_dir", "init_from", "runtime"} & keys


def test_curves_are_thinned_and_end_where_they_end(trainings):
    metrics(trainings[0], *(json.dumps({"step": step, "x": step}) for step in range(10 * POINTS)))
    curves = read(*trainings)["runs"][0]["curves"]
    assert set(read(*trainings)["runs"][1]["curves"]) == {"train/loss", "val/accuracy"}
    assert POINTS / 2 < len(curves["x"]) <= POINTS + 1
    assert curves["x"][-1] == [10 * POINTS - 1] * 2


def test_a_training_brings_its_ancestors_and_evaluations(tmp_path):
    runs = tmp_path / "runs"
    training(runs, "first", learner_rate=1)
    second = training(runs, "second", parent="first")
    evaluation(runs, "scored", [0.1, 0.5, 0.9], parent="second")
    evaluation(runs, "other", [0.1, 0.5, 0.9], parent="first")
    record = read(second)
    assert {run["id"] for run in record["others"]} == {"first", "scored"}
    assert [run["results"][0]["name"] for run in record["others"] if run["id"] == "scored"] == ["test/accuracy"]
    assert record["runs"][0]["settings"]["meta-train.learner_rate"] == 1


def test_a_chain_brings_what_its_table_is_from(tmp_path):
    runs = tmp_path / "runs"
    training(runs, "trained")
    evaluation(runs, "before", [0.1, 0.5, 0.9])
    evaluation(runs, "after", [0.1, 0.5, 0.9], parent="trained")
    row = {"name": "test/accuracy", "value": 0.5, "learner": "ProtoNet", "normalisation": "none"}
    table = [
        {**row, "after": "nothing"},
        {**row, "after": "meta-train"},
    ]
    info = {"id": "chain", "stage": "run", "status": "completed", "started_at": STARTED, "data": DATA, "table": table}
    names = {"nothing": ["before"], "meta-train": ["after", "lost"]}
    info["evaluations"] = [{"after": key, "learner": "ProtoNet", "runs": own} for key, own in names.items()]
    config = {"training": {"meta-train": {"steps": 7}}, "seeds": 2}
    record = read(write(runs / "run" / "chain", info, config))
    (chain,) = record["runs"]
    assert {run["id"] for run in record["others"]} == {"before", "after", "trained"}
    assert record["problems"] == ["chain: its evaluation lost is gone"]
    assert chain["results"] == [table[1]]
    assert chain["settings"] == {"meta-train.steps": 7, "seeds": 2}
    assert all(run["command"] for run in record["others"])


def test_the_command_of_a_chain_repeats_its_parts(tmp_path):
    parent = {"run": "trained", "stage": "meta-train", "checkpoint": "there", "sha256": "0"}
    training(tmp_path / "runs", "trained")
    info = {
        "id": "chain",
        "stage": "run",
        "status": "running",
        "started_at": STARTED,
        "parent": parent,
        "typed": ["a=1"],
    }
    record = read(write(tmp_path / "runs" / "run" / "chain", info, {}))
    assert [run["command"] for run in record["runs"] + record["others"]] == ["mlx run", None]


def test_unfinished_runs_and_lost_parents(tmp_path):
    run = again(training(tmp_path / "runs", "t", parent="lost"), status="running", error="<b>" * 1000)
    record = read(run)
    assert record["unfinished"] == ["t"]
    assert [(run["id"], run["status"]) for run in record["others"]] == [("lost", "gone")]
    assert len(record["runs"][0]["error"]) <= 200


def test_runs_of_a_search_are_pruned_and_have_its_command(tmp_path):
    found = [again(training(tmp_path / "runs", f"t{n}"), sweep="ab12", status="interrupted") for n in range(3)]
    jobs = [Outcome({}, "pruned", "at step 5 of 20", folder="runs/meta-train/t0"), Outcome({}, "interrupted", "oh", 1)]
    (tmp_path / "runs" / "sweeps" / "ab12").mkdir(parents=True)
    sweeps.write(tmp_path / "runs" / "sweeps" / "ab12", {"sweep": "ab12", "command": "mlx -m again"}, jobs)
    record = read(*found)
    assert record["sweep"] == {"id": "ab12", "command": "mlx -m again"}
    assert [run["status"] for run in record["runs"]] == ["pruned", "interrupted", "interrupted"]
    assert record["runs"][0]["error"] == "at step 5 of 20" and record["unfinished"] == ["t1", "t2"]
    resumed = again(found[0], status="completed")
    assert read(resumed)["runs"][0]["status"] == "completed"
    assert read(*found, training(tmp_path / "runs", "other"))["sweep"] is None
    (tmp_path / "runs" / "sweeps" / "ab12" / "results.json").write_text('{"jobs": [], "command": 3}')
    assert any("results.json is damaged: command" in problem for problem in read(*found)["problems"])


def test_runs_that_are_their_own_ancestors(tmp_path):
    training(tmp_path / "runs", "a", parent="b")
    run = training(tmp_path / "runs", "b", parent="a")
    assert {run["id"] for run in read(run)["others"]} == {"a"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "config.json is damaged"),
        ("metrics.jsonl", None, "metrics.jsonl is missing or empty"),
        ("metrics.jsonl", "[1]\n{}\n", "metrics.jsonl is damaged in line 1"),
        ("checkpoints/step-1/manifest.json", None, "manifest.json is missing"),
        ("checkpoints/step-1/manifest.json", "7", "manifest.json is damaged"),
    ],
)
def test_what_cannot_be_read_is_told_and_the_rest_shown(trainings, name, content, told):
    run = again(trainings[0], best="step-1")
    path = Path(run["folder"]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    record = read(run, trainings[1])
    assert any(told in problem for problem in record["problems"])
    assert [entry["metric"] for entry in record["runs"]] == [METRIC, METRIC]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, -1e308], ids=["inf", "nan", "int", "low"])
def test_numbers_that_cannot_be_drawn_are_left_out(trainings, value):
    run = again(trainings[0], metric={**METRIC, "value": value, "more": [[[[[[[[[[[0]]]]]]]]]]]})
    metrics(run, json.dumps({"step": 1, "x": value, "y": 1}))
    entry = read(run)["runs"][0]
    assert entry["metric"]["value"] is None
    assert entry["curves"] == {"y": [[1, 1]]}


def test_settings_may_be_anything(trainings):
    deep = {}
    for _ in range(50):
        deep = {"a": deep}
    config = {"deep": deep, "list": [[1]] * 999, "algorithm": {"_target_": 7}, "optimizer": 3, "": None}
    (Path(trainings[0]["folder"]) / "config.json").write_text(json.dumps(config))
    settings = read(*trainings)["runs"][0]["settings"]
    assert settings["algorithm"] == "7"
    assert all(value is None or len(str(value)) < 300 for value in settings.values())

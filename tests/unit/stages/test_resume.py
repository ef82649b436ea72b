from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from faults.folders import metrics

from metalearn_cli import stages
from metalearn_cli.core.errors import ConfigError, NonFiniteError, UserError
from metalearn_cli.records import runs

MAML = {"_target_": "metalearn_cli.algorithms.maml.Maml", "inner_lr": 0.1}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 2}


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_equals_the_uninterrupted_run_bit_for_bit(go, interrupted, said, tensors, stop):
    whole = go("meta-train", algorithm=MAML)
    folder = interrupted("meta-train", algorithm=MAML, stop=stop)
    info = json.loads((Path(folder) / "run.json").read_text())
    assert (info["status"], info["step"]) == ("interrupted", stop)
    torch.manual_seed(7)
    said.started.clear()
    done = stages.resume(folder, said, {})
    assert said.started == [("meta-train", stop, 5)]
    assert f"resumes after step {stop} of 5" in said.notes
    assert metrics(Path(folder)) == metrics(Path(whole["folder"]))
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())
    same = ("status", "step", "steps", "best", "last", "metric", "key", "parent", "data")
    assert {k: done[k] for k in same} == {k: whole[k] for k in same}
    assert "error" not in done
    last = [Path(run["folder"]) / "checkpoints" / run["last"] for run in (whole, done)]
    assert all(torch.equal(t, tensors(last[1])[name]) for name, t in tensors(last[0]).items())


def test_images_in_every_memory_layout(go, images, interrupted, said, tensors):
    settings = {"backbone": CONV4, "steps": 4}
    whole = go("meta-train", **settings)
    done = stages.resume(interrupted("meta-train", **settings), said, {})
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())


def test_goes_on_from_where_it_started(go, interrupted, said):
    """What `latest` meant at the start is what it means on resuming, though there is something newer."""
    first = go("transfer", steps=1)
    folder = interrupted("meta-train", init_from="latest")
    key = json.loads((Path(folder) / "run.json").read_text())["key"]
    go("transfer", steps=1, seed=1)
    done = stages.resume(folder, said, {})
    assert (done["parent"]["run"], done["key"]) == (first["id"], key)
    started = [note.split(" (")[0] for note in said.notes if note.startswith("init_from")]
    assert started == [f"init_from latest -> {first['checkpoint']}", f"init_from {first['checkpoint']}"]


def test_run_without_a_checkpoint_starts_over(config, go, said, monkeypatch, tmp_path):
    whole = go("transfer")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(said, "start", lambda *args: 1 / 0)
        stages.run("transfer", config("transfer"), said)
    done = stages.resume(runs.list_runs(str(tmp_path / "runs"))[0]["folder"], said, {})
    assert done["metric"] == whole["metric"]


def test_killed_in_the_first_step(config, go, said, monkeypatch, tmp_path, tensors):
    """What was scored before training is not scored again."""
    whole = go("transfer")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(said, "advance", lambda step: 1 / 0)
        stages.run("transfer", config("transfer"), said)
    folder = runs.list_runs(str(tmp_path / "runs"))[0]["folder"]
    assert [path.name for path in (Path(folder) / "checkpoints").iterdir()] == ["step-000000"]
    said.measured.clear()
    done = stages.resume(folder, said, {})
    assert min(step for step, _ in said.measured) == 2
    assert metrics(Path(folder)) == metrics(Path(whole["folder"]))
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())
    assert all(done[key] == whole[key] for key in ("baseline", "trained", "metric"))


def test_changes_win_and_are_told(interrupted, said):
    folder = interrupted("meta-train")
    done = stages.resume(folder, said, {"steps": 4, "every.log": 1, "optimizer.lr": 0.5})
    assert {"steps: this run has 5, resuming with 4", "every.log: this run has 2, resuming with 1"} <= {*said.notes}
    assert done["steps"] == done["step"] == 4
    rates = [values["train/lr"] for step, values in said.measured if "train/lr" in values and step > 2]
    # a cosine from the new 0.5 over the new 4 steps
    assert rates == pytest.approx([0.25 * (1 + torch.tensor(s * torch.pi / 4).cos().item()) for s in (2, 3)])
    config = runs.read_config(Path(folder))
    assert (config["steps"], config["optimizer"]["lr"], config["scheduler"]["T_max"]) == (4, 0.5, 4)


def test_finished_run_can_go_on_longer(go, said, tensors):
    done = go("meta-train")
    longer = stages.resume(done["folder"], said, {"steps": 8})
    assert (longer["id"], longer["step"], longer["status"]) == (done["id"], 8, "completed")
    assert said.started[-1] == ("meta-train", 5, 8)
    rates = {step: values["train/lr"] for step, values in said.measured if "train/lr" in values}
    assert rates[6] > rates[8] > 0  # the cosine ends at the new end instead of rising again
    assert "scheduler.T_max: this run has 5, resuming with 8" in said.notes


def test_unchanged_scheduler_of_another_kind(go, said):
    step = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.5}
    done = go("transfer", scheduler=step)
    said.measured.clear()
    stages.resume(done["folder"], said, {"steps": 6})
    (rate,) = [values["train/lr"] for _, values in said.measured if "train/lr" in values]
    assert rate == pytest.approx(0.01 / 4)


def refused(folder, said, changes):
    before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        stages.resume(str(folder), said, changes)
    assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before
    return caught.value


@pytest.mark.parametrize("changes", [
    {"backbone.hidden": 9}, {"algorithm.inner_lr": 0.2}, {"data": "glyphs"}, {"way": 3}, {"init_from": "latest"},
])  # fmt: skip
def test_what_the_run_is_does_not_change(go, said, changes):
    done = go("meta-train", algorithm=MAML)
    error = refused(done["folder"], said, {**changes, "steps": 9})
    assert isinstance(error, ConfigError)
    (problem,) = error.problems
    assert problem.key == next(iter(changes))
    assert f"begin a new one with: mlx meta-train init_from={done['id']}" in problem.message


@pytest.mark.parametrize(("changes", "key", "hint"), [
    ({"optimzer.lr": 1.0}, "optimzer", "optimizer"),
    ({"stepz": 9}, "stepz", "steps"),
    ({"every.safe": 1}, "every.safe", "save"),
    ({"steps.x": 1}, "steps.x", ""),
    ({"tasks": 0}, "tasks", ""),
])  # fmt: skip
def test_changes_are_checked(go, said, changes, key, hint):
    error = refused(go("meta-train", steps=1)["folder"], said, {"steps": 9, **changes})
    assert isinstance(error, ConfigError)
    (problem,) = error.problems
    assert (problem.key, problem.hint) == (key, hint)


def test_nothing_to_go_on_with(go, said, tmp_path):
    done = go("meta-train", steps=3)
    assert f"mlx resume {done['id']} steps=N with N > 3" in str(refused(done["folder"], said, {}))
    assert "complete" in str(refused(done["folder"], said, {"steps": 2}))
    evaluation = go("evaluate")
    assert "is a run of evaluate, which cannot be resumed" in str(refused(evaluation["folder"], said, {}))
    assert "there is no run" in str(refused(tmp_path / "nothing", said, {}))


def test_fewer_steps_than_are_done(interrupted, said):
    folder = interrupted("meta-train", stop=3)
    assert "has done 3 steps already" in str(refused(folder, said, {"steps": 2}))


def test_data_that_changed_meanwhile(interrupted, said, images):
    folder = interrupted("meta-train", backbone=CONV4)
    info = json.loads((Path(folder) / "run.json").read_text())
    assert info["data"]["fingerprint"] == images.fingerprint
    info["data"]["fingerprint"] = "another"
    runs.write_json(Path(folder) / "run.json", info)
    assert "data images has changed since" in str(refused(folder, said, {}))


def test_run_of_a_living_process_is_left_alone(go, said):
    done = go("meta-train")
    held = runs.reopen(Path(done["folder"]))
    with pytest.raises(UserError, match="in use by another mlx process"):
        stages.resume(done["folder"], said, {"steps": 9})
    held.close()


def test_damaged_checkpoint_is_named(interrupted, said):
    folder = interrupted("meta-train")
    file = Path(folder) / "checkpoints" / "step-000002" / "resume.pt"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"resume\.pt is damaged"):
        stages.resume(folder, said, {})


def test_damaged_settings_and_record_of_a_run(interrupted, said):
    folder = Path(interrupted("meta-train"))
    for name, damage, told in (
        ("config.json", lambda values: values.pop("tasks"), "config.json is damaged, or of another version: tasks: is"),
        (
            "config.json",
            lambda values: values.update(scheduler=3),
            "config.json is damaged, or of another version: sch",
        ),
        ("run.json", lambda values: values.pop("data"), "run.json is damaged: it has no data"),
        ("run.json", lambda values: values.update(data=[]), "run.json is damaged: data must be an object"),
        ("run.json", lambda values: values.update(stage=["meta-train"]), "run.json is damaged: stage must be a name"),
    ):
        text = (folder / name).read_text()
        values = json.loads(text)
        damage(values)
        (folder / name).write_text(json.dumps(values))
        assert told in str(refused(folder, said, {"steps": 9}))
        (folder / name).write_text(text)
    assert stages.resume(str(folder), said, {})["status"] == "completed"


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_steps_that_are_left_out(go, interrupted, said, tensors, monkeypatch, stop):
    module = import_module("metalearn_cli.stages.transfer")
    loss = module.task_loss
    # a function of the batch, so that the same steps are bad in every run
    monkeypatch.setattr(module, "task_loss", lambda x, y: loss(x, y) * (float("nan") if y.sum() % 3 == 0 else 1))
    settings = {"steps": 8, "on_nonfinite": "skip", "nonfinite_limit": 7}
    whole = go("transfer", **settings)
    skipped = [values["train/skipped"] for _, values in said.measured if "train/skipped" in values]
    assert 0 < skipped[0] <= skipped[-1] < 7
    done = stages.resume(interrupted("transfer", stop=stop, **settings), said, {})
    assert metrics(Path(done["folder"])) == metrics(Path(whole["folder"]))
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())


EARLY = {
    "steps": 12,
    "patience": 2,
    "every__evaluate": 2,
    "optimizer__lr": 0.0,
}  # nothing is ever better than the first


def test_training_that_ended_early_is_complete(go, said, capsys):
    done = go("transfer", **EARLY)
    assert (done["status"], done["step"], done["steps"], done["stopped_early"]) == ("completed", 6, 12, True)
    assert said.notes[-1] == (
        "ended early after step 6 of 12: 2 evaluations without a better val/accuracy than at step 2"
    )
    assert "ended early, after step 6; to resume it anyway, change its patience (2)" in str(
        refused(done["folder"], said, {"steps": 20})
    )
    longer = stages.resume(done["folder"], said, {"patience": 3})
    assert (longer["step"], longer["stopped_early"]) == (8, True)
    longest = stages.resume(done["folder"], said, {"patience": None})
    assert longest["step"] == 12 and "stopped_early" not in longest


@pytest.mark.parametrize("stop", [1, 4, 5, 6])
def test_ends_early_also_when_resumed(go, interrupted, said, stop):
    whole = go("transfer", **EARLY)
    done = stages.resume(interrupted("transfer", stop=stop, **EARLY), said, {})
    assert {k: done[k] for k in ("step", "best", "stopped_early")} == {
        k: whole[k] for k in ("step", "best", "stopped_early")
    }
    assert metrics(Path(done["folder"])) == metrics(Path(whole["folder"]))


def test_newest_checkpoint_counts_also_where_run_json_is_behind(interrupted, said):
    folder = Path(interrupted("meta-train", stop=4, keep=2))
    info = json.loads((folder / "run.json").read_text())
    runs.write_json(folder / "run.json", {**info, "step": 2, "last": "step-000002"})  # killed between the two
    assert "has done 4 steps already" in str(refused(folder, said, {"steps": 3}))
    assert stages.resume(str(folder), said, {})["status"] == "completed"


def test_process_is_set_up_alike(go, interrupted, said, monkeypatch):
    """What counts denormal numbers as zero has to do so again in the process that goes on."""
    tuned = []
    monkeypatch.setattr(stages, "tune", lambda: tuned.append(True))
    go("meta-train")
    folder = interrupted("meta-train", runtime__tuned=True)
    assert len(tuned) == 1
    stages.resume(folder, said, {})
    assert len(tuned) == 2


RUNNING = {"_target_": "probes.backbones.running.Running"}
FINETUNE = "metalearn_cli.methods.finetune.Finetune"
OTHER_DATA = {"_target_": "metalearn_cli.data.gaussian.gaussian", "items": 160, "features": 6, "classes": 16}
LOW_RANK = {"_target_": "metalearn_cli.methods.lora.Lora"}
KINDS = {
    "own tensors": ("meta-train", {"algorithm": {"_target_": "probes.algorithms.scaled.Scaled"}}),
    "annealing": ("meta-train", {"algorithm": {"_target_": "probes.algorithms.annealed.Annealed"}}),
    "running statistics": ("pretrain", {"backbone": RUNNING}),
    "running statistics of a labelled task": ("transfer", {"backbone": RUNNING}),
    "running statistics of frozen blocks": ("transfer", {"backbone": RUNNING, "method": LOW_RANK}),
    "a follower": ("pretrain", {"model": {"_target_": "probes.models.teacher.Teacher"}}),
    "a follower with running statistics": (
        "pretrain",
        {"model": {"_target_": "probes.models.teacher.Teacher"}, "backbone": RUNNING},
    ),
    "factors that merge": ("transfer", {"method": LOW_RANK}),
    "blocks that begin to learn": ("transfer", {"method": {"_target_": FINETUNE, "unfreeze": 0.7}}),
    "classifiers of other data": (
        "transfer",
        {"method": {"_target_": "metalearn_cli.methods.multitask.Multitask"}, "also": {"other": OTHER_DATA}},
    ),
}


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_kept_between_steps_goes_on(go, probes, interrupted, said, tensors, kind, stop):
    stage, changes = KINDS[kind]
    whole = go(stage, optimizer__lr=0.1, **changes)
    folder = interrupted(stage, stop=stop, optimizer__lr=0.1, **changes)
    torch.manual_seed(7)
    done = stages.resume(folder, said, {})
    assert metrics(Path(folder)) == metrics(Path(whole["folder"]))
    for name in ("best", "last"):
        one, two = (tensors(Path(run["folder"]) / "checkpoints" / run[name]) for run in (whole, done))
        assert one.keys() == two.keys()
        assert all(torch.equal(t, two[n]) for n, t in one.items())
    assert done["metric"] == whole["metric"]


@pytest.mark.parametrize("stage", ["pretrain", "transfer"])
@pytest.mark.medium
def test_steps_left_out_write_no_statistics(go, probes, interrupted, said, tensors, monkeypatch, stage, tmp_path):
    settings = {"backbone": RUNNING, "steps": 6, "on_nonfinite": "skip", "nonfinite_limit": 5, "patience": None}
    module = import_module(f"metalearn_cli.{'models.classifier' if stage == 'pretrain' else 'stages.transfer'}")
    name = "cross_entropy" if stage == "pretrain" else "task_loss"
    loss = getattr(module, name)

    def spoilt(x, y, **settings):
        return loss(x, y, **settings) * (float("nan") if y.sum() % 2 == 0 else 1)

    monkeypatch.setattr(module, name, spoilt)
    whole = go(stage, **settings)
    skipped = [values["train/skipped"] for _, values in said.measured if "train/skipped" in values]
    assert 0 < skipped[-1] < 6
    done = stages.resume(interrupted(stage, stop=3, **settings), said, {})
    assert all(torch.equal(t, tensors(done)[n]) for n, t in tensors(whole).items())
    monkeypatch.setattr(module, name, lambda x, y, **settings: loss(x, y, **settings) * float("nan"))
    with pytest.raises(NonFiniteError, match="nothing was learnt"):
        go(stage, **{**settings, "nonfinite_limit": 9})
    failed = runs.list_runs(str(tmp_path / "runs"))[0]
    unmoved = tensors(Path(failed["folder"]) / "checkpoints" / failed["last"])
    for n, t in unmoved.items():
        assert "running" not in n or torch.equal(t, torch.full_like(t, "var" in n)), n


OMNIGLOT = {"_target_": "metalearn_cli.data.omniglot.omniglot", "root": "here"}


def test_data_that_was_moved(images, interrupted, said, tensors, go):
    settings = {"data": OMNIGLOT, "backbone": CONV4}
    folder = interrupted("meta-train", **settings)
    key = json.loads((Path(folder) / "run.json").read_text())["key"]
    done = stages.resume(folder, said, {"data.root": "there"})
    assert (done["status"], done["key"], done["data"]["spec"]["root"]) == ("completed", key, "there")
    assert runs.read_config(Path(folder))["data"]["root"] == "there"
    whole = go("meta-train", **settings)
    assert whole["key"] == key
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())


def test_other_data_than_the_run_began_with(go, said):
    done = go("meta-train")
    error = refused(done["folder"], said, {"data.seed": 1, "steps": 9})
    assert f"with data.seed=1, data gaussian is not what {done['id']} began with" in str(error)
    assert f"begin a new run with: mlx meta-train init_from={done['id']}" in str(error)


def test_more_data_than_the_run_began_with(go, said, probes):
    more = {"unlabelled": {**OTHER_DATA, "seed": 3}}
    done = go("transfer", method={"_target_": "metalearn_cli.methods.coral.Coral"}, also=more)
    error = refused(done["folder"], said, {"also.unlabelled.seed": 4, "steps": 9})
    assert "with also.unlabelled.seed=4, data gaussian is not what" in str(error)


def test_a_parent_that_was_deleted(go, interrupted, said, tensors, tmp_path):
    parent = go("pretrain", steps=1)
    whole = go("transfer", init_from="latest")
    folder = interrupted("transfer", init_from="latest:pretrain")
    shutil.rmtree(parent["folder"])
    done = stages.resume(folder, said, {})
    assert f"init_from {parent['checkpoint']} is gone" in " ".join(said.notes)
    assert (done["parent"], done["key"]) == (whole["parent"], whole["key"])
    assert all(torch.equal(t, tensors(done)[name]) for name, t in tensors(whole).items())
    chain = runs.lineage(str(tmp_path / "runs"), done["id"])
    assert [info["status"] for info in chain] == ["completed", "gone"]


def test_a_parent_that_was_deleted_and_is_needed(go, config, interrupted, said, probes):
    parent = go("pretrain", steps=1)
    needs = interrupted("transfer", init_from="latest", method={"_target_": "metalearn_cli.methods.l2_sp.L2Sp"})
    shutil.rmtree(parent["folder"])
    assert "the transfer method needs it to the end" in str(refused(needs, said, {}))


def test_a_run_without_checkpoints_needs_its_parent(go, config, said, monkeypatch, tmp_path):
    parent = go("pretrain", steps=1)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(said, "start", lambda *args: 1 / 0)
        stages.run("transfer", config("transfer", init_from="latest"), said)
    shutil.rmtree(parent["folder"])
    error = refused(runs.list_runs(str(tmp_path / "runs"))[0]["folder"], said, {})
    assert [problem.key for problem in error.problems] == ["init_from"]


def test_runs_that_were_moved_together(go, interrupted, said, tmp_path):
    parent = go("pretrain", steps=1)
    folder = Path(interrupted("meta-train", init_from="latest"))
    (tmp_path / "runs").rename(tmp_path / "moved")
    done = stages.resume(str(tmp_path / "moved" / folder.parent.name / folder.name), said, {})
    assert done["status"] == "completed"
    assert f"init_from {tmp_path}/moved/pretrain/{parent['id']}/checkpoints" in " ".join(said.notes)


def test_a_parent_that_is_another_one_now(go, interrupted, said):
    parent = go("pretrain", steps=1)
    folder = interrupted("meta-train", init_from="latest")
    another = go("pretrain", steps=1, seed=1)
    shutil.rmtree(parent["checkpoint"])
    shutil.copytree(another["checkpoint"], parent["checkpoint"])
    assert f"{parent['checkpoint']} has changed since" in str(refused(folder, said, {}))

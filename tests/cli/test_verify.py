"""`mlx verify`, and the tiers and the chaining of experiments."""

import json
from pathlib import Path

import pytest

from metalearn_cli import stages

FIRST = """# @package _global_
# First.
defaults:
  - override /data: gaussian
  - override /backbone: mlp
data: {items: 320, classes: 32}
backbone: {hidden: 8}
stages: [transfer]
tiers:
  smoke: {settings: [transfer.steps=2, transfer.val_episodes=2, evaluate.episodes=4], minutes: 1}
  short: {minutes: 1}
"""
CLAIM = "{learner: protonet, normalisation: none, metric: accuracy, value: %s, tolerance: 0, source: a paper}"
SECOND = f"""# @package _global_
# Second.
defaults:
  - override /data: gaussian
  - override /backbone: mlp
data: {{items: 320, classes: 32}}
backbone: {{hidden: 8}}
after: first
stages: [meta-train]
meta_train: {{steps: 3, val_episodes: 2}}
evaluate: {{episodes: 5}}
tiers:
  smoke: {{settings: [meta_train.steps=2, evaluate.episodes=4], minutes: 1}}
  short: {{minutes: 1, bound: the number of steps, expect: [{CLAIM % 2}, {CLAIM % 100}]}}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that writes experiments of one's own."""
    monkeypatch.chdir(tmp_path)
    folder = Path("mine/experiment")
    folder.mkdir(parents=True)

    def write(**files):
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)

    write(first=FIRST, second=SECOND)
    return write


def run(mlx, *words):
    return mlx("run", "-cd", "mine", *words)


@pytest.mark.medium
def test_a_tier_without_claims_passes_if_everything_runs(mlx, own, monkeypatch, tmp_path):
    run = {"id": "id-1", "table": [], "seconds": 90.0, "data": {}, "finished_at": "now", "folder": str(tmp_path)}
    configs = []
    monkeypatch.setattr(stages, "run", lambda stage, config, reporter: configs.append(config) or run)
    answer = mlx("verify", "-cd", "mine", "experiment=second", "tier=smoke", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert (record["experiment"], record["tier"], record["passed"], record["results"]) == ("second", "smoke", None, [])
    assert [c.training[c.stages[0]].steps for c in (configs[0].first, configs[0])] == [2, 2]
    answer = mlx("verify", "-cd", "mine", "experiment=second", "tier=smoke")
    assert answer.code == 0 and "PASS" not in answer.out
    assert f"it ran, and claims nothing: second, tier smoke, {tmp_path}/verify.json" in answer.out


def test_a_claim_that_is_not_met_has_an_exit_code_of_its_own(mlx, own, monkeypatch, tmp_path):
    row = {"name": "test/accuracy", "learner": "protonet", "normalisation": "none", "over": {"episodes": 5}}
    row |= {"value": 0.5, "interval": 0.1, "interval_classes": None, "interval_trainings": None}
    run = {"id": "id-1", "table": [row], "seconds": 90.0, "data": {}, "finished_at": "now", "folder": str(tmp_path)}
    monkeypatch.setattr(stages, "run", lambda *_: run)
    answer = mlx("verify", "-cd", "mine", "experiment=second")
    assert answer.code == 5, answer.err
    assert f"FAIL: second, tier short, {tmp_path}/verify.json" in answer.out
    assert "what bounds the result, by its file: the number of steps\n" in answer.out
    assert [line.split()[-1] for line in answer.out.splitlines() if line.startswith("protonet")] == ["PASS", "FAIL"]
    assert "time: 1 min 30 s; its file says 1 min 0 s on 2 cores" in answer.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "mlx verify needs one experiment: mlx verify experiment=NAME"),
        (["experiment=[first,second]"], "mlx verify needs one experiment"),
        (["experiment=second", "seed=1"], "seed is not for mlx verify"),
        (["experiment=second", "tier=tiny"], "there is no tier tiny; the experiment has only smoke, short"),
        (["experiment=second", "tier=full"], "there is no tier full; the experiment has only smoke, short"),
        (["experiment=secnd"], "there is no experiment 'secnd'"),
        (["experiment=bare"], "experiment bare claims nothing: its file has no tiers"),
    ],
)
def test_what_cannot_be_verified_gets_a_sentence(mlx, own, words, told):
    own(bare="# @package _global_\n# Bare.\nseed: 1\n")
    answer = mlx("verify", "-cd", "mine", *words)
    assert answer.code == 2
    assert told in " ".join(answer.err.split())
    assert not Path("runs").exists()


@pytest.mark.parametrize(("claim", "told"), [
    (CLAIM % 0.98, "tiers.short.expect.0.value must be in percent, above 1 and up to 100, got 0.98"),
    (CLAIM % 101, "tiers.short.expect.0.value must be in percent, above 1 and up to 100, got 101"),
    (CLAIM % "90, tolerence: 1", "tiers.short.expect.0.tolerence = 1 no such setting"),
    ((CLAIM % 90).replace("accuracy", "mse"), "tiers.short.expect.0 is about mse protonet none pooled, but the results"
     " will be accuracy nearest_centroid none pooled; accuracy protonet none pooled"),
    ((CLAIM % 90).replace("none", "inductive"), "tiers.short.expect.0 is about accuracy protonet inductive"),
])  # fmt: skip
def test_a_claim_that_cannot_be_met_is_refused_before_anything_is_trained(mlx, own, claim, told):
    own(
        claimed=SECOND.replace("after: first\n", "").partition("tiers:")[0]
        + f"tiers: {{short: {{minutes: 1, expect: [{claim}]}}}}\n"
    )
    answer = mlx("verify", "-cd", "mine", "experiment=claimed")
    assert (answer.code, answer.out) == (2, "")
    error = " ".join(answer.err.split())
    assert told in error and "(from mine/experiment/claimed.yaml)" in error
    assert not Path("runs").exists()


def test_a_claim_may_be_on_any_learner_that_can_be_selected(mlx, own):
    file = SECOND.replace("after: first\n", "").replace("backbone: mlp", "backbone: mlp\n  - override /algorithm: maml")
    file = file.replace("episodes: 5", "episodes: 5, select: {algorithm.first_order: [true]}").partition("tiers:")[0]
    claim = (CLAIM % 2).replace("protonet", "fomaml")
    own(fast=file + f"tiers: {{short: {{minutes: 1, expect: [{claim}]}}}}\n")
    answer = mlx("verify", "-cd", "mine", "experiment=fast", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["results"][0]["selected"] == [{"algorithm.first_order": True}]


@pytest.mark.medium
def test_what_is_typed_to_be_selected_replaces_what_a_file_has(mlx, own, stage):
    file = SECOND.replace("evaluate: {episodes: 5}", "evaluate: {episodes: 5, select: {algorithm.inner_steps: [1, 3]}}")
    own(chooses=file.replace("backbone: mlp", "backbone: mlp\n  - override /algorithm: maml"))
    found = []
    for words in (
        [],
        ["evaluate.select={}"],
        ["select={algorithm.inner_lr: [0.1, 1]}"],
        ["select.algorithm.inner_lr=[1]"],
    ):
        assert run(mlx, "experiment=chooses", *words).code == 0
        found.append(stage[-1][1].evaluate.select)
        shown = run(mlx, "experiment=chooses", *words, "--cfg", "job", "--json").out
        assert json.loads(shown)["evaluate"]["select"] == found[-1]
    of_file = {"algorithm.inner_steps": [1, 3]}
    assert found == [of_file, {}, {"algorithm.inner_lr": [0.1, 1]}, {**of_file, "algorithm": {"inner_lr": [1]}}]


def test_an_unknown_group_without_settings_is_named(mlx, tmp_path):
    answer = mlx("pretrain", "data=gaussian", "backbone=mlp", "select={}")
    assert answer.code == 2 and "select  no such setting" in answer.err


def test_a_tier_lays_its_settings_under_those_that_are_typed(mlx, own, stage):
    assert run(mlx, "experiment=first", "tier=smoke", "evaluate.episodes=7").code == 0
    ((_, config),) = stage
    assert (config.training["transfer"].steps, config.evaluate.episodes) == (2, 7)


def test_a_fault_in_a_tier_is_reported_as_its_own(mlx, own):
    own(first=FIRST.replace("transfer.steps=2", "transfer.stpes=2"))
    answer = run(mlx, "experiment=first", "tier=smoke", "transfer.batch_size=0")
    assert answer.code == 2
    assert "no such setting (from tier=smoke) did you mean: transfer.steps=2" in " ".join(answer.err.split())
    assert "from the command line" in answer.err


@pytest.mark.medium
def test_where_things_are_holds_for_the_experiment_before(mlx, own, stage):
    words = ["runs_dir=there", "runtime.threads=1", "tier=smoke", "meta_train.steps=4"]
    assert run(mlx, "experiment=second", *words).code == 0
    ((_, config),) = stage
    first = config.first
    assert (first.runs_dir, first.training["transfer"].runtime.threads) == ("there", 1)
    assert first.training["transfer"].steps == 2


@pytest.mark.parametrize(
    ("files", "words", "told"),
    [
        ({}, ["after=frist"], "there is no experiment 'frist'"),
        ({}, ["after=3"], "there is no experiment 3"),
        ({"first": FIRST + "after: second\n"}, [], "leads back to itself: first, after second, after first"),
        ({}, ["folds=3"], "must be null, because what `after` names has trained on classes of the folds"),
        ({}, ["init_from=latest"], "must be null, because the chain starts from what `after` names"),
        ({}, ["after=second", "stages=[transfer]"], "ends with meta-train, but transfer starts from a checkpoint of"),
        ({"first": FIRST.replace("items: 320", "itens: 320")}, [], "experiment first: data.itens"),
    ],
)
def test_a_chain_that_cannot_come_after_another_gets_a_sentence(mlx, own, files, words, told):
    own(**files)
    answer = run(mlx, "experiment=second", *words)
    assert answer.code == 2
    assert told in " ".join(answer.err.split())


def test_a_signal_says_how_to_go_on(mlx, own, monkeypatch):
    from metalearn_cli.core.errors import Stopped

    def stopped(name, config, reporter, **facts):
        reporter.start("transfer", "runs/transfer/id", 0, 2)
        raise Stopped(15)

    monkeypatch.setattr(stages, "run", stopped)
    answer = mlx("verify", "-cd", "mine", "experiment=second")
    assert answer.code == 143
    assert "resume with: the same command" in answer.err

"""`mlx compare`: which runs words name, and what is printed."""

import json

import pytest
from unit.studies.evaluations import evaluation, training

from metalearn_cli import stages
from metalearn_cli.core.errors import Stopped

SCORES = [0.1, 0.5, 0.9, 0.4, 0.3, 0.6]


@pytest.fixture
def trainings(tmp_path):
    """Write three trainings of two learners, each with an evaluation; the runs of the first learner are the better."""
    for learner, by in (("protonet", 0.1), ("anil", 0.0)):
        for seed in range(3):
            name, target = f"{learner.lower()}-{seed}", {"_target_": f"x.{learner.lower()}.{learner}"}
            runs = tmp_path / "runs"
            facts = {"algorithm": target, "sweep": "ab12"}
            training(runs, f"t-{name}", seed, algorithm=target)
            scores = [score + by + 0.01 * seed for score in SCORES]
            evaluation(runs, f"e-{name}", scores, parent=f"t-{name}", fact={"learner": learner}, **facts)


def test_learners_are_compared_with_all_their_seeds(mlx, trainings):
    answer = mlx("compare", *(f"t-{name}-{seed}" for name in ("protonet", "anil") for seed in range(3)))
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "2-way 1-shot 3-query on 6 episodes of test classes, gaussian (directions)"
    assert any(line.startswith("protonet   seeds 0, 1, 2   ") for line in lines)
    assert any(line.startswith("protonet - anil") and line.endswith("better") for line in lines)
    assert lines[-1].startswith("protonet is better than anil: the accuracy is higher by 10.00 +- ")
    assert "over 6 episodes and 3 seeds" in lines[-1]


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        (["sweep=ab12"], 2),
        (["stage=evaluate", "learner=anil", "e-protonet-1"], 2),
        (["runs/evaluate/e-anil-0", "e-protonet-1"], 2),
        (["latest:evaluate", "t-anil-2"], 2),
    ],
)
def test_runs_are_named_as_elsewhere(mlx, trainings, words, sides):
    answer = mlx("compare", *words, "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert len(record["sides"]) == sides
    assert all(one["sentence"] for one in record["comparisons"])


def test_trainings_without_evaluation_get_the_command_that_makes_one(mlx, trainings, tmp_path):
    training(tmp_path / "runs", "a", 0)
    assert "error: a has no evaluation; type first: mlx evaluate ckpt=a\n" in mlx("compare", "a", "e-anil-0").err
    training(tmp_path / "runs", "b", 0)
    told = "a, b have no evaluation; type first: mlx -m evaluate ckpt=a,b\n"
    assert told in mlx("compare", "e-anil-0", "a", "b").err


def test_runs_of_another_folder(mlx, trainings, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "there")
    answer = mlx("compare", "e-anil-0", "e-protonet-0", "--runs-dir", "there")
    assert answer.code == 0, answer.err
    assert "protonet is better than anil" in answer.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "mlx compare needs one more argument: mlx compare RUN RUN"),
        (["e-anil-0"], "one run has nothing to be compared with; name another one: mlx compare RUN RUN"),
        (["e-anil-0", "e-anil-9"], "there is no run 'e-anil-9' in runs; did you mean e-anil-"),
        (["e-anil-0", "sweep=none"], "one run has nothing to be compared with"),
        (["sweep=none"], "no runs in runs match sweep=none; next: mlx runs"),
        (["sweeps=ab12"], "there is no filter 'sweeps=ab12' of runs; did you mean sweep=ab12?"),
        (["e-anil-0", "e-anil-1", "e-anil-2"], "all 3 runs have the same settings but the seed"),
        (["e-anil-0", "other"], "runs on different episodes cannot be compared in pairs: e-anil-0 has the hash"),
    ],
)
def test_what_cannot_be_compared_gets_a_sentence(mlx, trainings, tmp_path, words, told):
    evaluation(tmp_path / "runs", "other", SCORES, episodes_hash="b" * 64)
    answer = mlx("compare", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["folds=3"], "folds must be null, because mlx ablate compares seeds, got 3; type seeds=5"),
        (["seed=1,2"], "seed"),
        (["meta_train.stpes=3"], "did you mean: meta_train.steps=3"),
    ],
)
def test_what_cannot_be_ablated_gets_a_sentence(mlx, stage, words, told):
    answer = mlx("ablate", *words)
    assert (answer.code, answer.out) == (2, "")
    assert told in " ".join(answer.err.split())
    assert stage == []


def test_a_signal_says_how_to_go_on(mlx, monkeypatch):
    def stopped(name, config, reporter, **facts):
        reporter.start("transfer", "runs/transfer/id", 0, 2)
        raise Stopped(15)

    monkeypatch.setattr(stages, "run", stopped)
    answer = mlx("ablate")
    assert answer.code == 143
    assert "resume with: the same command" in answer.err

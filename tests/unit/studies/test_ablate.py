import json
from pathlib import Path

import pytest
from unit.studies.evaluations import STARTED, evaluation, write

from metalearn_cli import stages
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.studies.ablate import ablate

SCORES = [0.1, 0.5, 0.9, 0.4, 0.3, 0.6]


@pytest.fixture
def chains(tmp_path, monkeypatch):
    """Put chains that only write scores in place of those of `mlx run`; gives the list of their settings.

    Each stage adds to the scores of its checkpoint: pretrain nothing, transfer 0.2, meta-train -0.1.
    """
    worth = {"pretrain": 0.0, "transfer": 0.2, "meta-train": -0.1}
    calls = []

    def scored(chain, learner, after, level):
        found = []
        for seed in range(3):
            noise = 0.001 * (seed - 1) * level
            name = f"{chain}-{learner}-{after}-{seed}"
            own = [score + level + noise for score in SCORES]
            found.append(evaluation(tmp_path, name, own, fact={"learner": learner})["id"])
        return {"after": after, "learner": learner, "runs": found}

    def run(stage, config, reporter):
        calls.append(config.stages)
        name = f"chain-{len(calls)}"
        level, before, rows = 0.0, "nothing", [scored(name, "nearest_centroid", "nothing", 0.0)]
        for stage in config.stages:
            if stage == "meta-train":
                rows.append(scored(name, "maml", before, level))
            level += worth[stage]
            if "regression" not in calls:
                rows.append(scored(name, "nearest_centroid", stage, level))
            before = stage
        rows.append(scored(name, "maml", before, level))
        info = {"id": name, "stage": "run", "status": "completed", "started_at": STARTED, "evaluations": rows}
        info |= {"table": [{"after": "meta-train", "name": "test/accuracy", "value": 0}]}
        return write(tmp_path / "run" / name, info, {})

    monkeypatch.setattr(stages, "run", run)
    return calls


def test_checkpoints_that_differ_in_one_stage_are_compared(chains, config, said):
    record = ablate(config("run"), said)
    assert chains == [("pretrain", "transfer", "meta-train"), ("pretrain", "meta-train")]
    own = ["none", "P", "P+T", "P+M", "P+T+M"]
    there = [(row["learner"], row["side"]) for row in record["sides"]]
    assert sorted(there) == sorted([*(("nearest_centroid", n) for n in own), *(("maml", n) for n in own[1:])])
    found = {(one["learner"], one["stage"], one["second"], one["first"]): one for one in record["comparisons"]}
    steps = [("transfer", "P", "P+T"), ("transfer", "P+M", "P+T+M")]
    steps += [("meta-train", "P", "P+M"), ("meta-train", "P+T", "P+T+M")]
    expected = {(learner, *step) for learner in ("nearest_centroid", "maml") for step in steps}
    assert found.keys() == expected | {("nearest_centroid", "pretrain", "none", "P")}
    for (_, stage, *_), one in found.items():
        assert one["verdict"] == {"pretrain": "no change", "transfer": "helps", "meta-train": "hurts"}[stage]
        assert one["crossed"]


def test_a_sentence_says_what_each_stage_is_worth(chains, config, said):
    record = ablate(config("run"), said)
    one, two, three = record["conclusions"]
    assert one == "pretrain changes no score in 6 episodes (none -> P, scored by nearest_centroid)."
    assert two.startswith("transfer helps (P+M -> P+T+M, scored by maml): the accuracy is higher by 20.00 +- ")
    assert three.startswith("meta-train hurts (P+T -> P+T+M, scored by maml): the accuracy is lower by 10.00 +- ")
    written = json.loads((Path(record["folder"]) / "ablate.json").read_text())
    assert written == {key: value for key, value in record.items() if key != "folder"}


def test_a_chain_of_two_stages_is_run_once(chains, config, said):
    record = ablate(config("run", stages=["pretrain", "meta-train"]), said)
    assert chains == [("pretrain", "meta-train")]
    assert {row["side"] for row in record["sides"]} == {"none", "P", "P+M"}


def test_a_learner_that_scored_one_checkpoint_alone_has_nothing_to_compare(chains, config, said):
    record = ablate(config("run", stages=["meta-train"]), said)
    assert {(one["learner"], one["second"], one["first"]) for one in record["comparisons"]} == {
        ("nearest_centroid", "none", "M"),
        ("maml", "none", "M"),
    }
    chains.append("regression")  # whose common learner starts from random weights, whatever the checkpoint
    record = ablate(config("run", stages=["meta-train"]), said)
    assert {row["learner"] for row in record["sides"]} == {"maml"}


def test_folds_are_refused_before_anything_runs(chains, config, said):
    with pytest.raises(ConfigError) as refused:
        ablate(config("run", folds=4), said)
    (problem,) = refused.value.problems
    assert (problem.key, chains) == ("folds", [])
    assert problem.message == "must be null, because mlx ablate compares seeds, got 4; type seeds=5"

import pytest
from unit.studies.evaluations import DATA, STARTED, evaluation, training, write

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.names import choices
from metalearn_cli.records.runs import list_runs
from metalearn_cli.studies import sides
from metalearn_cli.studies.sides import Side, names_of

SCORES = [0.1, 0.5, 0.9, 0.4]
LEARNERS = {name: spec["_target_"] for name, spec in choices("algorithm").items()}


def grouped(evaluations):
    return sides.grouped(evaluations, list_runs)


def evaluations_of(run):
    return sides.evaluations_of(run, list_runs)


@pytest.fixture
def pair(tmp_path):
    """Return a function that writes a training and its evaluation, and gives the evaluation."""

    def pair(name, seed, learner="protonet", fact=None, **config):
        training(tmp_path, f"t-{name}", seed, **config)
        fact = {"learner": learner, **(fact or {})}
        algorithm = config.get("algorithm") or {"_target_": LEARNERS[learner]}
        return evaluation(tmp_path, f"e-{name}", SCORES, parent=f"t-{name}", fact=fact, algorithm=algorithm)

    return pair


def test_trainings_that_differ_in_the_seed_and_in_places_are_one_side(pair):
    found = [pair("a", 0), pair("b", 1, runs_dir="elsewhere", data={"root": "moved"}), pair("c", 7)]
    (group,) = grouped(found)
    assert {seed: run["id"] for seed, run in group.runs.items()} == {"0": "e-a", "1": "e-b", "7": "e-c"}
    assert names_of([group]) == ["protonet"]


def test_the_same_settings_and_seed_again_are_a_side_of_their_own(pair):
    found = [pair("a", 0), pair("b", 1), pair("again-a", 0), pair("again-b", 1)]
    groups = grouped(found)
    assert [[run["id"] for run in group.runs.values()] for group in groups] == [
        ["e-a", "e-b"],
        ["e-again-a", "e-again-b"],
    ]
    assert names_of(groups) == ["protonet (e-a)", "protonet (e-again-a)"]


def test_sides_are_called_by_their_learner_and_what_differs(pair):
    adam, sgd = ({"_target_": f"torch.optim.{name}", "lr": lr} for name, lr in (("Adam", 0.1), ("SGD", 0.2)))
    assert names_of(grouped([pair("a", 0, "maml", steps=5), pair("b", 0, "anil", steps=5)])) == ["maml", "anil"]
    longer = [pair("c", 0, steps=5, scheduler={"T_max": 5}), pair("d", 0, steps=9, scheduler={"T_max": 9})]
    assert names_of(grouped(longer)) == ["protonet, meta-train.steps 5", "protonet, meta-train.steps 9"]
    other = [pair("e", 0, optimizer=adam), pair("f", 0, optimizer=sgd)]
    assert names_of(grouped(other)) == ["protonet, meta-train.optimizer adam", "protonet, meta-train.optimizer sgd"]


def test_a_checkpoint_that_others_start_from_is_told_by_its_stages(pair, tmp_path):
    untrained = evaluation(tmp_path, "e-none", SCORES, algorithm={"_target_": LEARNERS["protonet"]})
    assert names_of(grouped([pair("a", 3), untrained])) == ["protonet, after meta-train", "protonet, untrained"]


def test_seeds_of_all_stages_tell_trainings_apart(pair, tmp_path):
    training(tmp_path, "base-0", 0)
    training(tmp_path, "base-1", 1)
    found = [pair("a", 0, parent="base-0"), pair("b", 0, parent="base-1"), pair("c", 1, parent="base-1")]
    (group,) = grouped(found)
    assert list(group.runs) == ["0", "1/0", "1"]


def test_what_was_selected_may_differ_from_seed_to_seed(tmp_path):
    def selected(name, seed, lr):
        training(tmp_path, f"t-{name}", seed)
        config = {"select": {"algorithm": {"lr": [0.1, 0.2]}}}
        score = {"name": "val/accuracy", "value": 0.5}
        table = [{**score, "values": {"algorithm.lr": value}, "chosen": value == lr} for value in (0.1, 0.2)]
        facts = {"algorithm": {"_target_": LEARNERS["protonet"], "lr": lr}, "selected": table}
        return evaluation(tmp_path, f"e-{name}", SCORES, parent=f"t-{name}", config=config, **facts)

    assert names_of(grouped([selected("a", 0, 0.1), selected("b", 1, 0.2)])) == ["protonet (lr=0.1 or 0.2, selected)"]
    plain = {"algorithm": {"_target_": LEARNERS["protonet"], "lr": 0.3}}
    training(tmp_path, "t-c", 0)
    fixed = evaluation(tmp_path, "e-c", SCORES, parent="t-c", **plain)
    assert names_of(grouped([selected("d", 0, 0.1), fixed])) == ["protonet (lr=0.1, selected)", "protonet"]


def test_nobody_knows_the_settings_of_a_training_that_is_gone(tmp_path):
    found = [evaluation(tmp_path, f"e-{n}", SCORES, parent=f"gone-{n}") for n in range(2)]
    assert len(grouped(found)) == 2


def test_a_training_stands_for_its_newest_complete_evaluation(tmp_path):
    run = training(tmp_path, "t")
    for number, status in ((1, "completed"), (2, "completed"), (3, "failed")):
        started = f"2026-01-0{number}T00:00:00+00:00"
        evaluation(tmp_path, f"e-{number}", SCORES, parent="t", started_at=started, status=status)
    assert [own["id"] for own in evaluations_of(run)] == ["e-2"]


def test_a_training_without_evaluation_has_none(tmp_path):
    assert evaluations_of(training(tmp_path, "t")) == []


def chain(tmp_path, *evaluations, status="completed", **row):
    rows = [{"after": "meta-train", "learner": f"L{n}", "runs": names} for n, names in enumerate(evaluations)]
    info = {"id": "c", "stage": "run", "status": status, "started_at": STARTED, "data": DATA, "evaluations": rows}
    table = [{"after": "meta-train", "name": "test/accuracy", "value": 0.5, **row}]
    return write(tmp_path / "run" / "c", info | {"table": table}, {})


def test_a_chain_stands_for_its_last_row(tmp_path):
    for name in ("e-0", "e-1", "e-2"):
        evaluation(tmp_path, name, SCORES)
    assert [own["id"] for own in evaluations_of(chain(tmp_path, ["e-0"], ["e-1", "e-2"]))] == ["e-1", "e-2"]


@pytest.mark.parametrize(
    ("evaluations", "changes", "told"),
    [
        ([], {"status": "failed"}, "c has no scores, it is failed; type its command again"),
        ([], {}, "c does not say which evaluations its scores are from; type its command again"),
        ([["e-9"]], {}, "c has evaluations that are gone; type its command again"),
        ([["e-9"]], {"folds": 3}, "c is a cross-validation, whose folds have other episodes each"),
    ],
)
def test_a_chain_without_evaluations_gets_a_sentence(tmp_path, evaluations, changes, told):
    with pytest.raises(UserError, match=told):
        evaluations_of(chain(tmp_path, *evaluations, **changes))


def test_scores_that_are_not_finite_cannot_be_compared(tmp_path):
    run = evaluation(tmp_path, "e", [0.1, float("nan"), 0.5])
    with pytest.raises(UserError, match="e cannot be compared: 1 of its 3 episodes have a score that is not finite"):
        Side.of("one", {"0": run})


def test_scores_that_are_not_those_of_the_run_are_refused(tmp_path):
    run = evaluation(tmp_path, "e", SCORES)
    file = tmp_path / "evaluate" / "e" / "episodes.csv"
    file.write_text(file.read_text().replace(",0.5,", ",0.75,"))
    with pytest.raises(UserError, match=r"does not have the scores of run\.json"):
        Side.of("one", {"0": run})


def test_a_side_of_an_earlier_version_is_called_as_it_is_typed(pair):
    found = [pair("a", 0, "maml", fact={"learner": "Maml"}), pair("b", 0, "anil", fact={"learner": "Anil"})]
    assert names_of(grouped(found)) == ["maml", "anil"]

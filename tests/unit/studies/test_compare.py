"""Legend: S seeds of trainings, E episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unit.studies.evaluations import DATA, evaluation, training

from metalearn_cli.core.errors import UserError
from metalearn_cli.stages.scores import Scores
from metalearn_cli.studies.compare import Pair, compare, compared
from metalearn_cli.studies.sides import Side

SCORES = [0.1, 0.5, 0.9, 0.4, 0.3, 0.6]


def higher(by: float, noise: float = 0.0) -> list[float]:
    source = torch.Generator().manual_seed(0)
    return (torch.tensor(SCORES) + by + noise * torch.randn(len(SCORES), generator=source)).tolist()


def sides(tmp_path: Path, learner: str, scores: list[list[float]], first: int = 0, **fact: Any) -> list[dict[str, Any]]:
    """Write a training and an evaluation for each of several seeds."""
    found = []
    for seed, own in enumerate(scores, first):
        name = f"{learner}-{seed}"
        training(tmp_path, f"t-{name}", seed, algorithm={"_target_": f"x.{learner}"})
        algorithm = {"_target_": f"x.{learner}"}
        fact = {**fact, "learner": learner}
        found.append(evaluation(tmp_path, f"e-{name}", own, parent=f"t-{name}", fact=fact, algorithm=algorithm))
    return found


def test_the_same_run_differs_by_0_with_an_interval_of_0(tmp_path: Path) -> None:
    run = evaluation(tmp_path, "e", SCORES)
    (one,) = compare([run, run])["comparisons"]
    assert (one["gain"], one["gain_interval"], one["half_width"], one["p"], one["verdict"]) == (0, 0, 0, 1, "same")
    assert one["sentence"] == "protonet (e) and protonet (e) have the same score in each of 6 episodes: 0 +- 0."


def test_with_one_seed_the_interval_is_over_episodes_only(tmp_path: Path) -> None:
    one, two = sides(tmp_path, "maml", [higher(0.1, 0.01)]) + sides(tmp_path, "anil", [SCORES], first=4)
    (found,) = compare([two, one])["comparisons"]
    assert (found["first"], found["second"], found["verdict"]) == ("anil", "maml", "worse")
    assert (found["crossed"], found["half_width"]) == (False, pytest.approx(found["gain_interval"]))
    assert found["sentence"].startswith("maml is better than anil: the accuracy is higher by ")
    assert "percentage points (95 %, over 6 episodes only; p < 0.001)." in found["sentence"]
    assert "Other trainings may differ: 3 or more seeds would show how much." in found["sentence"]


def test_with_several_seeds_the_interval_is_over_trainings_too(tmp_path: Path) -> None:
    mine = sides(tmp_path, "maml", [higher(by, 0.01) for by in (0.1, 0.12, 0.08, 0.11)])
    found = compare([*mine, *sides(tmp_path, "anil", [SCORES] * 4)])
    (one,) = found["comparisons"]
    assert (one["first"], one["verdict"], one["seeds"]) == ("maml", "better", ["0", "1", "2", "3"])
    assert (one["crossed"], one["half_width"]) == (True, pytest.approx(one["gain_interval_trainings"]))
    assert one["half_width"] > one["gain_interval"]
    assert "over 6 episodes and 4 seeds" in one["sentence"]
    assert [(row["side"], row["seeds"], len(row["runs"])) for row in found["sides"]] == [
        ("maml", ["0", "1", "2", "3"], 4),
        ("anil", ["0", "1", "2", "3"], 4),
    ]


def test_seeds_of_one_side_alone_are_left_out(tmp_path: Path) -> None:
    mine = sides(tmp_path, "maml", [higher(0.1)] * 4)
    (one,) = compare([*mine, *sides(tmp_path, "anil", [SCORES] * 3, first=2)])["comparisons"]
    assert (one["seeds"], one["left_out"], one["crossed"]) == (["2", "3"], 3, False)
    told = "Compared: seeds 2, 3; trainings left out, because the other side has no such seed: 3."
    assert told in one["sentence"]


def test_sides_that_differ_in_their_seeds_alone_have_the_names_of_the_runs(tmp_path: Path) -> None:
    (found,) = compare(sides(tmp_path, "maml", [SCORES] * 2))["comparisons"]
    assert (found["first"], found["second"]) == ("maml (e-maml-0)", "maml (e-maml-1)")


def test_what_chains_share_is_compared_once(tmp_path: Path) -> None:
    one, two = sides(tmp_path, "maml", [SCORES] * 2)
    record = compare([one, two, one, *sides(tmp_path, "anil", [SCORES] * 2)])
    assert [(row["side"], row["seeds"]) for row in record["sides"]] == [("maml", ["0", "1"]), ("anil", ["0", "1"])]
    assert record["comparisons"][0]["comparisons"] == 1


def test_settings_that_change_no_score_tell_no_sides_apart(tmp_path: Path) -> None:
    maml, anil = (
        evaluation(tmp_path, name, SCORES, fact={"learner": name}, algorithm={"_target_": name}, config=config)
        for name, config in (
            ("maml", {"calibration": 0, "also_within": True}),
            ("anil", {"calibration": 9, "also_within": False}),
        )
    )
    assert [row["side"] for row in compare([maml, anil])["sides"]] == ["maml", "anil"]


def test_of_an_error_lower_is_better(tmp_path: Path) -> None:
    fact = {"name": "test/mse"}
    mine = sides(tmp_path, "maml", [higher(0.1, 0.01)], **fact)
    (one,) = compare([*mine, *sides(tmp_path, "cnp", [SCORES], **fact)])["comparisons"]
    assert (one["verdict"], one["gain"] < 0) == ("worse", True)
    assert one["sentence"].startswith("cnp is better than maml: the mse is lower by 0.095")
    assert "percentage" not in one["sentence"]


def test_a_difference_that_is_clear_alone_may_not_be_so_among_several(tmp_path: Path) -> None:
    gains = [0.087, 0.013] * 3
    better = [score + gain for score, gain in zip(SCORES, gains, strict=True)]
    runs = [*sides(tmp_path, "maml", [SCORES]), *sides(tmp_path, "anil", [better])]
    alone = compare(runs)["comparisons"][0]
    among = compare([*runs, *sides(tmp_path, "cnp", [SCORES])])["comparisons"]
    assert 0.05 / 3 < alone["p"] < 0.05
    assert (alone["verdict"], alone["p_adjusted"]) == ("worse", alone["p"])
    assert [(one["first"], one["second"]) for one in among] == [("maml", "anil"), ("maml", "cnp"), ("anil", "cnp")]
    assert (among[0]["verdict"], among[0]["p_adjusted"]) == ("not clear", pytest.approx(3 * alone["p"]))
    assert among[0]["sentence"].startswith("Whether anil is better than maml is not clear: ")
    assert "for 3 comparisons" in among[0]["sentence"]
    assert "As the only comparison it would be clear" in among[0]["sentence"]


def test_what_is_clear_for_these_classes_may_not_be_for_others(tmp_path: Path) -> None:
    easy = [e % 9 == 0 or (e + 1 + e // 9) % 9 == 0 for e in range(300)]
    scores = [0.9 if own else 0.5 for own in easy]
    mine = sides(tmp_path, "maml", [scores])
    (one,) = compare([*mine, *sides(tmp_path, "anil", [[0.5] * 300])])["comparisons"]
    assert one["verdict"] == "better"
    assert one["gain_interval_classes"] > one["gain"]
    assert one["sentence"].endswith("Whether that holds for other test classes is not clear.")


def test_without_batch_statistics_a_score_goes_with_each_protocol(tmp_path: Path) -> None:
    both = {"transductive": SCORES, "inductive": higher(-0.1)}
    mine: Any = sides(tmp_path, "maml", [both])  # type: ignore[list-item]
    found = compare([*mine, *sides(tmp_path, "anil", [SCORES])])["comparisons"]
    assert [(one["normalisation"], one["verdict"], one["comparisons"]) for one in found] == [
        ("transductive", "same", 1),
        ("inductive", "worse", 1),
    ]


def test_sides_without_a_common_protocol_are_refused(tmp_path: Path) -> None:
    mine: Any = sides(tmp_path, "maml", [{"transductive": SCORES}])  # type: ignore[list-item]
    theirs: Any = sides(tmp_path, "anil", [{"inductive": SCORES}])  # type: ignore[list-item]
    with pytest.raises(
        UserError, match="maml is scored as transductive, anil as inductive; evaluate both with the same"
    ):
        compare([*mine, *theirs])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fact": {"name": "test/mse"}}, "on different metrics .*: a has test/accuracy, b has test/mse"),
        ({"data": DATA | {"fingerprint": "e" * 64}}, "on different data .*: a has gaussian .* b has gaussian"),
        ({"fact": {"way": 5}}, "on episodes of different size .* 2-way 1-shot with .* 5-way 1-shot"),
        ({"fact": {"varying": {"way": [5, 9]}}}, "on episodes of different size"),
        ({"episodes_hash": "b" * 64}, "on different episodes .* hash aaaaaaaaaaaa, .* other seeds, b has"),
        ({"episodes_hash": None}, "b is of an earlier version and has no hash of its episodes; evaluate again"),
        ({"status": "failed", "results": None}, "b has no scores, it is failed; type its command again"),
    ],
)
def test_runs_of_other_episodes_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    runs = [evaluation(tmp_path, "a", SCORES), evaluation(tmp_path, "b", SCORES, **changes)]
    with pytest.raises(UserError, match=told):
        compare(runs)


def test_one_run_or_one_side_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    runs = sides(tmp_path, "maml", [SCORES] * 3)
    with pytest.raises(UserError, match="one run has nothing to be compared with"):
        compare(runs[:1])
    with pytest.raises(UserError, match="all 3 runs have the same settings but the seed, so that they are one side"):
        compare(runs)
    assert compare(runs[:2])["comparisons"][0]["verdict"] == "same"  # two runs are two sides


def test_sides_without_a_common_seed_are_refused(tmp_path: Path) -> None:
    runs = [*sides(tmp_path, "maml", [SCORES] * 2), *sides(tmp_path, "anil", [SCORES] * 2, first=2)]
    with pytest.raises(UserError, match="no seed is in both: maml has 0, 1, anil has 2, 3"):
        compare(runs)


def drawn(source: torch.Generator, seeds: int, effect: float) -> Tensor:
    """Return scores [S, E] of a learner with strong episodes of its own, seeds that differ, and chance."""
    own = 0.02 * torch.randn(1, 200, generator=source)
    trained = 0.01 * torch.randn(seeds, 1, generator=source)
    return effect + own + trained + 0.05 * torch.randn(seeds, 200, generator=source)


def simulated(times: int) -> dict[str, float]:
    """Return how often an interval held the true difference, and how often equal learners seemed to differ."""
    source = torch.Generator().manual_seed(0)
    held: dict[str, float] = {}
    result = {"name": "test/accuracy", "learner": "x"}
    for seeds in (1, 3, 5):
        for _ in range(times):
            common = 0.1 * torch.randn(1, 200, generator=source)  # some episodes are hard for all learners
            own = [common + drawn(source, seeds, effect) for effect in (0.02, 0.0, 0.0)]
            made = [
                Side(
                    str(n),
                    {str(s): {"id": "x", "results": [result], "episodes_hash": ""} for s in range(seeds)},
                    {str(s): Scores({"none": row}, [()] * 200) for s, row in enumerate(scores)},
                )
                for n, scores in enumerate(own)
            ]
            pairs = [Pair(made[0], made[1]), Pair(made[0], made[2]), Pair(made[1], made[2])]
            first, _, last = compared(made, pairs)["comparisons"]
            for name, event in (
                ("held", abs(first["gain"] - 0.02) < first["half_width"]),
                ("wrong alone", last["p"] < 0.05),
                ("wrong among three", last["p_adjusted"] < 0.05),
            ):
                held[f"{name}, {seeds} seeds"] = held.get(f"{name}, {seeds} seeds", 0) + event / times
    return held


@pytest.mark.slow
def test_coverage_of_differences() -> None:
    """The interval over trainings holds the difference as often as it says; that over episodes only does not."""
    found, slack = simulated(1000), 0.035
    print({name: f"{100 * share:.1f} %" for name, share in found.items()})
    for seeds in (3, 5):
        assert abs(found[f"held, {seeds} seeds"] - 0.95) < slack, found
        assert found[f"wrong alone, {seeds} seeds"] < 0.05 + slack, found
        assert found[f"wrong among three, {seeds} seeds"] <= found[f"wrong alone, {seeds} seeds"]
    assert found["held, 1 seeds"] < 0.75, found

"""Scores of episodes: written, read, and their mean over episodes, classes or groups, and trainings."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from metalearn_cli.core.errors import UserError
from metalearn_cli.engine.evaluation import Outcomes
from metalearn_cli.records.intervals import over_classes, over_episodes, over_trainings
from metalearn_cli.stages.scores import CLASSES, FILE, Scores, check_scores, mean_of, scores_of_classes, worst_decile

SCORES = torch.rand(2, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def names(groups: int) -> list[tuple[str, ...]]:
    """Return the classes of 60 episodes, three of 4 * groups classes each."""
    return [tuple(f"g{k % groups}/c{k % (4 * groups)}" for k in (e, e + 1, e + 5)) for e in range(60)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    classes = [("a/1", 'b, "x"'), ("c;d", "e")] * 30
    Scores({"transductive": SCORES[0], "inductive": SCORES[1]}, classes).write(tmp_path)
    read = Scores.read(tmp_path, 60)
    assert list(read.protocols) == ["transductive", "inductive"]
    for score, protocol in zip(SCORES, read.protocols, strict=True):
        assert torch.equal(read.protocols[protocol], score)
    assert read.classes == [("a/1", 'b, "x"'), ("c,d", "e")] * 30
    assert (tmp_path / FILE).read_text().splitlines()[0] == "episode,transductive,inductive,classes"


def test_regression_has_no_classes(tmp_path: Path) -> None:
    Scores({"none": SCORES[0]}, [()] * 60).write(tmp_path)
    assert Scores.read(tmp_path, 60).classes == [()] * 60
    found = mean_of(SCORES[:1], [()] * 60)
    assert found["interval_classes"] is None
    assert found["over"] == {"episodes": 60, "trainings": 1}


@pytest.mark.parametrize(("groups", "over"), [(9, {"classes": 36}), (10, {"groups": 10})])
def test_an_interval_is_over_groups_where_there_are_enough(groups: int, over: dict[str, int]) -> None:
    found = mean_of(SCORES[:1], names(groups))
    assert found["over"] == {"episodes": 60, **over, "trainings": 1}
    units = names(groups) if groups < 10 else [tuple(n.split("/")[0] for n in row) for row in names(groups)]
    assert found["interval_classes"] == over_classes(SCORES[0], units)


def test_several_trainings_are_averaged_by_episode() -> None:
    three = torch.cat([SCORES, SCORES[:1] / 2])
    found = mean_of(three, names(9))
    assert found["value"] == pytest.approx(three.mean().item())
    assert found["interval"] == over_episodes(three.mean(0))
    assert found["interval_classes"] == over_classes(three.mean(0), names(9))
    assert found["interval_trainings"] == over_trainings(three)
    for few in (SCORES[:1], SCORES):  # two may be alike by chance
        assert mean_of(few, names(9))["interval_trainings"] is None


@pytest.mark.parametrize(
    "text", [None, "", "episode,none,classes\n0,0.5,a;b\n", "episode,none,classes\n" + "0,x,a\n" * 60]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=r"episodes\.csv is missing or damaged"):
        Scores.read(tmp_path, 60)


@pytest.mark.parametrize(("mean", "fits"), [(0.5, True), (0.6, False), (None, False)])
def test_scores_are_those_of_the_results(tmp_path: Path, mean: float | None, fits: bool) -> None:
    scores = torch.full((4,), 0.5)
    info = {"folder": str(tmp_path), "results": [{"normalisation": "none", "value": mean}]}
    Scores({"none": scores}, [("a",)] * 4).write(tmp_path)
    with nullcontext() if fits else pytest.raises(UserError, match="does not have the scores"):
        check_scores(info, 4)
    for results in ([], [{"normalisation": "inductive", "value": 0.5}], None):
        with pytest.raises(UserError, match="does not have the scores"):
            check_scores(info | {"results": results}, 4)


def test_scores_that_are_not_finite_are_those_of_a_result_without_a_value(tmp_path: Path) -> None:
    Scores({"none": torch.tensor([1.0, math.nan])}, [()] * 2).write(tmp_path)
    check_scores({"folder": str(tmp_path), "results": [{"normalisation": "none", "value": None}]}, 2)


def outcomes(by_class: list[list[float]]) -> Outcomes:
    values = tuple(map(torch.tensor, by_class))
    queries = torch.tensor([4 * len(own) for own in values])
    return Outcomes(torch.stack([own.mean() for own in values]), queries, values, (), ())


def test_the_score_of_a_class_is_over_all_its_queries(tmp_path: Path) -> None:
    classes = [("g/a", "g/b"), ("g/b", "g/c"), ("g/c", "g/b")]
    found = scores_of_classes(outcomes([[1.0, 0.5], [0.25, 0.75], [0.25, 0.0]]), classes, higher_is_better=True)
    assert [(own.name, own.value, own.episodes, own.queries) for own in found] == [
        ("g/b", 0.25, 3, 12),
        ("g/c", 0.5, 2, 8),
        ("g/a", 1.0, 1, 4),
    ]
    assert found[0].interval == over_episodes(torch.tensor([0.5, 0.25, 0.0]))
    assert found[2].interval is None
    Scores({"none": SCORES[0]}, classes, by_class={"none": found}).write_classes(tmp_path, "accuracy")
    header, first, *_, last = (tmp_path / CLASSES).read_text().splitlines()
    assert header == "normalisation,class,group,episodes,queries,accuracy,half_width"
    assert first.startswith("none,g/b,g,3,12,0.25,0.62")
    assert last == "none,g/a,g,1,4,1.0,"


def test_the_hardest_task_has_the_largest_error(tmp_path: Path) -> None:
    found = scores_of_classes(outcomes([[1.0], [4.0], [2.0]]), [("a",), ("b",), ("a",)], higher_is_better=False)
    assert [(own.name, own.value) for own in found] == [("b", 4.0), ("a", 1.5)]
    generated = scores_of_classes(outcomes([[1.0]]), [()], higher_is_better=False)
    assert generated == []
    Scores({"none": SCORES[0]}, [()] * 60, by_class={"none": generated}).write_classes(tmp_path, "mse")
    assert not (tmp_path / CLASSES).exists()


def test_the_worst_decile_is_that_of_low_accuracies_or_of_high_errors() -> None:
    scores = torch.arange(25.0).flip(0)[None]  # a tenth of 25 episodes is three of them
    assert worst_decile(scores, higher_is_better=True) == 1.0
    assert worst_decile(scores, higher_is_better=False) == 23.0
    two = torch.cat([scores, scores + 1])
    assert worst_decile(two, higher_is_better=True) == 1.5


def test_intervals_of_folds_do_not_contain_the_differences_between_folds():
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = [(f"c{e % 8}", f"c{(e + 1) % 8}") for e in range(40)]
    other = [tuple(f"other {name}" for name in episode) for episode in classes]
    same = mean_of(torch.cat([scores, scores], 1), [*classes, *other], folds=2)
    apart = mean_of(torch.cat([scores, scores + 9], 1), [*classes, *other], folds=2)
    assert apart.pop("value") == pytest.approx(same.pop("value") + 4.5)
    assert apart.pop("over") == same.pop("over") == {"episodes": 80, "classes": 16, "trainings": 3}
    assert apart == pytest.approx(same)

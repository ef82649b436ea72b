"""Scores of episodes: written, read, and their mean over episodes, classes or groups, and trainings."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from metalearn_cli.core.errors import UserError
from metalearn_cli.records.intervals import over_classes, over_episodes, over_trainings
from metalearn_cli.stages.scores import FILE, Scores, check_scores, mean_of

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


def test_intervals_of_folds_do_not_contain_the_differences_between_folds():
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = [(f"c{e % 8}", f"c{(e + 1) % 8}") for e in range(40)]
    other = [tuple(f"other {name}" for name in episode) for episode in classes]
    same = mean_of(torch.cat([scores, scores], 1), [*classes, *other], folds=2)
    apart = mean_of(torch.cat([scores, scores + 9], 1), [*classes, *other], folds=2)
    assert apart.pop("value") == pytest.approx(same.pop("value") + 4.5)
    assert apart.pop("over") == same.pop("over") == {"episodes": 80, "classes": 16, "trainings": 3}
    assert apart == pytest.approx(same)

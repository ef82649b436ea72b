from __future__ import annotations

from metalearn_cli.records.selected import chosen, in_words


def test_the_chosen_values_are_those_of_the_chosen_row() -> None:
    rows = [{"values": {"algorithm.lr": lr}, "chosen": lr == 1} for lr in (0.1, 1)]
    assert chosen({"selected": rows}) == {"algorithm.lr": 1}
    assert chosen({}) == chosen({"selected": None}) == {}


def test_values_are_named_by_setting_each_once() -> None:
    found = [{"algorithm.lr": 1, "algorithm.steps": 2}, {"algorithm.lr": 0.1, "algorithm.steps": 2}, {}]
    assert in_words(found) == "lr=1 or 0.1, steps=2"
    assert in_words([{}, {}]) == ""

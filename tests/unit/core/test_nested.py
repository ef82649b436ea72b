from __future__ import annotations

from metalearn_cli.core.nested import leaves


def test_every_value_has_its_dotted_key_and_an_empty_group_is_a_value() -> None:
    values = {"a": {"b": {"c": 1}, "d": [2]}, "e": {}, "f": None}
    assert list(leaves(values)) == [("a.b.c", 1), ("a.d", [2]), ("e", {}), ("f", None)]
    assert list(leaves({"a": 1}, "of.")) == [("of.a", 1)]
